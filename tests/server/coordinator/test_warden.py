"""The warden by itself, before an application that tells what reached it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node

from clients.runtime.trouble import status_problem
from server.coordinator import bodies, refusals, secret, warden
from server.coordinator.folder import Coordinator
from server.coordinator.gateway import FLEET
from server.coordinator.launcher import HEADER
from server.coordinator.setup import init
from server.coordinator.warden import Warden
from tests.server.coordinator.test_known import approve, signed

KEY = ec.generate_private_key(ec.SECP384R1())
GONE = ec.generate_private_key(ec.SECP384R1())
STRANGER = ec.generate_private_key(ec.SECP384R1())


class Place:
    """A warden, and what it lets through."""

    def __init__(self, root: Path) -> None:
        self.coordinator: Coordinator = init(root / "c", "study", "h:1")
        approve(self.coordinator.path, a=(KEY, False), gone=(GONE, True))
        self.own = self.coordinator.control_secret.read_text()
        self.gateway = self.coordinator.sites_secret.read_text()
        self.passed: list[tuple[str, bytes]] = []
        self.read = 0
        self.warden = Warden(self._app, self.coordinator)

    async def _app(self, scope: Any, receive: bodies.Receive, send: warden.Send) -> None:
        message = await receive()
        self.passed.append((scope["path"], message["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def ask(
        self,
        path: str,
        *headers: tuple[str, str],
        body: bytes = b"",
        method: str = "POST",
        **scope: Any,
    ) -> int:
        """Return the status of an answer."""
        return self.answer(path, *headers, body=body, method=method, **scope)[0]

    def answer(
        self,
        path: str,
        *headers: tuple[str, str],
        body: bytes = b"",
        method: str = "POST",
        **scope: Any,
    ) -> tuple[int, bytes]:
        sent: list[Mapping[str, Any]] = []

        async def receive() -> Any:
            self.read += 1
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)

        given = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            **scope,
        }
        asyncio.run(self.warden(given, receive, send))
        if sent[0]["status"] != 200:
            assert (b"connection", b"close") in sent[0]["headers"]
        return sent[0]["status"], sent[1]["body"]

    def site(self, key: ec.EllipticCurvePrivateKey = KEY, length: int = 0) -> list[tuple[str, str]]:
        """Return the headers of a site's request as the gateway hands it on."""
        mine = list(signed(key).items())
        return [(HEADER, self.gateway), ("content-length", str(length)), *mine]

    @property
    def refused(self) -> dict[str, dict[str, int]]:
        return refusals.read(self.coordinator.refusals)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


EVERYTHING = ("/v1/control/start-run", "/v1/runtime/pull-task-input", "/health", "/docs", "/")


@pytest.mark.parametrize("path", [*EVERYTHING, "/v1/fleet/pull-messages"])
def test_without_the_secret_nothing_is_read_or_answered(place: Place, path: str) -> None:
    shown = [
        [],
        [(HEADER, "")],
        [(HEADER, "0" * 64)],
        [(HEADER, place.own[:-1])],
        [(HEADER, place.own), (HEADER, place.own)],
        [(HEADER, place.own), (HEADER, place.gateway)],
        [(HEADER.replace("-", "_"), place.own)],
    ]
    for headers in shown:
        status, said = place.answer(path, *headers, body=b"x")
        assert status == 403 and place.own.encode() not in said
    assert place.read == 0 and place.passed == []


def test_the_own_secret_opens_everything(place: Place) -> None:
    for path in EVERYTHING:
        assert place.ask(path, (HEADER, place.own), body=b"b") == 200
    assert [path for path, _ in place.passed] == list(EVERYTHING)


@pytest.mark.parametrize(
    "path",
    [
        *EVERYTHING,
        "/v1/fleet/register-node",
        "/v1/fleet/",
        "/v1/fleet",
        "//v1/fleet/get-fab",
        "/v1/fleet//get-fab",
        "/v1/fleet/get-fab/",
        "/v1/fleet/../control/list-runs",
        "/V1/fleet/get-fab",
    ],
)
def test_the_gateways_secret_opens_the_ten_paths_only(place: Place, path: str) -> None:
    assert place.ask(path, *place.site(), body=b"") == 403
    assert place.read == 0


def test_a_path_of_sites_is_written_one_way_and_asked_by_post(place: Place) -> None:
    path = "/v1/fleet/get-fab"
    assert place.ask(path, *place.site()) == 200
    for method in ("GET", "HEAD", "PUT", "OPTIONS", "post"):
        assert place.ask(path, *place.site(), method=method) == 403
    assert place.ask(path, *place.site(), raw_path=b"/v1/fleet/get%2dfab") == 403
    assert place.ask(path, *place.site(), query_string=b"a=b") == 403
    assert len(place.passed) == 1


def test_a_websocket_is_closed(place: Place) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "headers": [(HEADER.encode(), place.own.encode())]}
    asyncio.run(place.warden(scope, send, send))
    assert [one["type"] for one in sent] == ["websocket.close"]


@pytest.mark.parametrize("path", FLEET)
def test_a_stranger_hears_what_flower_says_and_nothing_is_read(place: Place, path: str) -> None:
    for key in (STRANGER, GONE):
        status, said = place.answer(f"/v1/fleet/{path}", *place.site(key, 10**8), body=b"x")
        if path == "activate-node":
            assert status == 412 and set(json.loads(said)) == {"code", "detail"}
        else:
            assert status == 401
    assert place.ask(f"/v1/fleet/{path}", (HEADER, place.gateway), ("content-length", "1")) == 401
    assert place.read == 0 and place.passed == []
    # Who is known is named, also when nothing is let through any more.
    assert place.refused == {"gone": {f"{path} revoked": 1}}


def test_a_site_is_told_the_right_mend(place: Place) -> None:
    def told(path: str, key: ec.EllipticCurvePrivateKey) -> str:
        status, said = place.answer(f"/v1/fleet/{path}", *place.site(key))
        request = httpx.Request("POST", "https://h")
        error = httpx.HTTPStatusError(
            "x", request=request, response=httpx.Response(status, content=said, request=request)
        )
        return str(status_problem(error, "h:1"))

    assert "is not approved (send request.json" in told("activate-node", STRANGER)
    assert "or was revoked" in told("activate-node", GONE)
    assert "the key was revoked" in told("pull-messages", GONE)


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        ("push-object", bodies.PART_BYTES, 200),
        ("push-object", bodies.PART_BYTES + 1, 413),
        ("push-messages", 4096, 200),
        ("push-messages", 100_000, 413),
        *((path, 4096, 200) for path in FLEET if not path.startswith("push")),
        *((path, 4097, 413) for path in FLEET if not path.startswith("push")),
    ],
)
def test_each_path_has_its_longest_body(place: Place, path: str, length: int, status: int) -> None:
    assert place.ask(f"/v1/fleet/{path}", *place.site(length=length)) == status
    assert place.read == (1 if status == 200 else 0)
    expected = {} if status == 200 else {"a": {f"{path} too-long": 1}}
    assert place.refused == expected


@pytest.mark.parametrize("path", ["/v1/fedlite/released", "/v1/fedlite/released-part"])
def test_released_bundles_are_for_approved_sites_and_no_business_of_flowers(
    place: Place, path: str
) -> None:
    sha256 = "ab" * 32
    folder = place.coordinator.releases / sha256
    folder.mkdir(parents=True)
    (folder.parent / "announced.json").write_bytes(b"signed")
    (folder / "stem.onnx").write_bytes(b"graph")
    body = json.dumps([sha256, "stem.onnx", 1]).encode()
    said = {"released": b"signed", "released-part": b"raph"}[path.rpartition("/")[2]]
    mine = place.site(length=len(body))
    assert place.answer(path, *mine, body=body) == (200, said)
    for key, status in ((STRANGER, 401), (GONE, 401)):
        assert place.ask(path, *place.site(key, len(body)), body=body) == status
    unsigned = [one for one in mine if one[0] != "flwr-signature"]
    assert place.ask(path, *unsigned, body=body) == 401
    assert place.ask(path, *mine, body=body, method="GET") == 403
    assert place.ask(path + "/..", *mine, body=body) == 403
    assert place.ask(path, *place.site(length=4097), body=body) == 413
    assert place.passed == []


@pytest.mark.parametrize("length", ["", "-1", "+1", "1e3", "\u0663", "1, 1", "0x10"])
def test_a_length_is_digits_or_nothing_is_read(place: Place, length: str) -> None:
    headers = [one for one in place.site() if one[0] != "content-length"]
    assert place.ask("/v1/fleet/push-object", *headers, ("content-length", length)) == 411
    assert place.ask("/v1/fleet/push-object", *headers) == 411  # as a chunked body has it
    twice = [("content-length", "1"), ("content-length", "1")]
    assert place.ask("/v1/fleet/push-object", *headers, *twice) == 411
    assert place.read == 0


def test_a_header_that_comes_twice_is_no_signature(place: Place) -> None:
    for name in ("flwr-public-key", "flwr-timestamp", "flwr-signature"):
        headers = place.site()
        headers.append(next(one for one in headers if one[0] == name))
        assert place.ask("/v1/fleet/get-run", *headers) == 401


def test_an_announcement_of_too_many_parts_stays_outside(place: Place) -> None:
    def announced(parts: int) -> int:
        # Names as short as can be: more of them fit below the bound on bytes.
        children = [ObjectTree(object_id="a")] * (parts - 1)
        tree = ObjectTree(object_id="a", children=children)
        body = PushMessagesRequest(message_object_trees=[tree]).SerializeToString()
        assert len(body) < 4096
        headers = place.site(length=len(body))
        return place.ask("/v1/fleet/push-messages", *headers, body=body)

    most = bodies.parts(place.coordinator.settings.message_bytes)
    assert announced(most) == 200
    assert announced(most + 1) == announced(600) == 413
    assert len(place.passed) == 1


def test_what_is_no_reply_of_ones_own_stays_outside_and_is_named(place: Place) -> None:
    request = PushMessagesRequest(node=Node(node_id=5))
    request.messages_list.add().metadata.src_node_id = 1
    body = request.SerializeToString()
    assert place.ask("/v1/fleet/push-messages", *place.site(length=len(body)), body=body) == 403
    assert place.refused == {"a": {"push-messages not-its-reply": 1}} and place.passed == []


def test_a_body_that_trickles_in_is_given_up_and_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_PATIENCE", 0.05)
    monkeypatch.setattr(bodies, "_SLOWEST", 1e9)

    async def slowly() -> int:
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(0.02)
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/fleet/push-object",
            "raw_path": b"/v1/fleet/push-object",
            "query_string": b"",
            "headers": [(k.encode(), v.encode()) for k, v in place.site(length=5_000_000)],
        }
        await place.warden(scope, receive, send)
        status: int = sent[0]["status"]
        return status

    assert asyncio.run(slowly()) == 408
    assert place.refused == {"a": {"push-object too-slow": 1}} and place.passed == []


def test_without_secrets_there_is_no_warden(place: Place) -> None:
    place.coordinator.control_secret.write_text("")
    with pytest.raises(ValueError, match="must hold 64 hex digits"):
        secret.read(place.coordinator.control_secret)
    with pytest.raises(ValueError, match="64 hex digits"):
        Warden(place._app, place.coordinator)
    place.coordinator.control_secret.chmod(0o644)
    with pytest.raises(ValueError, match="mode 0600"):
        Warden(place._app, place.coordinator)
