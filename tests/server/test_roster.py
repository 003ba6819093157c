from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message

from fedlite import flower
from fedlite.deployment.protocol import Release
from fedlite.messages import Code, Hello, Instruction
from server import roster
from server.deployment import Deployment, Enrolled
from server.rounds import RunFailed

World = Callable[..., Any]


class Clock:
    """The roster's time, which passes only when told, or while the roster sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    times = SimpleNamespace(monotonic=lambda: clock.now, sleep=clock.sleep)
    monkeypatch.setattr(roster, "time", times)
    return clock


def declining(member: Any, code: Code, times: int) -> list[Message]:
    """Let a member decline its first `times` hellos; returns the list of all that come."""
    asked: list[Message] = []
    usual = member.reply

    def reply(message: Message) -> list[Message]:
        if message.metadata.message_type == "query":
            asked.append(message)
            if len(asked) <= times:
                return [flower.decline(code, message)]
        return list(usual(message))

    member.reply = reply
    return asked


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (b"garbage", "bad-update"),
        (Hello("site-9", "00" * 8, "0").encode(), "config"),
        (None, ""),
    ],
)
def test_a_site_that_does_not_introduce_itself_is_left_out(
    world: World, hello: bytes | None, reason: str
) -> None:
    some = world(federation={"rounds": 2})
    some.members[2].hello = hello
    started = time.monotonic()
    played = some.play()
    assert sorted(played.roster.nodes) == ["site-1", "site-2"]
    assert set(played.roster.refused.values()) == ({reason} if reason else set())
    assert all(r.accepted == 2 for r in played.records)
    assert time.monotonic() - started < 3.0


def test_a_release_that_speaks_another_protocol_is_left_out(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    some, met = world(federation={"rounds": 1}), {}
    layout = Hello.decode(some.members[2].hello or b"").layout
    some.members[0].hello = Hello("site-1", layout, "0.2.0", protocol="1-2").encode()
    # Whatever its model is: another protocol may number the weights otherwise.
    some.members[2].hello = Hello("site-3", "00", "0.9.0", protocol="2-3").encode()
    played = some.play(some.rounds(met=met.__setitem__))
    assert sorted(played.roster.nodes) == ["site-1", "site-2"]
    assert set(played.roster.refused.values()) == {"protocol"}
    assert "site-3: protocol: fedlite 0.9.0 there speaks 2-3" in caplog.text
    assert "upgrade fedlite here" in caplog.text
    assert met == {"site-1": Release("0.2.0", "1-2"), "site-2": Release("0")}


def test_nobody_takes_the_name_of_another(world: World) -> None:
    some = world(federation={"rounds": 1})
    some.members[2].hello = some.members[0].hello
    played = some.play()
    assert played.roster.nodes["site-1"] == 100
    assert played.roster.refused == {102: "config"}


def test_a_node_is_only_the_site_that_it_was_approved_for(world: World) -> None:
    """Names are the coordinator's: 101 says that it is site-3, 102 was never approved."""
    some = world(federation={"rounds": 1})
    some.members[1].hello = some.members[2].hello
    approved = {100: Enrolled("site-1", ""), 101: Enrolled("site-2", "")}
    played = some.play(some.rounds(enrolled=approved.get))
    assert played.roster.nodes == {"site-1": 100}
    assert played.roster.refused == {101: "config", 102: "config"}


def test_a_site_that_approves_late_takes_part_and_is_named_until_then(
    world: World, clock: Clock
) -> None:
    some, told = world(federation={"rounds": 1}), []
    asked = declining(some.members[1], Code.UNAPPROVED, 2)
    approved = {100 + n: Enrolled(f"site-{n + 1}", "") for n in range(3)}
    played = some.play(some.rounds(enrolled=approved.get, wait=20.0, notice=told.append))
    assert played.records[0].accepted == 3 and len(asked) == 3
    assert 10 <= clock.now < 11
    assert "not approved there yet: site-2" in " | ".join(told)


@pytest.mark.parametrize("code", [Code.FAILED, Code.DATA])
def test_a_site_whose_trouble_passes_is_not_waited_for_and_takes_part_later(
    world: World, clock: Clock, code: Code
) -> None:
    some, told = world(federation={"rounds": 4}), []
    asked = declining(some.members[2], code, 1)

    def minute(member: Any, message: Message, i: Instruction) -> list[Message]:
        clock.now += 61.0
        return [member.honest(message, i)]

    some.members[0].tricks[2] = minute
    rounds = some.rounds(wait=1000.0, notice=told.append)
    rounds.roster.gather()
    assert clock.now < 1.0 and rounds.roster.refused == {102: code.value}
    assert told == [f"2 of 3 sites ready (site-1, site-2); refused: {code.value}"]
    played = some.play(rounds)
    assert [r.accepted for r in played.records] == [2, 2, 3, 3]
    assert played.roster.refused == {} and len(asked) == 2


AGAIN = {Code.UNAPPROVED: 5.0, Code.FAILED: 60.0, Code.DATA: 60.0, Code.PROTOCOL: 60.0}


@pytest.mark.parametrize(("deployed", "ends"), [(True, ""), (False, "failed")])
def test_trouble_that_the_quorum_cannot_do_without_is_waited_for_in_a_deployment(
    world: World, clock: Clock, deployed: bool, ends: str
) -> None:
    some = world(federation={"rounds": 1, "quorum": 3})
    asked = declining(some.members[2], Code.FAILED, 1)
    enrolled = {100 + n: Enrolled(f"site-{n + 1}", "") for n in range(3)}
    rounds = some.rounds(wait=1000.0, enrolled=enrolled.get if deployed else None)
    if ends:
        with pytest.raises(RunFailed, match=ends):
            some.play(rounds)
        assert len(asked) == 1 and clock.now < 1.0
    else:
        assert [r.accepted for r in some.play(rounds).records] == [3]
        assert len(asked) == 2 and 60 <= clock.now < 100


@pytest.mark.parametrize("code", list(Code))
def test_only_what_may_pass_is_asked_again_and_not_at_once(
    world: World, clock: Clock, code: Code
) -> None:
    some = world(sites=1)
    asked = declining(some.members[0], code, 99)
    there = some.rounds().roster
    for times in (1, 2, 3):
        there.meet()
        clock.now += AGAIN.get(code, 1e6) - 1.0
        there.meet()
        assert len(asked) == (times if code in AGAIN else 1)
        clock.now += 1.5


def test_a_hello_that_comes_during_a_long_round_is_heard(world: World, clock: Clock) -> None:
    some, late = world(sites=1), []
    usual = some.members[0].reply
    some.members[0].reply = lambda message: (late.extend(usual(message)), [])[1]
    there = some.rounds().roster
    there.meet()
    assert there.nodes == {} and len(late) == 1
    clock.now += some.scenario.federation.deadline_seconds + 1.0
    some.grid.inbox += late
    there.meet()
    assert there.nodes == {"site-1": 100} and len(late) == 1


def test_a_site_may_come_later(world: World) -> None:
    some = world(federation={"rounds": 3})
    late = some.grid.members.pop(102)

    def come(member: Any, message: Message, i: Instruction) -> list[Message]:
        some.grid.members[102] = late
        return [member.honest(message, i)]

    some.members[0].tricks[1] = come
    played = some.play()
    assert [r.accepted for r in played.records] == [2, 3, 3]


def test_two_studies_on_one_coordinator_do_not_see_each_other(world: World, tmp_path: Path) -> None:
    """The site of one gets neither hello nor bundle of the other, and is no concern of it."""
    some = world(sites=3, federation={"sites": 2, "rounds": 2})
    entry = {"ledger_key": "", "revoked": False}
    listed = {f"site-{n}": entry | {"node_id": 99 + n} for n in (1, 2, 3)}
    (tmp_path / "sites.json").write_text(json.dumps(listed))
    got: list[str] = []

    def listen(member: Any, usual: Callable[[Message], list[Message]]) -> None:
        member.reply = lambda m: (got.append(member.site.name), usual(m))[1]

    for member in some.members:
        listen(member, member.reply)
    # One that has not approved the bundle is waited for, and was so by whom it had no part in.
    listen(some.members[2], lambda m: [flower.decline(Code.UNAPPROVED, m)])

    def study(*members: str) -> Any:
        one = Deployment(tmp_path, frozenset(members))
        return some.rounds(enrolled=one.site, may_ask=one.may_ask)

    first = study("site-1", "site-2")
    some.play(first)
    assert set(got) == {"site-1", "site-2"} == set(first.point.sites)
    assert first.roster._gathered() == "2 of 2 sites ready (site-1, site-2)"
    got.clear()
    second = study("site-3")
    second.roster.meet()
    second.roster.meet()
    assert got == ["site-3"] and "not approved there yet: site-3" in second.roster._gathered()
    # Without members all are asked, as ever, and a list that cannot be read lets nobody be asked.
    got.clear()
    everybody = Deployment(tmp_path)
    some.rounds(enrolled=everybody.site, may_ask=everybody.may_ask).roster.meet()
    assert set(got) == set(listed)
    got.clear()
    (tmp_path / "sites.json").write_text("{")
    study("site-1").roster.meet()
    assert got == []
