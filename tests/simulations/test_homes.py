from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedlite.scenario import Scenario, with_values
from simulations import run
from simulations.run import simulate


@pytest.mark.long
@pytest.mark.parametrize("claimed", [False, True])
def test_a_finished_run_keeps_no_model_a_site(
    plan: Callable[..., Scenario], tmp_path: Path, claimed: bool
) -> None:
    scenario, directory = plan(claimed, -1), tmp_path / "run"
    simulate(scenario, directory, engine="serial", quiet=True)
    sites = directory / "checkpoint" / "sites"
    left = [path for path in sites.rglob("*") if path.is_file()]
    assert list(sites.glob("*")) == ([sites / "homes"] if claimed else [])
    # Who signed a ledger can sign again; without a ledger a home holds nothing.
    kept = {path.name for path in left}
    assert ({"ledger.pem", "site.toml", "digits.jsonl"} <= kept) if claimed else not kept


@pytest.mark.long
def test_a_run_that_is_not_over_keeps_what_its_sites_remember(
    plan: Callable[..., Scenario], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"

    def stop(*_: object) -> None:
        raise OSError("stop here")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="stop here"):
        patch.setattr("server.closing.write_summary", stop)
        simulate(with_values(plan(False), "federation", rounds=1), directory, engine="serial")
    states = directory / "checkpoint" / "sites"
    assert len(list(states.glob("*.safetensors"))) == 3
    simulate(run.resume_scenario(directory), directory, engine="serial", quiet=True)
    assert not list(states.glob("*.safetensors"))
