"""What a round costs is of those that are asked, however many sites are registered."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from server import checkpoint
from server.attendance import Without, absent, kept_out
from server.checkpoint import SiteRecord, SiteRecords
from server.clock import drawn
from server.rounds import Rounds
from tests.server.hostile import World


@pytest.mark.parametrize("seed", range(20))
def test_names_less_a_few_are_those_that_a_copy_would_have(seed: int) -> None:
    rng = random.Random(seed)
    names = sorted({f"s{rng.randrange(400):03d}" for _ in range(rng.randrange(60))})
    out = {name for name in names if rng.random() < 0.3} | {"never there", "s", "z"}
    left = [name for name in names if name not in out]
    found = Without(names, out)
    assert list(found) == left and len(found) == len(left) and found[1:-1] == left[1:-1]
    if left:
        assert found[-1] == left[-1]
        asked = drawn(found, 3, np.random.default_rng(seed))
        assert asked == drawn(left, 3, np.random.default_rng(seed))


def test_who_is_out_and_why_is_what_a_look_at_every_site_says() -> None:
    rng = random.Random(3)
    for _ in range(200):
        joined = {f"s{n}" for n in range(rng.randrange(1, 12))}
        there = {name for name in joined if rng.random() < 0.8}
        sites = SiteRecords()
        for name in joined:
            if rng.random() < 0.6:
                sites[name] = SiteRecord(spent=rng.random() < 0.3, again=rng.choice([0, 0, 9]))
        number, quorum = 5, rng.randrange(1, 6)
        every = {name: sites.get(name, SiteRecord()) for name in joined}
        able = {n for n in there if not every[n].spent}
        awake = {n for n in able if every[n].again <= number}
        names = awake if len(awake) >= quorum else able
        truth = dict.fromkeys(joined - there, "offline") | dict.fromkeys(there, "resting")
        truth |= {n: "spent" for n in joined if every[n].spent}
        truth = {n: why for n, why in truth.items() if n not in names}
        out = kept_out(there, sites, number, quorum)
        assert there - out.keys() == names
        assert absent(there, joined, sites, out) == truth


def lines(world: World, registered: int) -> int:
    """Return how many lines of the server's code the third round runs through."""
    grid: Any = world.grid
    nodes = {f"other-{n:05d}": 100_000 + n for n in range(registered)}
    # Those are never drawn: they come after the others, and the draw is ours.
    grid.introduced = nodes | {m.site.name: node for node, m in grid.members.items()}
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if "/server/" not in frame.f_code.co_filename or "/tests/" in frame.f_code.co_filename:
            return None
        seen += event == "line"
        return trace

    rounds: Rounds = world.rounds()
    rounds.asking._choose = lambda *_: ([m.site.name for m in world.members], 0.0)  # type: ignore[method-assign]
    player = rounds.play(
        epsilon=lambda asked: None, evaluate=lambda number, model: {}, cpu_seconds=lambda: 0.0
    )
    next(player), next(player)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        record = next(player)
    finally:
        sys.settrace(before)
    assert record.accepted == 3
    return seen


def test_a_round_runs_through_as_many_lines_with_ten_thousand_registered(world: Any) -> None:
    federation = {"rounds": 3, "sites": 3, "deadline_seconds": 5.0}
    few, many = (lines(world(folder=f"r{n}", federation=federation), n) for n in (50, 10_000))
    assert abs(many - few) < 20


def test_a_checkpoint_holds_what_has_changed_of_sites_and_nothing_of_the_rest(
    world: Any, tmp_path: Path
) -> None:
    rounds = world(folder="kept").play()
    point = rounds.point
    point.joined.update(f"other-{n}" for n in range(5000))
    point.sites["site-1"].strikes = 2
    checkpoint.save(tmp_path, point)
    size = (tmp_path / checkpoint.FILE).stat().st_size
    found = checkpoint.load(tmp_path)
    assert found is not None and found.sites == point.sites and found.joined == set()
    assert found.sites["never asked"] == SiteRecord()
    point.joined.clear()
    checkpoint.save(tmp_path, point)
    assert (tmp_path / checkpoint.FILE).stat().st_size == size
