"""The model of a whole run, from app to app, holds the noise of the plan rows in its ledgers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import safetensors.numpy
from scipy import stats

from fedlite.privacy.ledger import read
from fedlite.scenario import Scenario
from simulations.run import simulate
from tests.tiny import CHANCE, SIZE, client_plan, promised, record_plan

ROUNDS = 4


def scenario(folder: Path, unit: str) -> Scenario:
    # So little epsilon that the records are nothing beside the noise: all of the model is noise.
    tables: dict[str, dict[str, Any]] = {
        "federation": {"rounds": ROUNDS, "evaluate_every": 0},
        "data": {"test_fraction": 0.2},
        "privacy": {"epsilon": 0.3},
    }
    if unit == "record":
        return record_plan(folder, **tables)
    return client_plan(folder, unit.removeprefix("client-"), **tables)


@pytest.mark.parametrize("unit", ["record", "client-site", "client-server"])
def test_a_whole_run_adds_the_noise_of_its_plan_rows(unit: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with patch("server.app.report", lambda directory: {}):
        simulate(scenario(tmp_path, unit), run, engine="serial", quiet=True)
    rows = [read(path)[0].body["plan"] for path in sorted((run / "ledgers").glob("*.jsonl"))]
    assert [row["unit"] for row in rows] == [unit, unit]
    model = safetensors.numpy.load_file(run / "model.safetensors")
    values = np.concatenate([tensor.ravel() for tensor in model.values()]).astype(np.float64)
    assert values.size == SIZE
    # A mean of two sites' noise, or the noise of the mean, added up over the rounds.
    std = promised(rows[0]) * np.sqrt(ROUNDS / (1 if unit == "client-server" else 2))
    low, high = stats.chi2.ppf([CHANCE / 2, 1 - CHANCE / 2], SIZE)
    assert low < (values**2).sum() / std**2 < high
