"""What docs/choosing.md says of ranges, rate, clip and rounds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite.plan import plan_mechanism
from fedlite.scenario import Scenario, from_dict
from simulations.run import simulate

RANGES = "age 20:90, pressure 90:200, chol 100:400"


def plan(folder: Path, **tables: dict[str, Any]) -> Scenario:
    """Two sites, 1200 records, epsilon 8 with repeatable noise; who is older is more often ill."""
    path = folder / "own.csv"
    rng = np.random.default_rng(1)
    columns = rng.uniform([20, 90, 100], [90, 200, 400], (1200, 3))
    score = (columns[:, 0] - 55) / 15 + (columns[:, 1] - 145) / 25
    ill = rng.random(1200) < 1 / (1 + np.exp(-score))
    rows = [f"{a:.0f},{p:.0f},{c:.0f},{int(y)}" for (a, p, c), y in zip(columns, ill, strict=True)]
    path.write_text("age,pressure,chol,ill\n" + "\n".join(rows) + "\n")
    base: dict[str, dict[str, Any]] = {
        "federation": {"rounds": 20, "sites": 2, "average_last": 0.5, "evaluate_every": 0},
        "data": {"name": "csv", "path": str(path), "target": "ill", "labels": "0,1"},
        "training": {"steps": 1, "learning_rate": 10.0},
        "privacy": {"unit": "record", "epsilon": 8.0, "expected_batch": 480, "simulate_seed": 1},
    }
    return from_dict({name: base[name] | tables.get(name, {}) for name in base})


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_public_ranges_save_what_raw_columns_lose(tmp_path: Path) -> None:
    def auc(name: str, **data: str) -> float:
        directory = tmp_path / name
        simulate(plan(tmp_path, data=data), directory, engine="serial", quiet=True)
        return float(json.loads((directory / "summary.json").read_text())["auc"]["deep"])

    raw, mapped = auc("raw", scaling="none"), auc("mapped", ranges=RANGES)
    assert mapped > 0.8 and raw < mapped - 0.1, (raw, mapped)


@pytest.mark.long
def test_the_noise_of_a_step_grows_with_the_root_of_the_rounds(tmp_path: Path) -> None:
    """So at full batches the noise of all steps grows as what they learn does: by their number."""
    noise = [
        plan_mechanism(plan(tmp_path, data={"ranges": RANGES}, federation={"rounds": rounds}))
        for rounds in (30, 120)
    ]
    assert noise[1].noise_multiplier / noise[0].noise_multiplier == pytest.approx(2, rel=0.02)  # type: ignore[union-attr]
