"""Replies that are hostile, late, doubled or missing: dropped, counted and named."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message

from fedlite import flower
from fedlite.messages import Code, Instruction, LedgerHead, Reply
from fedlite.reporting.record import read_rounds
from server.rounds import RunFailed
from server.witness import Witness
from tests.server.hostile import HOSTILE, World


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_reply_is_dropped_counted_and_named(world: World, name: str) -> None:
    # After three rounds it would be asked less.
    honest = world(folder="honest", sites=2, federation={"rounds": 3})
    hostile = world(folder="hostile", sites=3, federation={"rounds": 3})
    hostile.members[2].always = HOSTILE[name]
    truth = honest.play()
    played = hostile.play()
    for record in played.records:
        assert record.dropped == {"site-3": "bad-update"}
        assert record.missing == [] and record.accepted == 2
    np.testing.assert_array_equal(played.point.state.model, truth.point.state.model)
    assert played.point.sites["site-3"].used == 0
    assert played.point.sites["site-3"].acknowledged == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Error(100, "fedlite:data"), "data"),
        (Error(100, "fedlite:policy"), "policy"),
        (Error(100, "fedlite:nonsense\nname: value"), "failed"),
        (Error(2, "Traceback: patient 4711"), "failed"),
        (Error(0), "failed"),
    ],
)
def test_an_error_message_is_a_code_and_its_text_is_not_recorded(
    world: World, error: Error, code: str
) -> None:
    some = world()
    some.members[0].always = lambda member, message, i: [Message(error, reply_to=message)]
    played = some.play()
    assert all(r.dropped == {"site-1": code} for r in played.records)
    assert "4711" not in (some.directory / "rounds.jsonl").read_text()


def test_a_head_is_remembered_and_a_reply_without_one_is_dropped(
    world: World, tmp_path: Path
) -> None:
    some = world(sites=2, federation={"rounds": 2})
    witness = Witness(some.directory, tmp_path / "witness.pem")
    # These sites keep no ledgers, so that nothing is ever accepted.
    with pytest.raises(RunFailed, match=r"no update was ever accepted.*site-1 ledger"):
        some.play(some.rounds(witness=witness))
    assert [r.dropped for r in read_rounds(some.directory)] == [
        dict.fromkeys(("site-1", "site-2"), "ledger")
    ] * 2
    rows = [json.loads(x) for x in (some.directory / "witness.jsonl").read_text().splitlines()]
    assert [(r["kind"], r["why"], r["round"]) for r in rows[:2]] == [("refused", "missing", 1)] * 2


def test_a_head_in_a_run_without_privacy_is_refused(world: World) -> None:
    some = world(sites=2, federation={"rounds": 1})

    def boast(member: Any, message: Message, instruction: Any) -> list[Message]:
        reply = member.site.take_part(instruction)
        head = LedgerHead(3, bytes(32), bytes(64), bytes(32), bytes(32))
        return [flower.answer(Reply(reply.frame, head).encode(), message)]

    some.members[1].always = boast
    assert some.play().records[0].dropped == {"site-2": "bad-update"}


def test_duplicate_replies_count_once(world: World) -> None:
    truth = world(folder="a").play()
    some = world(folder="b")
    some.members[1].always = lambda member, message, i: [
        member.honest(message, i),
        member.honest(message, i),
        flower.answer(b"and more", message),
    ]
    played = some.play()
    assert all(r.accepted == 3 and not r.dropped for r in played.records)
    np.testing.assert_array_equal(played.point.state.model, truth.point.state.model)
    assert [r.bytes_up for r in played.records] == [r.bytes_up for r in truth.records]


def test_asking_twice_for_the_full_model_is_answered_once(world: World) -> None:
    some = world()
    some.members[0].tricks[2] = lambda member, message, i: [
        flower.decline(Code.NEED_FULL_MODEL, message),
        flower.decline(Code.NEED_FULL_MODEL, message),
    ]
    played = some.play()
    # Invited, invited again with the full model, and dropped when that is not enough either.
    assert sum(i.round == 2 for i in some.members[0].asked) == 2
    assert played.records[1].dropped == {"site-1": "need-full-model"}
    assert played.records[1].accepted == 2 and played.records[2].accepted == 3


def test_a_reply_that_flower_cannot_read_does_not_stop_the_run(world: World) -> None:
    some = world(federation={"rounds": 3})

    def poison(member: Any, message: Message, i: Instruction) -> list[Message]:
        some.grid.poisoned.add(message.metadata.message_id)
        return []

    some.members[1].always = poison
    played = some.play()
    assert all(r.missing == ["site-2"] and r.accepted == 2 for r in played.records)


def test_a_message_that_flower_does_not_take_is_a_missing_reply(world: World) -> None:
    some = world(federation={"rounds": 3})
    rounds = some.rounds()
    rounds.roster.gather()
    some.grid.refuse_to_push.add(101)
    played = some.play(rounds)
    assert all(r.missing == ["site-2"] and r.accepted == 2 for r in played.records)


def test_a_silent_site_costs_the_deadline_and_no_more(world: World) -> None:
    some = world(federation={"rounds": 3})
    some.members[0].tricks[2] = lambda member, message, i: []
    started = time.monotonic()
    played = some.play()
    assert [r.missing for r in played.records] == [[], ["site-1"], []]
    assert [r.accepted for r in played.records] == [3, 2, 3]
    assert 0.3 <= time.monotonic() - started < 3.0


def test_a_late_reply_is_not_used_in_another_round(world: World) -> None:
    some = world()
    late: list[Message] = []

    def keep(member: Any, message: Message, i: Instruction) -> list[Message]:
        late.append(member.honest(message, i))
        return []

    some.members[0].tricks = {
        1: keep,
        2: lambda member, message, i: [late[0], member.honest(message, i)],
    }
    played = some.play()
    assert played.records[0].missing == ["site-1"]
    assert played.records[1].accepted == 3
