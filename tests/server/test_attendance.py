"""Strikes, rests and deadlines that follow what sites need, from record and checkpoint alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message

from fedlite import flower
from fedlite.messages import Code
from fedlite.reporting.record import RoundRecord
from server import asking, attendance, replies, rounds
from server.checkpoint import SiteRecord
from tests.server.hostile import HOSTILE, World

# The rounds in which one that never answers is asked, of 100: three, then after 2, 4, 8, 16, 32.
ASKED = [1, 2, 3, 5, 9, 17, 33, 65, 97]


def silent(member: Any, message: Message, i: Any) -> list[Message]:
    return []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a clock that the rounds go by, and that passes only while somebody sleeps."""
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    times = SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr(rounds, "time", times)
    monkeypatch.setattr(asking, "time", times)
    monkeypatch.setattr(replies, "time", times)
    monkeypatch.setattr(replies, "POLL_SECONDS", 1.0)
    return clock


@pytest.mark.long
def test_a_site_that_never_answers_is_asked_less_and_less(
    world: World, clock: SimpleNamespace
) -> None:
    told: list[dict[str, Any]] = []
    some = world(sites=3, federation={"rounds": 100, "deadline_seconds": 600.0})
    some.members[1].always = silent
    played = some.rounds()
    played._journal = lambda action, **facts: told.append({"action": action} | facts)
    some.play(played)
    assert [i.round for i in some.members[1].asked] == ASKED
    assert [r.round for r in played.records if r.missing == ["site-2"]] == ASKED
    assert all(r.out == {"site-2": "resting"} for r in played.records if not r.missing)
    assert all(r.accepted == 2 for r in played.records)
    assert played.point.sites["site-2"].asked == len(ASKED)
    assert [(t["action"], t["site"], t["strikes"], t["round"]) for t in told] == [
        ("rest", "site-2", 3 + n, number) for n, number in enumerate((5, 9, 17, 33, 65, 97, 129))
    ]
    # Before: every round cost the deadline. No deadline is adapted in a simulation.
    assert clock.now == pytest.approx(600 * len(ASKED), rel=0.01)


@pytest.mark.long
def test_withholding_for_ever_costs_little_where_the_others_are_fast(
    world: World, clock: SimpleNamespace
) -> None:
    costs, pull = {}, replies.pull
    for kind in ("before", "strikes", "both"):
        some = world(folder=kind, sites=3, federation={"rounds": 100, "deadline_seconds": 600.0})
        some.members[1].always = silent
        some.members[1].tricks[1] = lambda m, message, i: [m.honest(message, i)]
        played, clock.now = some.rounds(), 0.0
        played._adapt = played.asking._adapt = kind == "both"
        with pytest.MonkeyPatch.context() as patch:
            if kind == "before":
                patch.setattr(attendance, "STRIKES", 10**9)
            # Everybody is at least a second under way.
            patch.setattr(
                replies, "pull", lambda g, w: (setattr(clock, "now", clock.now + 1), pull(g, w))[1]
            )
            some.play(played)
        costs[kind] = clock.now
    assert costs["before"] > 59_000
    assert costs["strikes"] < 6_000
    assert costs["both"] < 3_600


@pytest.mark.parametrize("kind", ["garbage", "NaN", "huge"])
def test_one_that_sends_rubbish_is_asked_less_as_well(world: World, kind: str) -> None:
    some = world(sites=3, federation={"rounds": 20})
    some.members[1].always = HOSTILE[kind]
    some.play()
    assert [i.round for i in some.members[1].asked] == [n for n in ASKED if n <= 20]


def test_one_good_answer_forgives_all_and_a_code_is_no_strike(world: World) -> None:
    some = world(sites=3, federation={"rounds": 24})
    for number in (1, 2, 3, 5):
        some.members[1].tricks[number] = HOSTILE["garbage"]
    for number in (10, 11):
        some.members[1].tricks[number] = HOSTILE["garbage"]
    some.members[2].always = lambda m, message, i: [flower.decline(Code.FAILED, message)]
    played = some.play()
    # Asked again in round 9, and good: the two bad ones after it are the first two.
    assert [i.round for i in some.members[1].asked] == [1, 2, 3, 5, *range(9, 25)]
    assert len(some.members[2].asked) == 24
    assert played.point.sites["site-2"].strikes == 0


def test_a_code_between_silences_does_not_forgive(world: World) -> None:
    some = world(sites=3, federation={"rounds": 5})
    some.members[1].always = HOSTILE["garbage"]
    some.members[1].tricks[3] = lambda m, message, i: [flower.decline(Code.FAILED, message)]
    assert some.play().point.sites["site-2"].strikes == 3


def test_the_quorum_comes_before_a_rest(world: World) -> None:
    """Two of three are needed: nobody rests while he would be missed."""
    some = world(sites=3, federation={"rounds": 12, "quorum": 2, "deadline_seconds": 0.01})
    for member in some.members[:2]:
        for number in (1, 4, 7, 10):
            member.tricks[number] = silent
    some.members[0].tricks |= dict.fromkeys((1, 2, 3, 4), silent)
    some.members[2].tricks = dict.fromkeys((5, 6), silent)
    played = some.play()
    assert len(played.records) == 12
    for row in played.records:
        assert 3 - len(row.out) >= 2


def test_a_run_goes_on_with_the_strikes_it_had(world: World) -> None:
    played = []
    for stops in (0, 9):
        some = world(folder=str(stops), sites=4, federation={"rounds": 20, "participation": 0.75})
        some.members[1].always = HOSTILE["garbage"]
        for _ in range(stops):
            some.interrupt()
        played.append(some.play())
    rows = [[replace(r, seconds=0.0) for r in one.records] for one in played]
    assert rows[0] == rows[1] and any(r.out == {"site-2": "resting"} for r in rows[0])
    assert all(len(r.asked) <= 3 for r in rows[0])


def record(number: int, slowest: float) -> RoundRecord:
    return RoundRecord(number, 1, slowest=slowest)


def wait(seconds: Iterable[float], strikes: int = 0, most: float = 600.0) -> float:
    sites = {"a": SiteRecord(strikes=strikes, used=1), "b": SiteRecord(used=1)}
    rows = [record(n, s) for n, s in enumerate(seconds, 1)]
    return attendance.deadline(most, rows, sites, ["a", "b"])


def arriving(some: Any, clock: SimpleNamespace) -> list[tuple[float, Message]]:
    """Let a second pass at each look at the grid; return what is to arrive, and when."""
    late: list[tuple[float, Message]] = []
    pull = some.grid.pull_messages

    def arrive(ids: Iterable[str]) -> list[Message]:
        for due, reply in [one for one in late if one[0] <= clock.now]:
            some.grid.inbox.append(flower.from_bytes(flower.to_bytes(reply)))
            late.remove((due, reply))
        clock.now += 1.0
        return pull(ids)

    some.grid.pull_messages = arrive
    return late


def test_the_deadline_follows_what_sites_need() -> None:
    assert wait([]) == wait([0.0]) == 600.0
    assert wait([1.0]) == 30.0 and wait([20.0]) == 60.0 and wait([400.0]) == 600.0
    # The slowest of the last five answered rounds.
    assert wait([90.0, 12.0, 11.0, 0.0, 0.0, 13.0, 12.0]) == 270.0
    assert wait([90.0, 12.0, 11.0, 0.0, 13.0, 12.0, 14.0]) == 42.0
    # It comes back for a site that misses, within a few rounds, and never beyond the scenario's.
    assert [wait([20.0], strikes) for strikes in range(5)] == [60.0, 120.0, 240.0, 480.0, 600.0]
    assert wait([20.0], 10**6) == 600.0 and wait([20.0], most=0.3) == 0.3


def test_a_slow_site_that_is_seldom_asked_is_not_lost() -> None:
    """What it was seen to need counts, however long ago; of a new one nothing is known."""
    rows = [record(n, 2.0) for n in range(1, 9)]
    fast, slow = SiteRecord(used=8, took=2.0), SiteRecord(used=1, took=150.0)
    sites = {"fast": fast, "slow": slow, "new": SiteRecord()}
    assert attendance.deadline(600.0, rows, sites, ["fast"]) == 30.0
    assert attendance.deadline(600.0, rows, sites, ["fast", "slow"]) == 450.0
    assert attendance.deadline(600.0, rows, sites, ["fast", "new"]) == 600.0
    # One that never answers is waited for once as long.
    sites["new"].strikes = 1
    assert attendance.deadline(600.0, rows, sites, ["fast", "new"]) == 60.0
    sites["new"] = SiteRecord(asked=2)  # it answered twice with a code
    assert attendance.deadline(600.0, rows, sites, ["fast", "new"]) == 30.0


def test_a_code_that_comes_late_is_a_strike(world: World, clock: SimpleNamespace) -> None:
    """Else a site holds every round up to its deadline, for ever, by declining just before it."""
    some = world(sites=3, federation={"rounds": 40, "deadline_seconds": 600.0})
    late = arriving(some, clock)

    def declines(member: Any, message: Message, i: Any) -> list[Message]:
        late.append((clock.now + 29.0, flower.decline(Code.FAILED, message)))
        return []

    some.members[1].always = declines
    played = some.rounds()
    played._adapt = played.asking._adapt = True
    some.play(played)
    assert [i.round for i in some.members[1].asked] == [n for n in ASKED if n <= 40]
    assert {tuple(r.dropped.items()) for r in played.records} == {(), (("site-2", "failed"),)}
    assert clock.now < 7 * 31 + 40 * 3


def test_a_site_that_becomes_slow_is_not_lost(world: World, clock: SimpleNamespace) -> None:
    """Its answers take 250 s from round 3 on: it misses some rounds and sets the pace then."""
    some = world(sites=2, federation={"rounds": 16, "deadline_seconds": 600.0})
    late = arriving(some, clock)

    def slowly(member: Any, message: Message, i: Any) -> list[Message]:
        late.append((clock.now + 250.0, member.honest(message, i)))
        return []

    for number in range(3, 17):
        some.members[1].tricks[number] = slowly
    played = some.rounds()
    played._adapt = played.asking._adapt = True
    some.play(played)
    missed = [r.round for r in played.records if r.missing]
    assert missed and missed[0] == 3 and len(missed) <= 4
    used = [r.round for r in played.records if r.accepted == 2]
    assert used[-4:] == [13, 14, 15, 16]
    assert played.records[-1].slowest >= 250.0
