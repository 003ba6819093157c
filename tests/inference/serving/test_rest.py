"""JSON over HTTP gets the answers that gRPC and `predict` get, by the same rules, and no more."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite.inference.bundle import Bundle
from fedlite.inference.serving import rest, tokens
from fedlite.inference.serving.batcher import Limits
from fedlite.inference.serving.doors import Door
from fedlite.inference.serving.refused import Refused
from tests.inference.serving.conftest import Live, asked
from tests.inference.serving.test_access import pair

Start = Callable[..., Live]
X = np.random.default_rng(3).uniform(0, 1, (30, 1, 8, 8)).astype(np.float32)


def port(live: Live) -> int:
    return int(next(line for line in live.said if "HTTP" in line).rpartition(":")[2])


def ask(
    live: Live, path: str, told: Any = None, *, token: str = "", context: Any = None, **more: str
) -> tuple[int, Any]:
    """Return status and JSON; told: of a POST."""
    kind = http.client.HTTPConnection if context is None else http.client.HTTPSConnection
    given = {} if context is None else {"context": context}
    line = kind("127.0.0.1", port(live), timeout=30, **given)
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    body = told if isinstance(told, bytes) or told is None else json.dumps(told).encode()
    line.request("GET" if told is None else "POST", path, body, headers)
    answer = line.getresponse()
    found = answer.status, json.loads(answer.read())
    line.close()
    return found


def infer(x: Any, shape: Any = None, **more: Any) -> dict[str, Any]:
    shape = list(np.shape(x)) if shape is None else shape
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": x}]} | more


INFER = "/v2/models/routed/infer"


def test_it_answers_as_grpc_and_predict_do(start: Start, bundle: Bundle) -> None:
    live = start(bundle, http=0)
    right = bundle.predict(X)
    for data in (X.tolist(), X.ravel().tolist()):
        status, found = ask(live, INFER, infer(data, list(X.shape), id="mine"))
        assert status == 200 and (found["model_name"], found["id"]) == ("routed", "mine")
        by = {one["name"]: one for one in found["outputs"]}
        assert tuple(by["label"]["data"]) == right.labels
        assert by["probabilities"]["shape"] == list(right.shares.shape)
        # To the bit: JSON says every digit that a number has.
        assert by["probabilities"]["data"] == right.shares.ravel().tolist()
        assert by["early"]["data"] == right.early.tolist()
        assert by["class"]["data"] == right.classes.tolist()
    one = ask(live, INFER, infer(X.tolist(), outputs=[{"name": "class"}]))[1]
    assert [output["name"] for output in one["outputs"]] == ["class"]
    assert live.ask("ModelInfer", asked(X)).model_version == found["model_version"]
    named = f"/v2/models/routed/versions/{found['model_version']}/infer"
    assert ask(live, named, infer(X.tolist()))[0] == 200
    assert ask(live, "/v2/health/live") == (200, {"live": True})
    assert ask(live, "/v2/health/ready") == (200, {"ready": True})
    assert ask(live, "/v2/models/routed/ready") == (200, {"ready": True})
    assert ask(live, "/v2")[1]["name"] == "fedlite"
    told = ask(live, "/v2/models/routed")[1]
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert told["versions"] == [found["model_version"]]
    assert live.service.figures.codes["OK"] == 5


ONE = X[:1].tolist()


@pytest.mark.parametrize(
    ("told", "status", "rule"),
    [
        (b"", 400, "must be JSON"),
        (b"[" * 100_000, 400, "must be JSON"),
        (b"\xff", 400, "must be JSON"),
        ([], 400, "must be a list of objects"),
        ({}, 400, "one tensor"),
        ({"inputs": [{}] * 9000}, 400, "one tensor"),
        ({"inputs": []}, 400, "one tensor called 'x', got 0"),
        ({"inputs": [{}], "outputs": [{}] * 17}, 400, "outputs: must be at most 16, got 17"),
        ({"inputs": 3}, 400, "must be a list"),
        (infer(ONE, outputs=[{"name": "secret"}]), 400, "must be among"),
        (infer(ONE, outputs=[{}] * 5000), 400, "at most 16, got 5000"),
        (infer(ONE, id=3), 400, "id: must be a text"),
        (infer(ONE, id="\ud800"), 400, "id: must be a text"),
        (infer(ONE, id="a" * 129), 400, "128"),
        (infer(ONE, [1, 1, 8, 9]), 400, "must have the shape"),
        (infer(ONE, ["1"]), 400, "whole numbers"),
        (infer(ONE, [1] * 17), 400, "whole numbers"),
        (infer(ONE, [1 << 70]), 400, "whole numbers"),
        (infer(ONE[0], [1, 1, 8, 8], parameters={"missing": 1}), 400, "true or false"),
        (infer([0.5] * 63, [1, 1, 8, 8]), 400, "64 numbers"),
        (infer([0.5] * 63 + ["a"], [1, 1, 8, 8]), 400, "numbers of its datatype"),
        # A text as long as this one would be taken 64 times by an array of texts.
        (infer(["a" * 100_000] + ["b"] * 63, [1, 1, 8, 8]), 400, "numbers of its datatype"),
        (infer([None] * 64, [1, 1, 8, 8]), 400, "numbers of its datatype"),
        (infer([True] * 64, [1, 1, 8, 8]), 400, "numbers of its datatype"),
        (infer([10**400] * 64, [1, 1, 8, 8]), 400, "fit into FP32"),
        (infer([1e39] * 64, [1, 1, 8, 8]), 400, "x:"),
        (infer([float("nan")] * 64, [1, 1, 8, 8]), 400, "x:"),
        (infer("a"), 400, "must be a list"),
        ({"inputs": [{"name": "x", "datatype": "FP16", "shape": [1], "data": [1]}]}, 400, "FP16"),
        ({"inputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1]}]}, 400, "'x'"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_told_its_rule(
    shared: Live, told: Any, status: int, rule: str
) -> None:
    got, found = ask(shared, INFER, told)
    assert got == status and rule in found["error"], found


@pytest.fixture(scope="module")
def shared(bundle: Bundle) -> Any:
    from tests.inference.serving.conftest import running

    with running(bundle, http=0) as live:
        yield live


def test_nesting_has_an_end(shared: Live) -> None:
    deep: Any = 0.5
    for _ in range(900):
        deep = [deep]
    assert "deep" in ask(shared, INFER, infer(deep, [1, 1, 8, 8]))[1]["error"]


@pytest.mark.parametrize(
    ("path", "told", "status"),
    [
        ("/", None, 404),
        ("/v2/models/other", None, 404),
        ("/v2/models/other/infer", infer(ONE), 404),
        ("/v2/models/routed/versions/no/infer", infer(ONE), 404),
        ("/v2/models/routed/infer", None, 404),
        ("/v2/health/live", b"", 404),
        ("/v2/repository/index", b"", 404),
        ("/v2/models/../../etc/passwd", None, 404),
    ],
)
def test_other_paths_are_not_there(shared: Live, path: str, told: Any, status: int) -> None:
    got, found = ask(shared, path, told)
    assert got == status and found["error"]


def test_binary_and_packed_bodies_are_refused(shared: Live) -> None:
    for name, value in (("Inference_Header_Content_Length", "3"), ("Content_Encoding", "gzip")):
        assert ask(shared, INFER, infer(ONE), **{name: value})[0] == 400


def test_tokens_and_roles_count_and_probes_are_for_anybody(
    start: Start, bundle: Bundle, tmp_path: Path
) -> None:
    file = tmp_path / "tokens.toml"
    client = tokens.add(file, "ward", "client", 9)
    auditor = tokens.add(file, "house", "auditor", 9)
    live = start(bundle, http=0, door=Door(port=0, tokens=file), keep=tmp_path / "kept")
    assert ask(live, INFER, infer(ONE))[0] == 401
    assert ask(live, INFER, infer(ONE), token="x")[0] == 401
    assert ask(live, INFER, infer(ONE), token=auditor)[0] == 403
    assert ask(live, INFER, infer(ONE), token=client)[0] == 200
    assert ask(live, "/v2/models/routed")[0] == 401
    assert ask(live, "/v2/models/routed", token=auditor)[0] == 200
    assert ask(live, "/v2/health/ready")[0] == 200
    (log,) = (tmp_path / "kept").glob("requests-*.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["client"] for row in rows if row["code"] == "OK"] == ["ward"]


def test_a_stranger_s_body_is_not_read(start: Start, bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    tokens.add(file, "ward", "client", 9)
    live = start(bundle, http=0, door=Door(port=0, tokens=file))
    with socket.create_connection(("127.0.0.1", port(live)), timeout=20) as line:
        line.sendall(
            f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n".encode()
        )
        assert line.recv(100).startswith(b"HTTP/1.1 401")
        while line.recv(4096):
            pass


def test_a_body_that_is_too_long_is_not_kept(start: Start, bundle: Bundle) -> None:
    live = start(bundle, http=0, limits=Limits(request=4))
    most = rest.longest(bundle, 4)
    status, found = ask(live, INFER, b"[" + b" " * most)
    assert status == 429 and str(most) in found["error"]
    assert live.service.figures.codes["RESOURCE_EXHAUSTED"] == 1
    text = json.dumps(infer((X[:4] * -1.2345678e-30).tolist()))
    assert len(text) < most and ask(live, INFER, text.encode())[0] == 200


@pytest.mark.parametrize("empty", [b"[]", b"{}", b"[[]]", b"0"])
def test_values_are_counted_before_they_are_objects(bundle: Bundle, empty: bytes) -> None:
    """An empty list takes three bytes of a body and seventy of memory; a text may hold brackets."""
    most = rest.most_values(bundle, 4)
    body = b'{"inputs": [' + b",".join([empty] * 1_000_000) + b"]}"
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match="more values than its rows need"):
            rest._bound(body, most)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(body)
    finally:
        tracemalloc.stop()
    rest._bound(b'{"id": "' + b'[{,\\"' * most + b'"}', most)
    for data in (X[:4], X[:4].reshape(-1)):
        rest._bound(json.dumps(infer(data.tolist(), [4, 1, 8, 8])).encode(), most)


def test_a_text_that_does_not_end_takes_no_longer_than_one_that_does() -> None:
    began = time.process_time()
    with pytest.raises(Refused):
        rest._bound(b"[" * 99 + b'\\"' * 2_000_000, 50)
    rest._bound(b'"' + b'\\"[' * 2_000_000, 50)
    assert time.process_time() - began < 5.0


def test_who_trickles_or_says_nothing_is_hung_up_on(
    start: Start, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "_PATIENCE", 0.5)
    monkeypatch.setattr("fedlite.deployment.heads.HEAD_SECONDS", 0.5)
    live = start(bundle, http=0)
    heads = (
        b"",
        b"POST " + b"a" * 1000,
        f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{{".encode(),
    )
    lines = [socket.create_connection(("127.0.0.1", port(live)), timeout=30) for _ in heads]
    for line, head in zip(lines, heads, strict=True):
        line.sendall(head)
    began = time.monotonic()
    for line in lines:
        with line:
            while line.recv(4096):
                pass
    assert time.monotonic() - began < 20
    assert ask(live, INFER, infer(ONE))[0] == 200 and not live.service.under_way


def test_a_client_that_has_gone_is_not_computed_for(start: Start, bundle: Bundle) -> None:
    live = start(bundle, http=0, limits=Limits(wait=1.0))
    body = json.dumps(infer(ONE)).encode()
    with socket.create_connection(("127.0.0.1", port(live)), timeout=20) as line:
        head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        line.sendall(head.encode() + body)
        until = time.monotonic() + 20
        while not live.service.batcher.waiting and time.monotonic() < until:
            time.sleep(0.01)
    while live.service.batcher.waiting and time.monotonic() < until:
        time.sleep(0.01)
    assert live.service.figures.codes["CANCELLED"] == 1 and not live.service.batcher.batches


def test_who_reads_nothing_is_hung_up_on(
    start: Start, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "_UNREAD", 500)
    live = start(bundle, http=0)
    x = np.tile(X, (100, 1, 1, 1))
    body = json.dumps(infer(x.ravel().tolist(), list(x.shape))).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(60)
        line.connect(("127.0.0.1", port(live)))
        mine = f":{port(live):04X} 0100007F:{line.getsockname()[1]:04X} 01 "
        assert mine in Path("/proc/net/tcp").read_text()
        line.sendall(head + body)
        until = time.monotonic() + 60
        while not live.service.figures.codes["OK"] and time.monotonic() < until:
            time.sleep(0.05)
        # The server's end goes, and nothing is said to whoever reads nothing.
        while mine in Path("/proc/net/tcp").read_text() and time.monotonic() < until:
            time.sleep(0.1)
        assert time.monotonic() < until
    assert ask(live, INFER, infer(ONE))[0] == 200


def test_over_tls_it_has_the_server_s_certificate(
    start: Start, bundle: Bundle, tmp_path: Path
) -> None:
    cert, key = pair(tmp_path)
    live = start(bundle, http=0, door=Door(port=0, cert=cert, key=key))
    context = ssl.create_default_context(cafile=str(cert))
    context.check_hostname = False
    assert ask(live, INFER, infer(ONE), context=context)[0] == 200
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(live, "/v2/health/live")


def test_a_port_that_is_taken_is_named(start: Start, bundle: Bundle) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ValueError, match=r"--http \d+: cannot be listened on .*; choose another"),
    ):
        start(bundle, http=taken.getsockname()[1])
    with pytest.raises(ValueError, match="--http"):
        start(bundle, http=70_000)
