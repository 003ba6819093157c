"""A site's connection against a coordinator that is hostile: nothing is held beyond known limits.

Covers clients/runtime/line.py, clients/runtime/trouble.py.
"""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.serde import message_from_proto
from flwr.proto.fab_pb2 import Fab, GetFabResponse
from flwr.proto.fleet_pb2 import (
    ActivateNodeResponse,
    PullMessagesResponse,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import (
    Message as MessageProto,
    Metadata as MetadataProto,
    ObjectTree,
    PullObjectResponse,
    PushObjectResponse,
)
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from clients.runtime import line
from clients.runtime.fleet import Fleet, Incoming, Refused, RunOver, TooLarge, Unreachable
from fedlite import flower
from fedlite.deployment.protocol import Release
from tests.clients.runtime.coordinators import Coordinator, Send, coordinator, listening, ok, peak
from tests.clients.runtime.test_doctor import Authority, gateway

KEY = ec.generate_private_key(ec.SECP384R1())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same limits, for people who do not want to wait a minute."""
    monkeypatch.setattr(line, "SECONDS", 1.0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ca")


@pytest.fixture
def hostile(authority: Authority) -> Iterator[Coordinator]:
    with coordinator(authority.server()) as made:
        yield made


@pytest.fixture
def site(authority: Authority, hostile: Coordinator) -> Iterator[Fleet]:
    made = Fleet(f"127.0.0.1:{hostile.port}", authority.pem.encode(), KEY)
    try:
        yield made
    finally:
        made.close()


def stub() -> MessageProto:
    metadata = MetadataProto(
        run_id=1, message_id="a", dst_node_id=2, ttl=60.0, message_type="train", created_at=1.0
    )
    return MessageProto(metadata=metadata, content=RecordDictProto())


def announce(*trees: ObjectTree) -> bytes:
    """Return the answer that announces a message for each tree."""
    told = PullMessagesResponse(
        messages_list=[stub() for _ in trees], message_object_trees=list(trees)
    )
    data: bytes = told.SerializeToString()
    return data


def incoming(tree: ObjectTree) -> Incoming:
    return Incoming(message_from_proto(stub()), tree)


CALLS: dict[str, Callable[[Fleet], Any]] = {
    "activate-node": lambda site: site.activate(),
    "pull-messages": lambda site: site.receive(),
    "get-run": lambda site: site.run_config(1),
    "get-fab": lambda site: site.bundle("ab", 1),
    "pull-object": lambda site: site.content(incoming(ObjectTree(object_id="ab" * 32)), 1000),
}


def refused(site: Fleet, call: str, most: float = 30.0) -> str:
    """Make the call, which must fail for an operator to read; return its text."""
    started = time.monotonic()
    with (
        peak() as grown,
        pytest.raises((Unreachable, Refused, TooLarge, RunOver)) as caught,
    ):
        CALLS[call](site)
    assert grown() < most
    assert time.monotonic() - started < 5
    return str(caught.value)


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_unpacked(hostile: Coordinator, site: Fleet, call: str) -> None:
    bomb = gzip.compress(gzip.compress(bytes(200 << 20)))
    packed = ok(bomb, "Content-Encoding: gzip, gzip", "Content-Type: application/protobuf")
    hostile.answers[call] = lambda send: send(packed)
    assert "packed ('gzip, gzip')" in refused(site, call)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("chunked", [False, True])
def test_no_answer_is_longer_than_what_was_asked_for_can_be(
    hostile: Coordinator, site: Fleet, call: str, chunked: bool
) -> None:
    sent = 0

    def endless(send: Send) -> None:
        nonlocal sent
        if chunked:
            send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        else:
            send(b"HTTP/1.1 200 OK\r\n\r\n")  # until the connection ends
        for _ in range(400):
            send((b"100000\r\n" if chunked else b"") + bytes(1 << 20) + b"\r\n" * chunked)
            sent += 1

    hostile.answers[call] = endless
    assert "more than" in refused(site, call)
    assert sent < 30


def test_a_length_that_is_told_is_believed(hostile: Coordinator, site: Fleet) -> None:
    hostile.answers["get-fab"] = lambda send: send(
        b"HTTP/1.1 200 OK\r\nContent-Length: 800000000\r\n\r\n" + bytes(1000)
    )
    assert "800000000 bytes, where at most 4010000 are taken" in refused(site, "get-fab")


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
)
def test_who_answers_byte_by_byte_holds_nobody(
    hostile: Coordinator, site: Fleet, call: str, first: bytes, then: bytes
) -> None:
    def slowly(send: Send) -> None:
        send(first)
        for _ in range(150):
            send(then)
            time.sleep(0.1)

    hostile.answers[call] = slowly
    started = time.monotonic()
    assert "too slow" in refused(site, call)
    assert time.monotonic() - started < 3


def test_an_answer_sends_nobody_elsewhere(
    hostile: Coordinator, site: Fleet, authority: Authority
) -> None:
    inside: list[str] = []
    with gateway(None) as port, coordinator(authority.server()) as other:
        for address in (f"http://127.0.0.1:{port}/", f"https://127.0.0.1:{other.port}/"):
            for status in (302, 307, 308):
                # Whole, so that the next question does not find the connection ended.
                hostile.answers["pull-messages"] = (
                    f"HTTP/1.1 {status} Found\r\nLocation: {address}\r\nContent-Length: 0\r\n\r\n"
                ).encode()
                assert f"HTTP {status}" in refused(site, "pull-messages")
        assert other.asked == inside == []


def test_no_answer_is_kept_beside_what_it_says(hostile: Coordinator, site: Fleet) -> None:
    cookies = [f"Set-Cookie: c{n}={'x' * 1000}; Path=/" for n in range(50)]
    hostile.answers["pull-messages"] = ok(b"", *cookies)
    assert site.receive() is None
    assert not site._client._client.cookies


@pytest.mark.parametrize("codec", ["bz2", "zlib", "utf-7", "none-such"])
def test_the_text_of_an_error_is_not_decoded_as_it_asks(
    hostile: Coordinator, site: Fleet, codec: str
) -> None:
    import bz2
    import zlib

    text = {"bz2": bz2, "zlib": zlib}.get(codec, bz2).compress(bytes(30 << 20))[:15_000]
    kind = f"Content-Type: text/plain; charset={codec}"
    hostile.answers["pull-messages"] = ok(text, kind).replace(b"200 OK", b"500 No")
    assert "answers with HTTP 500" in refused(site, "pull-messages")


@pytest.mark.parametrize("body", [b"[" * 15_000, b'{"code":' * 2000, b"\xff" * 100, b"null"])
def test_an_error_of_any_form_is_one(hostile: Coordinator, site: Fleet, body: bytes) -> None:
    for call in CALLS:
        hostile.answers[call] = ok(body).replace(b"200 OK", b"500 No")
        assert "answers with HTTP 500" in refused(site, call)


def test_no_answer_ends_the_site_s_process(hostile: Coordinator, site: Fleet) -> None:
    told = {"code": ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE, "detail": "go away"}
    hostile.answers["pull-messages"] = ok(json.dumps(told).encode()).replace(b"200 OK", b"400 No")
    assert "its Flower and the one here do not work together" in refused(site, "pull-messages")


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a\xff",
        announce(ObjectTree(), ObjectTree()),
        PullMessagesResponse(messages_list=[stub()]).SerializeToString(),
        PullMessagesResponse(
            messages_list=[MessageProto()], message_object_trees=[ObjectTree()]
        ).SerializeToString(),
    ],
)
def test_an_announcement_of_any_form_is_one_message(
    hostile: Coordinator, site: Fleet, body: bytes
) -> None:
    hostile.answers["pull-messages"] = body
    assert "not as Flower does" in refused(site, "pull-messages")


@pytest.mark.long
def test_a_tree_of_a_million_parts_is_not_taken(hostile: Coordinator, site: Fleet) -> None:
    leaf = ObjectTree(object_id="ab" * 32)
    tree = ok(announce(ObjectTree(object_id="cd" * 32, children=[leaf] * 1_000_000)))
    hostile.answers["pull-messages"] = lambda send: send(tree)
    assert "bytes, where at most 1000000 are taken" in refused(site, "pull-messages")
    # As many as fit.
    hostile.answers["pull-messages"] = announce(
        ObjectTree(object_id="cd" * 32, children=[ObjectTree()] * 490_000)
    )
    hostile.answers["pull-object"] = PullObjectResponse(
        object_found=True, object_available=True, object_content=b"Message ab 0\0"
    ).SerializeToString()
    with peak() as grown:
        found = site.receive()
        assert found is not None
        with pytest.raises(TooLarge, match="no coordinator sends"):
            site.content(found, 10**9)
        assert grown() < 150
    assert sum("pull-object" in line for line in hostile.asked) == 1


@pytest.mark.long
def test_a_part_is_not_waited_for_longer_than_a_message_may_take(
    hostile: Coordinator, site: Fleet
) -> None:
    hostile.answers["pull-object"] = PullObjectResponse(object_found=True).SerializeToString()
    assert "too slowly to be whole" in refused(site, "pull-object")


def test_a_reply_that_nobody_reads_holds_nobody(
    hostile: Coordinator, site: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads a little now and then, so that no single step is too slow."""
    flower.identify(1, 2)
    reply = flower.answer(bytes(3 << 20), message_from_proto(stub()))
    monkeypatch.setattr(line, "RATE", 10_000_000)
    monkeypatch.setattr(hostile, "pause", 0.05)
    hostile.answers["push-messages"] = PushMessagesResponse(
        objects_to_push=list(get_all_nested_objects(reply)), session_id="s"
    ).SerializeToString()
    hostile.answers["push-object"] = PushObjectResponse(stored=True).SerializeToString()
    started = time.monotonic()
    with pytest.raises(Unreachable, match="too slow"):
        site.push(reply)
    assert time.monotonic() - started < 6


@pytest.mark.long
def test_an_honest_coordinator_may_take_its_time(hostile: Coordinator, site: Fleet) -> None:
    bundle = bytes(range(250)) * 400

    def steadily(send: Send) -> None:
        body = GetFabResponse(fab=Fab(content=bundle)).SerializeToString()
        send(ok(body)[: -len(body)])
        for begin in range(0, len(body), 5000):
            send(body[begin : begin + 5000])
            time.sleep(0.1)

    hostile.answers["get-fab"] = steadily
    started = time.monotonic()
    assert site.bundle("ab", 1) == bundle
    assert time.monotonic() - started > line.SECONDS


def test_both_sides_say_what_they_run(hostile: Coordinator, site: Fleet) -> None:
    hostile.answers["pull-messages"] = ok(b"")
    assert site.receive() is None and site.release is None
    hostile.answers["pull-messages"] = ok(b"", "Fedlite: 0.2.0 1-2")
    assert site.receive() is None and site.release == Release("0.2.0", "1-2")
    # What cannot be read, or is not said any more, changes nothing.
    hostile.answers["pull-messages"] = ok(b"", f"Fedlite: {'9' * 5000}")
    assert site.receive() is None and site.release == Release("0.2.0", "1-2")
    # The coordinator is upgraded beneath the site.
    hostile.answers["pull-messages"] = ok(b"", "Fedlite: 0.9.0 2-3")
    assert "speaks 2-3" in refused(site, "pull-messages")


def test_who_speaks_another_protocol_is_left_at_once(hostile: Coordinator, site: Fleet) -> None:
    """Or Flower would not let the site in again before its heartbeats are forgotten."""
    answer = ActivateNodeResponse(node_id=7).SerializeToString()
    hostile.answers["activate-node"] = ok(answer, "Fedlite: 0.9.0 2-3")
    text = refused(site, "activate-node")
    assert "fedlite 0.9.0 there speaks 2-3" in text and "upgrade fedlite here" in text
    assert [line.split()[1].rpartition("/")[2] for line in hostile.asked] == [
        "activate-node",
        "deactivate-node",
    ]
    hostile.answers["activate-node"] = ok(answer, "Fedlite: 0.9.1 1-3")
    assert site.activate() == 7


@pytest.mark.long
@pytest.mark.parametrize(
    "forever",
    [
        b"x: " + b"y" * 65_000 + b"\r\n",
        b"x: y\r\n" * 10_000,
        b"y" * 65_000,
        b"HTTP/1.1 103 Early Hints\r\nx: " + b"y" * 60_000 + b"\r\n\r\n",
    ],
)
def test_a_head_has_an_end(hostile: Coordinator, site: Fleet, forever: bytes) -> None:
    sent = 0

    def endless(send: Send) -> None:
        nonlocal sent
        send(b"" if forever.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n")
        for _ in range(3000):
            send(forever)
            sent += len(forever)

    for call in ("pull-messages", "get-fab"):
        hostile.answers[call] = endless
        refused(site, call)


@pytest.mark.parametrize("kind", [b"\x16\x03\x03\x40\x00", b"\x15\x03\x03\x00\x02"])
def test_a_handshake_byte_by_byte_holds_nobody(authority: Authority, kind: bytes) -> None:
    def slowly(plain: socket.socket) -> None:
        for byte in kind + bytes(100):
            plain.sendall(bytes([byte]))
            time.sleep(0.1)

    with listening(slowly, "127.0.0.1") as port:
        site = Fleet(f"127.0.0.1:{port}", authority.pem.encode(), KEY)
        refused(site, "pull-messages")
        site.close()
