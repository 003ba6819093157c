from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fedlite
from fedlite.scenario import ScenarioError, load
from simulations.run import scenario_path
from tests.test_floors import ROOT

TINY = {
    "federation": {"rounds": 3, "sites": 3},
    "model": {"name": "mlp"},
    "training": {"steps": 2},
}
MODEL = """
from torch import nn
from fedlite.models import Branched

def make(shape, classes):
    tail = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, classes))
    return Branched(nn.Flatten(), nn.Linear(64, classes), tail, shape=shape, classes=classes)
"""


@pytest.mark.long
def test_a_run_from_python_is_the_run_of_the_command_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = fedlite.simulate(TINY, tmp_path / "run", engine="serial")
    assert run.summary["rounds"] == len(run.rounds) == 3
    assert run.directory.is_absolute() and run.report.is_file()
    assert capfd.readouterr() == ("", "")
    fedlite.simulate(TINY, tmp_path / "told", engine="serial", progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "round 3/3" in err


def test_keys_are_replaced_as_by_set_and_a_wrong_one_is_told() -> None:
    changed = fedlite.load_scenario(set={"federation.rounds": 5, "training.steps": 2})
    expected = load(scenario_path("quickstart"), ["federation.rounds=5", "training.steps=2"])
    assert changed == expected and changed.open_links == expected.open_links
    changed = fedlite.load_scenario(TINY, set={"model.name": "linear", "federation.deliver": True})
    assert changed.model.name == "linear" and changed.federation.deliver
    several = {"hidden": 64, "sizes": [3, 5], "bias": False}
    by_one = {f"model.options.{key}": value for key, value in several.items()}
    changed = fedlite.load_scenario(TINY, set={"model.options": several})
    assert changed == fedlite.load_scenario(TINY, set=by_one)
    assert json.loads(changed.model.options) == several
    with pytest.raises(ScenarioError, match=r"; write rounds into the table \[federation\]"):
        fedlite.load_scenario({"federation.rounds": 5})
    with pytest.raises(ScenarioError, match=r"federation\.rouns: no such key; did you mean rounds"):
        fedlite.load_scenario(set={"federation.rouns": 5})
    with pytest.raises(ScenarioError, match="did you mean quickstart"):
        fedlite.load_scenario("quickstrat")


def test_models_data_and_strategies_are_given_by_name_or_as_functions(tmp_path: Path) -> None:
    from strategies import FedAvg

    scenario = fedlite.load_scenario(TINY, model="cnn", strategy=FedAvg)
    assert scenario.model.name == "cnn"
    path = ROOT / "strategies" / "fedavg.py"
    assert scenario.federation.strategy.endswith("FedAvg") and path.is_file()
    file = tmp_path / "mine.py"
    file.write_text(MODEL)
    sys.path.insert(0, str(tmp_path))
    try:
        import mine  # type: ignore[import-not-found]

        run = fedlite.simulate(TINY, tmp_path / "run", model=mine.make, engine="serial")
    finally:
        sys.path.remove(str(tmp_path))
    assert run.scenario.model.name.endswith("mine.py:make")
    # Two heads of 64 x 10 and 8 x 10, and what is between them, with their biases.
    assert run.summary["parameters"] == 650 + 64 * 8 + 8 + 8 * 10 + 10


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"model: must not be given beside set\['model.name'\]"):
        fedlite.load_scenario(TINY, set={"model.name": "mlp"}, model="cnn")
    loaded = fedlite.load_scenario(TINY)
    with pytest.raises(ScenarioError, match=r"must be given to load_scenario.*federation.rounds"):
        fedlite.simulate(loaded, tmp_path / "run", set={"federation.rounds": 1})
    assert not (tmp_path / "run").exists()
    with pytest.raises(ScenarioError, match="--engine: must be one of"):
        fedlite.simulate(loaded, tmp_path / "run", engine="fast")


def test_a_directory_is_used_once_and_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    fedlite.simulate(TINY, tmp_path / "run", engine="serial")
    with pytest.raises(ScenarioError, match="already exists"):
        fedlite.simulate(TINY, tmp_path / "run", engine="serial")
    with pytest.raises(ScenarioError, match="has finished"):
        fedlite.resume(tmp_path / "run")


def fresh(code: str) -> str:
    """Run code in a new interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.long
def test_importing_fedlite_imports_nothing_heavy() -> None:
    heavy = ("torch", "flwr", "numpy", "matplotlib", "typer", "rich")
    shown = f"print([m for m in {heavy} if m in sys.modules])"
    assert fresh(f"import fedlite, sys; dir(fedlite); {shown}") == "[]"
    # Neither does asking for a function, before it is called.
    light = "import fedlite, sys; fedlite.simulate, fedlite.sweep, fedlite.compare, fedlite.load"
    assert fresh(f"{light}; print([m for m in ('torch', 'flwr') if m in sys.modules])") == "[]"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fedlite.nonsense


def test_importing_fedlite_takes_less_than_50_milliseconds() -> None:
    code = (
        "import time; begun = time.perf_counter(); import fedlite; "
        "print(time.perf_counter() - begun)"
    )
    # The best of some: what else this machine does is no part of it.
    assert min(float(fresh(code)) for _ in range(5)) < 0.05


def test_every_name_that_is_offered_is_documented() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    for name in set(fedlite.__all__) - {"__version__"}:
        assert re.search(rf"`(fedlite\.)?{name}\b", page), name
        assert name in dir(fedlite)
