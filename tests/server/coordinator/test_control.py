from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from server.coordinator.control import Control
from server.coordinator.setup import init


@pytest.fixture
def control(tmp_path: Path) -> Control:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return Control(init(tmp_path / "c", "study", "h:1", superlink_port=port))


def test_nobody_there_is_told_with_the_mend(control: Control) -> None:
    with pytest.raises(ConnectionError, match=r"is the coordinator running\? fedlite server start"):
        control.nodes()
    control.close()


@pytest.mark.parametrize(
    ("text", "why"), [('{"code": 1, "detail": "no such run"}', "no such run"), ("", "500")]
)
def test_a_refusal_says_why(
    control: Control, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    response = httpx.Response(500, text=text, request=httpx.Request("POST", "http://h"))
    monkeypatch.setattr(control._client._client, "send", lambda *a, **k: response)
    with pytest.raises(RuntimeError, match=why):
        control.stop_run(7)


def test_what_flower_did_not_start_or_stop_is_an_error(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: Any) -> Any:
        return SimpleNamespace(HasField=lambda name: False, success=False)

    monkeypatch.setattr(control._client, "StartRun", answer)
    monkeypatch.setattr(control._client, "StopRun", answer)
    with pytest.raises(RuntimeError, match="not started"):
        control.start_run(b"fab", {"run.quiet": True})
    with pytest.raises(RuntimeError, match="could not stop run 7"):
        control.stop_run(7)
