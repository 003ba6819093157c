from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fedlite
from fedlite.scenario import ScenarioError

TINY = {
    "federation": {"rounds": 3, "sites": 3},
    "model": {"name": "mlp"},
    "training": {"steps": 2},
    "privacy": {"unit": "record", "epsilon": 2.0},
}


def test_a_run_from_python_is_the_run_of_the_command(tmp_path: Path) -> None:
    run = fedlite.simulate(TINY, tmp_path / "run", engine="serial", quiet=True)
    assert run.summary["rounds"] == len(run.rounds) == 3
    assert run.scenario.privacy.expected_batch > 0
    model = run.model()
    shallow, deep = model(model.prepare(torch.zeros(2, 1, 8, 8)))
    assert shallow.shape == deep.shape == (2, 10) and not model.training
    found = run.audit()
    assert found.clean and len(found.statements) == 3


def test_the_released_model_scores_what_the_summary_says(tmp_path: Path) -> None:
    from fedlite.data import load

    run = fedlite.simulate(TINY, tmp_path / "run", engine="serial", quiet=True)
    test = load("digits").test
    assert test is not None
    model = run.model()
    with torch.no_grad():
        deep = model(model.prepare(torch.from_numpy(test.x)))[1].numpy()
    assert np.mean(deep.argmax(1) == test.y) == pytest.approx(run.summary["accuracy"]["deep"])


def test_settings_replace_keys_and_a_wrong_one_is_told() -> None:
    assert fedlite.load_scenario(settings={"federation.rounds": 5}).federation.rounds == 5
    changed = fedlite.load_scenario(TINY, {"model.name": "linear", "privacy.simulate_seed": 3})
    assert changed.model.name == "linear" and not changed.claims_privacy
    with pytest.raises(ScenarioError, match=r"federation\.rouns: no such key; did you mean rounds"):
        fedlite.load_scenario(settings={"federation.rouns": 5})
    with pytest.raises(ScenarioError, match="did you mean quickstart"):
        fedlite.load_scenario("quickstrat")


def test_a_loaded_scenario_is_not_changed_behind_its_links(tmp_path: Path) -> None:
    loaded = fedlite.load_scenario(TINY)
    with pytest.raises(ScenarioError, match=r"settings: must be given to load_scenario.*rounds"):
        fedlite.simulate(loaded, tmp_path / "run", settings={"federation.rounds": 1})
    assert not (tmp_path / "run").exists()


def test_a_directory_is_used_once_and_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    fedlite.simulate(TINY, tmp_path / "run", engine="serial", quiet=True)
    with pytest.raises(ScenarioError, match="run"):
        fedlite.simulate(TINY, tmp_path / "run", engine="serial", quiet=True)
    with pytest.raises(ScenarioError, match="has finished"):
        fedlite.resume(tmp_path / "run")


def test_importing_fedlite_imports_nothing_heavy() -> None:
    code = "import fedlite, sys; print([m for m in ('torch', 'flwr', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fedlite.nonsense
