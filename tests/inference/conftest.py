"""A small run that has calibrated which inputs leave early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fedlite
from fedlite.evaluation import open_model
from fedlite.inference.bundle import Bundle

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


@pytest.fixture(scope="session")
def made(run: Path) -> Path:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from fedlite.inference.release import write_bundle

    write_bundle(open_model(run), run.parent / "made")
    return run.parent / "made"


@pytest.fixture(scope="session")
def bundle(made: Path) -> Bundle:
    return fedlite.load_bundle(made)
