"""The message that a site owes an answer to: what a restart finds."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import Message

from clients.runtime.inflight import InFlight, check_room
from fedlite import flower


@pytest.fixture
def question() -> Message:
    flower.identify(1, 2)
    return flower.ask(b"?", 2, "query", "hello")


def test_a_restart_finds_the_message_and_the_reply(tmp_path: Path, question: Message) -> None:
    first = InFlight(tmp_path)
    assert first.message() is None and first.reply() is None and not first.own
    assert first.came() is None
    first.take(question)
    assert first.own
    came = first.came()
    assert came is not None and abs(came - time.time()) < 5 and InFlight(tmp_path).came() == came
    again = InFlight(tmp_path)
    found = again.message()
    assert found is not None and flower.unwrap(found) == b"?" and again.reply() is None
    assert not again.own, "it was taken by the process before"
    first.ready(flower.answer(b"!", question))
    reply = again.reply()
    assert reply is not None and flower.unwrap(reply) == b"!"
    again.forget()
    again.forget()
    assert first.message() is None and first.reply() is None


def test_what_was_not_kept_is_not_owned(tmp_path: Path, question: Message) -> None:
    (tmp_path / "inflight").write_text("in the way")
    one = InFlight(tmp_path)
    with pytest.raises(OSError, match="inflight"):
        one.take(question)
    assert not one.own


def test_on_a_full_disk_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_room(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=(16 << 20) - 1))
    with pytest.raises(OSError, match="bytes are free"):
        check_room(tmp_path)
