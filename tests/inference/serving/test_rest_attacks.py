"""Attacks on a server's port for JSON that once worked.

Covers fedlite/inference/serving/rest.py, fedlite/deployment/heads.py.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from fedlite.inference.bundle import Bundle
from fedlite.inference.serving import rest
from fedlite.inference.serving.refused import Refused
from tests.inference.serving.conftest import Live
from tests.inference.serving.test_rest import ONE, ask, infer, port

Start = Callable[..., Live]


def test_a_body_in_utf_16_does_not_hide_its_values(bundle: Bundle) -> None:
    most = rest.most_values(bundle, 1)
    # U+2200 has the byte of a quote: as bytes, all that follows would lie in a text.
    text = '["\u2200",' + "[]," * 10 * most + "[]]"
    for name in ("utf-8", "utf-16-le", "utf-16-be", "utf-16"):
        with pytest.raises(Refused, match=r"more values than its rows|must be JSON in UTF-8"):
            rest._request("routed", "", text.encode(name), most)


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
