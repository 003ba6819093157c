"""Flower's own engine and ours run the same apps to the same result.

Covers simulations/ray.py.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from fedlite.reporting.record import read_rounds, read_summary
from fedlite.scenario import from_run_config, load, with_values
from simulations.run import scenario_path, simulate

ROOT = Path(__file__).resolve().parents[2]


def test_the_run_config_of_the_app_is_the_quickstart() -> None:
    """`flwr run .` must do what `fedlite simulate` does, and know every key."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)["tool"]["flwr"]["app"]["config"]
    assert tables.pop("run") == {"directory": "", "id": "", "quiet": False, "wait": 0.0}
    assert tables == load(scenario_path("quickstart")).to_dict()


def test_a_flat_run_config_round_trips() -> None:
    scenario = load(scenario_path("quickstart"))
    assert from_run_config(scenario.to_run_config() | {"run.directory": "x"}) == scenario


@pytest.mark.long
@pytest.mark.ray
def test_ray_accepts_the_same_updates_and_gets_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without privacy and with whole-data steps, only the order of the sites' nodes differs."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    scenario = load(scenario_path("quickstart"), ["federation.rounds=3"])
    scenario = with_values(scenario, "privacy", unit="none")
    scenario = with_values(scenario, "training", learning_rate=1.0, batch_size=2000)
    simulate(scenario, tmp_path / "serial", engine="serial", quiet=True)
    simulate(scenario, tmp_path / "ray", engine="ray", quiet=True)
    ours, flowers = read_summary(tmp_path / "serial"), read_summary(tmp_path / "ray")
    assert ours["engine"] == "serial"
    assert flowers["engine"] == "ray"
    expected = {"accepted": 15, "dropped": 0, "missing": 0, "cut": 0}
    assert flowers["updates"] == ours["updates"] == expected
    assert flowers["bytes"] == ours["bytes"]
    assert flowers["accuracy"] == ours["accuracy"]
    for mine, theirs in zip(
        read_rounds(tmp_path / "serial"), read_rounds(tmp_path / "ray"), strict=True
    ):
        assert mine.accuracy == theirs.accuracy
        assert mine.bytes_up == theirs.bytes_up
    # Nothing of the user's own Flower set-up was read, changed or left behind.
    left = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    assert not [name for name in left if "flwr" in name], left
