"""A small run that has calibrated which inputs leave early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fedlite

SCENARIO: dict[str, Any] = {
    "federation": {"name": "routed", "rounds": 5, "sites": 2, "weighting": "records"},
    "model": {"name": "cnn"},
    "training": {"epochs": 2, "learning_rate": 0.1},
    "inference": {"calibration": 0.3, "alpha": 0.05},
}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "run"
    fedlite.simulate(SCENARIO, out=out, engine="serial")
    return out
