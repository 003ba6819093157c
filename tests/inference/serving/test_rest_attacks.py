"""Attacks on a server's port for JSON that once worked.

Covers fedlite/inference/serving/rest.py, fedlite/inference/serving/service.py,
fedlite/deployment/heads.py.
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from fedlite.inference.bundle import Bundle
from fedlite.inference.serving import protocol, rest, tokens
from fedlite.inference.serving.doors import Door
from fedlite.inference.serving.refused import Refused
from tests.inference.serving.conftest import Live
from tests.inference.serving.test_access import pair
from tests.inference.serving.test_rest import ONE, ask, infer, port

Start = Callable[..., Live]


def tried(live: Live, context: ssl.SSLContext | None) -> int:
    try:
        return ask(live, "/v2/health/live", context=context)[0]
    except OSError:
        return 0


def test_a_body_in_utf_16_does_not_hide_its_values(bundle: Bundle) -> None:
    most = rest.most_values(bundle, 1)
    # U+2200 has the byte of a quote: as bytes, all that follows would lie in a text.
    text = '["\u2200",' + "[]," * 10 * most + "[]]"
    for name in ("utf-8", "utf-16-le", "utf-16-be", "utf-16"):
        with pytest.raises(Refused, match=r"more values than its rows|must be JSON in UTF-8"):
            rest._request("routed", "", text.encode(name), most)


def test_what_is_no_request_is_in_the_log_with_who_sent_it(
    start: Start, bundle: Bundle, tmp_path: Path
) -> None:
    token = tokens.add(tmp_path / "tokens.toml", "ward", "client", 9)
    door = Door(port=0, tokens=tmp_path / "tokens.toml")
    live = start(bundle, http=0, door=door, keep=tmp_path / "keep")
    assert ask(live, "/v2/models/routed/infer", b"no JSON", token=token)[0] == 400
    with grpc.insecure_channel(live.address) as channel, pytest.raises(grpc.RpcError):
        call = channel.unary_unary(f"/{protocol.INFERENCE}/ModelInfer")
        call(b"\x2a\x00" * 6000, timeout=20, metadata=[("authorization", f"Bearer {token}")])
    (file,) = (tmp_path / "keep").glob("requests-*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    told = {"client": "ward", "refused": "ModelInfer", "times": 1, "code": "INVALID_ARGUMENT"}
    assert [{name: line[name] for name in told} for line in lines] == [told, told]


def test_who_was_answered_before_his_body_came_holds_no_connection(
    start: Start, bundle: Bundle
) -> None:
    live = start(bundle, http=0)
    with socket.create_connection(("127.0.0.1", port(live)), timeout=4) as line:
        line.sendall(
            b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"
        )
        found = b""
        while not found.endswith(b"}"):
            found += line.recv(4096)
        try:
            # Bytes that nobody wants ended the waiting for the next request.
            line.sendall(b"x")
            assert line.recv(1) == b"", "the connection is held"
        except ConnectionError:
            pass
    assert ask(live, "/v2/health/live")[0] == 200


def test_requests_before_an_answer_are_few(start: Start, bundle: Bundle) -> None:
    live = start(bundle, http=0)
    one = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"

    def answered(times: int) -> int:
        found = b""
        with socket.create_connection(("127.0.0.1", port(live)), timeout=20) as line:
            line.sendall(one * times)
            until = time.monotonic() + 20
            try:
                while found.count(b" 200 ") < times and time.monotonic() < until:
                    if not (more := line.recv(1 << 16)):
                        break
                    found += more
            except ConnectionError:
                pass
        return found.count(b" 200 ")

    assert answered(4) == 4
    assert answered(1000) <= 10
    assert ask(live, "/v2/models/routed/infer", infer(ONE))[0] == 200


@pytest.mark.parametrize("tls", [False, True])
def test_no_more_connections_are_open_than_may_be(
    start: Start, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    monkeypatch.setattr("fedlite.inference.serving.server._at_once", lambda longest: 16)
    cert, key = pair(tmp_path) if tls else (None, None)
    live = start(bundle, http=0, door=Door(port=0, cert=cert, key=key))
    # Nobody says anything, nor begins a handshake.
    lines = [socket.create_connection(("127.0.0.1", port(live)), timeout=20) for _ in range(80)]
    hung = 0
    for line in lines:
        line.settimeout(0.2)
        try:
            hung += line.recv(1) == b""
        except TimeoutError:
            pass
        except ConnectionError:
            hung += 1
    assert hung == 80 - 16 - 32
    for line in lines:
        line.close()
    context = ssl.create_default_context(cafile=str(cert)) if tls else None
    if context is not None:
        context.check_hostname = False
    until = time.monotonic() + 20
    while (found := tried(live, context)) != 200 and time.monotonic() < until:
        time.sleep(0.1)
    assert found == 200
