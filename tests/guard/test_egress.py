"""What may leave a site: five types, and of an update or counts only what the policy allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedlite import compression, flower
from fedlite.guard import egress
from fedlite.guard.policy import SitePolicy
from fedlite.messages import Code, Counted, Hello, LedgerHead, Reply
from fedlite.secure.messages import Note, Step

HEAD = LedgerHead(1, bytes(32), bytes(64))
ENVELOPE = compression.Envelope(bytes(8), 1, 7, bytes(8), bytes(8))
ROOT = Path(__file__).resolve().parents[2]


def question() -> Message:
    flower.identify(1, 1)
    message = flower.ask(b"?", 1, "query", "1")
    flower.set_message_id(message, "q")
    return message


def frame(records: int = 0) -> bytes:
    return compression.pack(ENVELOPE, 1, b"body", records)


def policy(*units: str, metrics: tuple[str, ...] = ()) -> SitePolicy:
    return SitePolicy(units=units, metrics=metrics)


@pytest.mark.parametrize("unit", ["record", "record-shared", "client-site", "client-server"])
def test_a_private_update_leaves_with_its_head_under_an_allowed_unit_only(unit: str) -> None:
    reply = Reply(frame(), HEAD)
    sent = egress.send(reply, question(), policy(unit), unit)
    assert [list(record.keys()) for record in sent.content.values()] == [["blob"]]
    assert flower.unwrap(sent) == reply.encode()
    with pytest.raises(egress.NotAllowed, match=r"budget\.units"):
        egress.send(reply, question(), policy("none"), unit)
    with pytest.raises(egress.NotAllowed, match="ledger"):
        egress.send(Reply(frame()), question(), policy(unit), unit)


def test_a_step_of_a_sum_leaves_under_an_allowed_unit_only() -> None:
    note = Note(Step.SIGN, 1, bytes(8), b"signature")
    sent = egress.send(note, question(), policy("record-shared"), "record-shared")
    assert flower.unwrap(sent) == note.encode()
    with pytest.raises(egress.NotAllowed, match=r"budget\.units"):
        egress.send(note, question(), policy("record"), "record-shared")


def test_a_clear_update_leaves_only_where_the_policy_says_none() -> None:
    assert flower.unwrap(egress.send(Reply(frame()), question(), policy("none"), "none")) == frame()
    with pytest.raises(egress.NotAllowed, match="record"):
        egress.send(Reply(frame()), question(), policy("record"), "none")


def test_counts_leave_only_where_the_policy_opts_in_and_private_ones_with_their_head() -> None:
    clear, private = Counted(frame()), Counted(frame(), HEAD)
    with pytest.raises(egress.NotAllowed, match=r"egress\.metrics: must hold 'counts'"):
        egress.send(clear, question(), policy("none", metrics=("records",)), "none")
    allowed = policy("none", "record", metrics=("counts",))
    assert flower.unwrap(egress.send(clear, question(), allowed, "none")) == clear.encode()
    assert flower.unwrap(egress.send(private, question(), allowed, "record")) == private.encode()
    with pytest.raises(egress.NotAllowed, match="ledger"):
        egress.send(clear, question(), allowed, "record")
    with pytest.raises(egress.NotAllowed, match=r"budget\.units"):
        egress.send(clear, question(), policy("record", metrics=("counts",)), "none")


def test_a_record_count_leaves_only_where_the_policy_opts_in() -> None:
    counted = Reply(frame(records=17))
    with pytest.raises(egress.NotAllowed, match="metrics"):
        egress.send(counted, question(), policy("none"), "none")
    allowed = policy("none", metrics=("records",))
    assert flower.unwrap(egress.send(counted, question(), allowed, "none")) == counted.frame


@pytest.mark.parametrize(
    "thing", ["patient 4711", b"bytes", {"loss": 0.1}, 3, None, ValueError("x"), [Code.DATA]]
)
def test_nothing_else_has_a_way_out(thing: Any) -> None:
    with pytest.raises(egress.NotAllowed):
        egress.send(thing, question(), policy("none", "record"), "none")


def test_without_a_policy_only_a_code_leaves() -> None:
    sent = egress.send(Code.FAILED, question(), None, "none")
    assert sent.has_error() and flower.code_of(sent) is Code.FAILED
    for thing in (Reply(frame(), HEAD), Hello("site-01", "aa", "1")):
        with pytest.raises(egress.NotAllowed, match="no policy"):
            egress.send(thing, question(), None, "none")


def test_the_app_has_no_other_door() -> None:
    """Only egress.py makes messages at a site."""
    for path in (ROOT / "clients").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "egress.py":
            assert "flower.answer" not in text and "flower.decline" not in text, path
            assert "Message(" not in text, path
