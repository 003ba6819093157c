"""Covers fedlite/models/files.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from fedlite import plan as plans
from fedlite.models import build, files
from fedlite.parameters import Layout, to_vector
from fedlite.plan import Plan
from fedlite.privacy import RecordMechanism, accounting
from fedlite.scenario import Scenario, from_dict
from server import summary
from server.checkpoint import SiteRecord
from server.evaluation import Evaluator

PRIVATE = from_dict(
    {
        "federation": {"rounds": 4},
        "training": {"steps": 2},
        "privacy": {"unit": "record", "epsilon": 3.0, "delta": 1e-5},
    }
)
MECHANISM = RecordMechanism(0.1, 5.0, 1.0, steps=8, expected_batch=20)


def stub(scenario: Scenario, mechanism: RecordMechanism | None = None) -> Plan:
    layout = Layout(("w",), ((3,),))
    return Plan(scenario, (3,), 2, layout, np.zeros(3, np.float32), mechanism)


PLAN = stub(PRIVATE, MECHANISM)


def test_a_site_pays_for_the_whole_plan_however_early_it_stopped() -> None:
    part = summary.privacy_of(
        PLAN,
        {
            name: SiteRecord(asked=n, releases=n)
            for name, n in zip("bacd", (2, 4, 9, 0), strict=True)
        },
    )
    assert list(part["sites"]) == ["a", "b", "c", "d"]
    assert [s["prefix"]["steps"] for s in part["sites"].values()] == [8, 4, 8, 0]
    for site in part["sites"].values():
        # Whether it stopped may have depended on what was released: no prefix is a bound.
        assert site["epsilon"]["pld"] == accounting.pld(5.0, 1.0, 8, 1e-5)
        exact = accounting.pld(5.0, 1.0, site["prefix"]["steps"], 1e-5)
        assert exact <= site["prefix"]["epsilon"] <= 1.01 * exact + 1e-3
        assert site["accountants_agree"] is True and site["budget"] == 3.0
    assert [s["releases"] for s in part["sites"].values()] == [4, 2, 9, 0]
    assert part["unit"] == "record" and part["claimed"] is True
    assert part["noise_multiplier"] == 5.0 and part["delta"] == 1e-5


def test_releases_are_those_that_the_witness_has_seen() -> None:
    # What a checkpoint counts is lost with it; the witness forgets nothing.
    part = summary.privacy_of(PLAN, {"a": SiteRecord(releases=3)}, {"a": 4}.__getitem__)
    assert part["sites"]["a"]["releases"] == 4


def test_a_repeatable_run_claims_nothing() -> None:
    plan = from_dict(
        {
            "training": {"steps": 1},
            "privacy": {"unit": "record", "simulate_seed": 0},
        }
    )
    assert summary.privacy_of(stub(plan, MECHANISM), {"a": SiteRecord(asked=1)})["claimed"] is False
    assert summary.privacy_of(stub(from_dict({})), {"a": SiteRecord(asked=1)}) == {"unit": "none"}


def test_the_model_on_disk_is_the_model(tmp_path: Path) -> None:
    plan = from_dict({"model": {"name": "mlp"}})
    model = build("mlp", (1, 8, 8), 10, seed=1)
    vector = to_vector(model)
    files.write_model(tmp_path, plan, Layout.of(model), vector, model)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(tensors[name], parameter.detach().numpy())
    described = json.loads((tmp_path / "model.json").read_text())
    assert described["shape"] == [1, 8, 8] and described["classes"] == 10
    assert described["layout"] == Layout.of(model).digest.hex()
    assert described["parameters"] == vector.size


@pytest.mark.parametrize("name", ["fedlite", "python", "flwr", "torch", "opacus"])
def test_the_versions_that_matter_are_recorded(name: str) -> None:
    assert summary.versions()[name]
    assert summary.machine()


@pytest.mark.parametrize("engine", ["serial", "pool", "ray", "network"])
@pytest.mark.parametrize("claimed", [False, True])
def test_counts_of_records_are_told_of_open_simulations_only(engine: str, claimed: bool) -> None:
    plan = PRIVATE if claimed else from_dict({"federation": {"sites": 3}})
    part = summary.data_of(plan, Evaluator(*plans.simulated(plan)), engine)
    assert ("read" in part) == (engine != "network" and not claimed)
    assert part["at_sites"] is False and part["origin"].startswith("scikit-learn")
    assert "read" not in summary.data_of(plan, None, engine)
