"""A small form of the soak; a hundred sites and twenty rounds are `simulations.benchmarks.soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.benchmarks.soak import soak

pytestmark = pytest.mark.faults

SITES, ROUNDS = 10, 6


def test_many_sites_take_part_in_every_round_and_memory_stays(
    tmp_path: Path, needs_nginx: None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = soak(SITES, ROUNDS, tmp_path)
    growth = {row["process"]: row["growth"] for row in found["memory"]}
    with capsys.disabled():
        print(
            f"\n{SITES} sites, {ROUNDS} rounds: p95 {found['seconds']['p95']:.2f} s, "
            f"memory {growth['all']:+.2f} MB a round"
        )
    assert found["accepted"] == SITES * ROUNDS, found["errors"]
    assert not found["errors"]
    # Loaded modules and caches may still come; a round's messages kept for ever would be seen.
    assert growth["all"] < 10, growth
