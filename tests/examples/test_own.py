"""The examples run in a short form, and take as few lines as the documentation says."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedlite.evaluation import evaluate, open_model, predict, read
from fedlite.scenario import load
from simulations.run import simulate
from tests.examples.lines import lines_of, lines_of_toml

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
MINE = ("own_model", "own_table", "own_data", "regression", "own_compressor")


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module", params=MINE)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name: str = request.param
    scenario = load(EXAMPLES / name / "scenario.toml", ["federation.rounds=6"])
    directory = tmp_path_factory.mktemp(name) / name
    simulate(scenario, directory, engine="serial", quiet=True)
    return directory


def test_each_learns_in_a_few_rounds(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    # Always answering the commonest class, or the mean, reaches 0.11, 0.55 and 0.
    least = {"own_model": 0.6, "own_table": 0.65, "own_data": 0.7, "own_compressor": 0.6}.get(
        run.name
    )
    if least is None:
        assert summary["scores"]["r2"]["deep"] > 0.6
    else:
        assert summary["accuracy"]["deep"] > least
    if run.name == "own_compressor":
        assert 7.0 < summary["bytes"]["up_ratio"] < 8.0


def test_what_comes_after_runs_too(run: Path) -> None:
    new = EXAMPLES / run.name / "new.csv"
    if run.name == "own_table":
        trained = open_model(run)
        records = read(trained, new, columns=("sex",))
        found = evaluate(trained, records, group=("sex",), corrupt=("missing",)).told
        assert found["scores"]["deep"]["accuracy"] > 0.65
    elif run.name == "regression":
        trained = open_model(run)
        found_rents = predict(trained, read(trained, new, answered=False)).rows()
        assert len(found_rents) == 40
        assert all(200 < row["rent"] < 1800 for row in found_rents)


# What is promised of a user's own code.
MOST = {
    "examples/own_model/model.py": 8,
    "examples/own_data/data.py": 15,
    "examples/own_objective.py": 30,
    "examples/own_strategy.py": 25,
    "examples/own_compressor/compressor.py": 40,
    "examples/experiment.py": 10,
}
TOLD = re.findall(
    r"\| `(examples/\S+)` \| (\d+) \|", (ROOT / "docs" / "lines.md").read_text(encoding="utf-8")
)


@pytest.mark.parametrize(("name", "told"), TOLD)
def test_what_is_said_of_lines_is_so(name: str, told: str) -> None:
    count = lines_of_toml if name.endswith(".toml") else lines_of
    counted = count((ROOT / name).read_text(encoding="utf-8"))
    assert counted == int(told) and counted <= MOST.get(name, counted)


def test_every_promise_is_counted_and_told_of_each_example() -> None:
    assert set(MOST) <= {name for name, _ in TOLD}
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name, told in TOLD:
        short = name.removeprefix("examples/").split("/")[0]
        if name.endswith(".py"):
            (row,) = (line for line in page.splitlines() if line.startswith(f"| [{short}]"))
            assert row.endswith(f"| {told} lines |"), name


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("", 0),
        ('"""A module.\n\nLong.\n"""\n', 0),
        ("x = 1  # why\n\n# a comment\n", 1),
        ('def f():\n    """What."""\n    return (\n        1\n    )\n', 4),
        ('class A:\n    "What."\n\n    x = """text\n\n    that is a value"""\n', 4),
        ("import os; import sys\n", 1),
    ],
)
def test_lines_are_counted_as_is_said(source: str, lines: int) -> None:
    assert lines_of(source) == lines


NIBBLES = module(EXAMPLES / "own_compressor" / "compressor.py").make(None)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1500), st.integers(0, 2**32 - 1), st.floats(-30, 25))
def test_the_compressor_is_within_half_a_level(size: int, seed: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    vector = (10.0**power * rng.standard_normal(size)).astype(np.float32)
    body = NIBBLES.compress(vector)
    assert len(body) == NIBBLES.limit(size)
    back = NIBBLES.decompress(body, size).values
    for start in range(0, size, 256):
        block = slice(start, start + 256)
        half = np.abs(vector[block]).max() / 14
        assert np.abs(back[block] - vector[block]).max() <= half * 1.001 + 1e-29


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 600))
def test_the_compressor_survives_hostile_bytes(body: bytes, size: int) -> None:
    for given_body in (body, (body * 400)[: NIBBLES.limit(size)]):
        try:
            found = NIBBLES.decompress(given_body, size)
        except ValueError:
            continue
        assert np.isfinite(found.values).all() and len(found.values) == size


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_resnet_is_trained_through_nn_module_alone(tmp_path: Path, norm: str) -> None:
    folder = EXAMPLES / "resnet18"
    few = ["federation.rounds=1", "federation.sites=2", "federation.quorum=1", "training.steps=1"]
    few += ["data.name=digits", f"model.name={folder / 'model.py'}:{norm}"]
    simulate(load(folder / "scenario.toml", few), tmp_path / "run", engine="serial", quiet=True)
    told = json.loads((tmp_path / "run" / "model.json").read_text())
    assert told["branches"] == ["deep"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["parameters"] == 11_175_370 and summary["updates"]["accepted"] == 2
