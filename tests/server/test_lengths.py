"""One poisoned update does not become the model, and an honest run is left as it is to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedlite.privacy import RecordMechanism
from fedlite.reporting.record import read_rounds
from server import updates
from server.lengths import median_of
from tests.server.hostile import HOSTILE, N, World, frame, says

INITIAL = np.linspace(-1, 1, N).astype(np.float32)
DENSE = {"uplink": {"compressor": "dense"}, "downlink": {"compressor": "dense"}}
Scale = Callable[[int, int], float]


def scaled(world: Any, scale: Scale) -> Any:
    """Let site n's update of round r be scale(n, r) times as long as it would be."""
    for number, member in enumerate(world.members, 1):
        usual = member.learner.delta
        member.learner.delta = lambda *a, n=number, usual=usual: (
            usual(*a) * np.float32(scale(n, a[1]))
        )
    return world


def model(world: Any) -> Any:
    return world.play().point.state.model


HONEST: dict[str, tuple[int, Scale]] = {
    "alike": (5, lambda n, r: 1.0),
    "one site": (1, lambda n, r: 10.0 ** (r % 3)),
    "two sites": (2, lambda n, r: 1e4 if n == 1 else 1.0),
    "a hundred to one": (7, lambda n, r: 90.0 if n == 1 else 1.0),
    "sites without records": (6, lambda n, r: 0.0 if n > 2 else 50.0**n),
    "sites that have learned all": (6, lambda n, r: 1.0 if n < 3 else 1e-3 ** (r - 1)),
    "growing together": (4, lambda n, r: 1e-3 * 20.0**r * n),
    "shrinking together": (4, lambda n, r: 20.0**-r * n),
    "more than wait": (70, lambda n, r: 1.0 + n),
}


@pytest.mark.long
@pytest.mark.parametrize("kind", list(HONEST))
@pytest.mark.parametrize("weighting", ["uniform", "records"])
def test_an_honest_run_is_the_same_to_the_bit(world: World, kind: str, weighting: str) -> None:
    sites, scale = HONEST[kind]
    runs = [
        scaled(
            world(
                folder=str(factor),
                sites=sites,
                federation={"outlier_factor": factor, "weighting": weighting},
                downlink={"compressor": "dense"},
                uplink={"compressor": "topk", "density": 0.2, "values": "fp32"},
            ),
            scale,
        )
        for factor in (0.0, 100.0)
    ]
    np.testing.assert_array_equal(model(runs[1]), model(runs[0]))
    for row in read_rounds(runs[1].directory):
        assert row.cut == {} and row.accepted == sites


ATTACKS: dict[str, Callable[[int], float]] = {
    "9e14": lambda r: 9e14,
    "a million": lambda r: 1e6,
    "doubled each round": lambda r: 2.0**r,
    "once, late": lambda r: 9e14 if r == 9 else 1.0,
}


@pytest.mark.long
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", list(ATTACKS))
def test_a_poisoned_update_does_not_become_the_model(world: World, kind: str, first: bool) -> None:
    """First in the order of round 1, or last: the server has seen nothing else, or all the rest."""
    size, ends = ATTACKS[kind], []
    federation = {"rounds": 20, "outlier_factor": 0.0}
    for factor, attacked in ((0.0, False), (0.0, True), (100.0, True)):
        some = world(
            folder=f"{factor}-{attacked}",
            sites=5,
            federation=federation | {"outlier_factor": factor},
            **DENSE,
        )
        if attacked:
            some.members[0 if first else 4].always = says(
                lambda m, i: frame(m, i, values=np.full(N, size(i.round), np.float32))
            )
        ends.append(float(np.linalg.norm(model(some).astype(np.float64))))
    honest, before, after = ends
    rows = read_rounds(some.directory)
    print(f"{kind}, first {first}: without {honest:.3g}, before {before:.3g}, after {after:.3g}")
    assert before > (1e3 if kind == "doubled each round" else 1e6) * honest
    if kind == "doubled each round":
        # As long as a hundred honest ones is let pass: a factor of 100 over a fifth of the sites.
        assert after < 200 * honest
        assert [r.round for r in rows if r.cut] == list(range(7, 21))
    else:
        assert after < 3 * honest
        name = "site-1" if first else "site-5"
        late = kind == "once, late"
        assert [sorted(r.cut) for r in rows] == [
            [name] if not late or r.round == 9 else [] for r in rows
        ]
    assert all(r.accepted == 5 and not r.jump for r in rows)


def test_attackers_in_the_minority_move_the_median_neither_way(world: World) -> None:
    """Four of nine, some with nothing and some with far too much, and first in the order."""
    some = world(sites=9, **DENSE)
    for number, size in enumerate((1e-9, 9e14, 1e9, 1e-6)):
        values = np.full(N, size, np.float32)
        some.members[number].always = says(lambda m, i, v=values: frame(m, i, values=v))
    played = some.play()
    assert np.linalg.norm(played.point.state.model) < 4 * np.linalg.norm(INITIAL)
    assert all(set(r.cut) == {"site-2", "site-3"} for r in played.records)
    assert all(15 < r.median < 25 for r in played.records)


def test_of_many_sites_the_first_64_wait_and_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    judge = updates.Updates._judge

    def watch(self: updates.Updates) -> None:
        waited.append(len(self._waiting or ()))
        judge(self)

    monkeypatch.setattr(updates.Updates, "_judge", watch)
    some = world(sites=70, federation={"rounds": 3}, **DENSE)
    values = np.full(N, 9e14, np.float32)
    for number in (1, 66):
        some.members[number].tricks[3] = says(lambda m, i: frame(m, i, values=values))
    played = some.play()
    # Round 1: the first 64, then none; round 2: none; round 3: from the first long one on.
    bad = sorted(some.members[number].site.name for number in (1, 66))
    order = sorted(m.site.name for m in some.members)
    left = len(order) - order.index(bad[0])
    assert waited == [64, 0, 0, *([64, left - 64] if left >= 64 else [left])]
    assert sorted(played.records[2].cut) == bad
    assert np.linalg.norm(played.point.state.model) < 3 * np.linalg.norm(INITIAL)


def test_long_updates_wait_in_little_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "_MOST_BYTES", 4 * N * 2)
    some = world(sites=9, **DENSE)
    values = np.full(N, 9e14, np.float32)
    some.members[0].always = says(lambda m, i: frame(m, i, values=values))
    played = some.play()
    assert all(r.cut.keys() == {"site-1"} for r in played.records)
    held = world(folder="all", sites=9, **DENSE)
    monkeypatch.setattr(updates, "_MOST_BYTES", 1 << 30)
    held.members[0].always = some.members[0].always
    assert np.linalg.norm(model(held)) == pytest.approx(np.linalg.norm(model(some)), rel=0.3)


def test_what_is_wrong_is_dropped_while_others_wait(world: World) -> None:
    some = world(sites=5, federation={"weighting": "records", "rounds": 1}, **DENSE)
    some.members[0].always = says(lambda m, i: frame(m, i, records=2**32 - 1))
    some.members[1].always = HOSTILE["NaN"]
    row = some.play().records[0]
    assert row.dropped == {"site-1": "bad-update", "site-2": "bad-update"} and row.accepted == 3


def test_a_resumed_run_judges_as_one_that_was_not_stopped(world: World) -> None:
    """What is usual comes from the record."""
    played, values = [], np.full(N, 50.0, np.float32)
    for stops in (False, True):
        some = world(folder=str(stops), sites=4, federation={"rounds": 6}, **DENSE)
        scaled(some, lambda n, r: 1.0 if r == 1 else 1e-3)
        some.members[0].tricks[5] = says(lambda m, i: frame(m, i, values=values))
        for _ in range(5 if stops else 0):
            some.interrupt()
        played.append(some.play())
    rows = [[replace(r, seconds=0.0) for r in one.records] for one in played]
    assert rows[0] == rows[1]
    np.testing.assert_array_equal(*(one.point.state.model for one in played))
    # A hundred times as long as the last round's, and only fifty times as the first's.
    assert rows[0][4].cut == {}


def test_the_server_that_clips_by_itself_tells_nothing_of_lengths(world: World) -> None:
    from fedlite.privacy import ClientMechanism

    central = ClientMechanism(clip=0.5, noise_multiplier=2.0, steps=4, at="server")
    some = world(
        sites=4,
        uplink={"compressor": "dense", "error_feedback": False},
        privacy={"unit": "client", "noise_at": "server", "clip": 0.5, "simulate_seed": 1},
    )
    for row in some.play(some.rounds(central=central)).records:
        assert row.cut == {} and row.median == 0.0


def test_a_private_run_of_two_sites_is_bounded_all_the_same(world: World) -> None:
    """A public bound needs no median: what no honest update exceeds is the most that counts."""
    ends = {}
    for attacked in (False, True):
        some = world(
            folder=str(attacked),
            sites=2,
            privacy={"unit": "record", "expected_batch": 10, "simulate_seed": 1},
            training={"steps": 2, "learning_rate": 0.5},
            **DENSE,
        )
        values = np.full(N, 9e14, np.float32)
        for member in some.members[: int(attacked)]:
            member.always = says(lambda m, i, v=values: frame(m, i, values=v))
        for member in some.members:
            usual = member.learner.delta
            member.learner.delta = lambda *a, usual=usual: usual(*a) * np.float32(0.1)
        rounds = some.rounds(central=RecordMechanism(0.1, 30.0, 1.0, 8, 10, 12, 12))
        bound = rounds.plan.update_norm
        ends[attacked] = np.linalg.norm(some.play(rounds).point.state.model - INITIAL)
        for row in rounds.records:
            assert set(row.cut) == ({"site-1"} if attacked else set())
    assert bound < 10 and ends[True] < 4 * (bound + 3) / 2
    print(f"without {ends[False]:.3g}, with {ends[True]:.3g}, bound {bound:.3g} a round")


def test_a_median_needs_three() -> None:
    assert median_of([]) == median_of([1.0, 2.0]) == median_of([1.0, 0.0, 2.0]) == 0.0
    assert median_of([1.0, 5.0, 2.0]) == 2.0 and median_of([1.0, 2.0, 3.0, 4.0]) == 3.0
