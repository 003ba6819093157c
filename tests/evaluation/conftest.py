"""Runs of each task on one small table, and one on images: made once, and only read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedlite.evaluation import Trained, open_model
from fedlite.scenario import from_dict
from simulations.run import simulate

TARGETS = {"classification": "sick", "regression": "dose, days", "multilabel": "pain, fever"}
COLUMNS = "site,age,pressure,sex,ward,sick,dose,days,pain,fever"


def table(path: Path, rows: int = 240, seed: int = 3) -> Path:
    """Write made-up people: men are sicker, and whoever is old or has pressure is."""
    rng = np.random.default_rng(seed)
    lines = [COLUMNS]
    for number in range(rows):
        age, pressure = 55 + 12 * rng.normal(), 130 + 18 * rng.normal()
        sex, ward = "fm"[int(rng.random() < 0.5)], "ab"[int(rng.random() < 0.5)]
        ill = (age - 55) / 12 + (pressure - 130) / 18 + (1.0 if sex == "m" else -1.0)
        sick = "yes" if ill + 0.7 * rng.normal() > 0 else "no"
        dose, days = 40 + 10 * ill + rng.normal(), 5 - ill
        pain, fever = int(age > 55), int(ill > 1)
        told = f"{age:.1f},{pressure:.0f},{sex},{ward},{sick},{dose:.2f},{days:.2f},{pain},{fever}"
        lines.append(f"h{number % 3},{told}")
    path.write_text("\n".join(lines) + "\n")
    return path


def make(folder: Path, task: str, **more: dict[str, object]) -> Path:
    """Return the directory of a finished run."""
    drop = [name for name in COLUMNS.split(",")[4:] if name not in TARGETS[task].split(", ")]
    tables: dict[str, dict[str, object]] = {
        "federation": {"name": task, "rounds": 6, "sites": 3},
        "data": {
            "name": "csv",
            "path": str(table(folder / "people.csv")),
            "target": TARGETS[task],
            "drop": ", ".join(drop),
            "partition": "natural",
        },
        "task": {"name": task},
        "training": {"epochs": 10, "learning_rate": 0.3},
    }
    for section, keys in more.items():
        tables[section] = tables.get(section, {}) | keys
    simulate(from_dict(tables), folder / "run", engine="serial", quiet=True)
    return folder / "run"


@pytest.fixture(scope="session", params=list(TARGETS))
def each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return open_model(make(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture(scope="session")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A classifier of a table."""
    return open_model(make(tmp_path_factory.mktemp("sick"), "classification"))


@pytest.fixture(scope="session")
def doses(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A regression of two targets."""
    return open_model(make(tmp_path_factory.mktemp("doses"), "regression"))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A classifier of images."""
    folder = tmp_path_factory.mktemp("digits")
    tables = {
        "federation": {"rounds": 3, "sites": 3},
        "model": {"name": "mlp"},
        "training": {"epochs": 3},
    }
    simulate(from_dict(tables), folder / "run", engine="serial", quiet=True)
    return open_model(folder / "run")
