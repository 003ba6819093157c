"""Sites that keep nothing: where that is right, and that it changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clients import opening
from clients.opening import forgetful
from fedlite import plan as plans
from fedlite.scenario import Scenario, from_dict
from simulations.run import simulate
from tests.simulations.running import Outcome

UNBIASED = {"compressor": "rotated-topk", "density": 0.1, "error_feedback": False}
DENSE = {"compressor": "dense", "error_feedback": False}


def scenario(**tables: Any) -> Scenario:
    return from_dict(
        {
            "federation": {"rounds": 4, "sites": 30, "participation": 0.2},
            "model": {"name": "mlp"},
            "training": {"learning_rate": 0.3},
            "uplink": UNBIASED,
            "downlink": DENSE,
        }
        | tables
    )


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("engine", ["serial", "pool"])
def test_nothing_is_kept_of_any_site_and_the_model_is_the_same(
    tmp_path: Path, outcome: Outcome, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    simulate(scenario(), tmp_path / "none", engine=engine, quiet=True)
    assert not list((tmp_path / "none").rglob("site-*"))
    if engine == "pool":
        return
    monkeypatch.setattr(opening, "forgetful", lambda plan: False)
    kept: list[Path] = []
    monkeypatch.setattr(
        "simulations.homes.drop_states", lambda d: kept.extend(Path(d).rglob("site-*.safetensors"))
    )
    simulate(scenario(), tmp_path / "kept", engine="serial", quiet=True)
    asked = {name for row in outcome(tmp_path / "kept")[1] for name in row["asked"]}
    assert len(kept) == len(asked) > 6
    assert outcome(tmp_path / "none") == outcome(tmp_path / "kept")


@pytest.mark.parametrize(
    "tables",
    [
        {"uplink": {"compressor": "topk"}},
        {"uplink": UNBIASED | {"error_feedback": True}},
        {"uplink": UNBIASED | {"aggregate_feedback": 0.4}},
        {"downlink": {"compressor": "topk"}},
        {"training": {"objective": "scaffold"}},
        {"training": {"steps": 1}, "privacy": {"unit": "record", "simulate_seed": 1}},
        {"privacy": {"unit": "client"}},
    ],
)
def test_whoever_has_something_to_remember_keeps_it(tables: dict[str, Any]) -> None:
    assert forgetful(plans.simulated(scenario())[0])
    assert not forgetful(plans.simulated(scenario(**tables))[0])


def test_the_scenario_of_very_many_sites_keeps_nothing_of_them() -> None:
    from fedlite.scenario import load
    from simulations.run import scenario_path

    found = load(scenario_path("cross-device"))
    plan = plans.of(found, (1, 28, 28), 10)
    assert found.federation.sites == 10_000 and found.federation.participants == 100
    assert forgetful(plan) and 4_000 < plan.layout.size < 6_000


@pytest.mark.usefixtures("undrawn")
def test_sites_that_were_introduced_are_in_the_record_as_if_they_had_been_asked(
    tmp_path: Path,
) -> None:
    simulate(scenario(), tmp_path / "run", engine="serial", quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").open()]
    names = [f"site-{n:02d}" for n in range(1, 31)]
    assert rows[0]["joined"] == names and all(row["joined"] == [] for row in rows[1:])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["sites"] == names
