"""Four hospitals count for themselves, as real processes: exactly, and with noise that is charged.

Covers server/counting.py, clients/counting.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite import compression, plan as plans
from fedlite.evaluation import open_model
from fedlite.inference import calibration, told
from fedlite.inference.counted import site_counts
from fedlite.inference.told import Cells, cells_of, coarser
from fedlite.privacy.counting import run_of
from fedlite.scenario import Scenario, load

PLAN = (
    "--rounds", "3",
    "--set", "inference.home_head=false", "--set", "report.baseline_repeats=0",
    "--set", "inference.calibration=0.4", "--set", "inference.alpha=0.1",
)  # fmt: skip
CLEAR = (*PLAN, "--set", "privacy.unit=none", "--set", "training.learning_rate=1.0")
PRIVATE = (*PLAN, "--set", "inference.epsilon=1.0")


def edit(home: Path, old: str, new: str) -> None:
    path = home / "site.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def exact(run: Path) -> tuple[Scenario, dict[str, Cells]]:
    """Return what each hospital's records give, by the run's model, all in one place."""
    scenario, trained = load(run / "scenario.toml"), open_model(run)
    plan, _, sites = plans.simulated(scenario)
    return scenario, {
        site.name: cells_of(site_counts(scenario, trained, site.calibration, plan.classes))
        for site in sites
        if site.calibration is not None
    }


def left(home: Path, run: str, noise: float = 0.0) -> Cells:
    """Return the counts that a site has kept, as they left."""
    (path,) = home.rglob(f"state/{run}/state.counts")
    frame = path.read_bytes()
    told.check(frame, noise)
    return told.decode(frame[compression.HEADER_BYTES :], noise)


@pytest.mark.faults
@pytest.mark.data("heart-disease")
def test_counts_of_hospitals_are_those_of_their_records_in_one_place(
    lab: Any, hospitals: Sequence[str]
) -> None:
    lab.start()
    lab.enrol(hospitals)
    silent = lab.partners["va-long-beach"]
    for partner in lab.partners.values():
        edit(partner.home, 'units = ["record"]', 'units = ["none", "record"]')

    # A policy that does not say so lets no bundle count, and the page says what would leave.
    clear = lab.bundle("heart", *CLEAR)
    refused = lab.fedlite("site", "approve", silent.home, clear, "--yes", code=1)
    assert "egress.metrics: must hold counts, which would leave" in refused.stdout + refused.stderr
    for partner in lab.partners.values():
        edit(partner.home, "metrics = []", 'metrics = ["counts"]')
    page = lab.json("site", "approve", silent.home, clear, "--yes")
    told_of = page["facts"]["counts"]
    assert "once, after the last round" in told_of and "without noise" in told_of
    lab.approve(clear)
    private = lab.bundle("heart", *PRIVATE)
    page = lab.json("site", "approve", silent.home, private, "--yes")
    assert "noise of 3.73 records; that is epsilon 1 at delta 1e-05" in page["facts"]["counts"]
    lab.approve(private)
    # One takes it back once it has approved: it trains, and tells nothing.
    edit(silent.home, 'metrics = ["counts"]', "metrics = []")
    for partner in lab.partners.values():
        partner.start()
    for partner in lab.partners.values():
        partner.wait_online()

    summary = lab.submit("heart", *CLEAR)
    run = lab.coordinator / "runs" / "heart"
    heard = summary["inference"]["told"]
    three = ["cleveland", "hungary", "switzerland"]
    assert heard["sites"] == three, lab.logs()
    assert heard["dropped"] == {"va-long-beach": "policy"} and heard["missing"] == []
    assert [r["accepted"] for r in lab.rounds("heart")] == [4] * 3
    _, here = exact(run)
    for name in three:
        counts = left(lab.partners[name].home, summary["run"]).counts
        np.testing.assert_array_equal(counts, here[name].counts, err_msg=name)
    whole = told.together(here[name] for name in three)
    chosen = calibration.choose(whole.plain(), 0.1, 0.95)
    found = summary["inference"]
    assert (found["threshold"], found["records"], found["harmed"], found["missing"]) == (
        *(chosen.threshold, chosen.records, chosen.harm, chosen.missing),
    )
    assert not list(silent.home.rglob("*.counts"))
    for name, last in (("cleveland", ["counts"]), ("va-long-beach", [])):
        (one,) = lab.json("site", "record", lab.partners[name].home)["runs"]
        assert [r["round"] for r in one["releases"]] == ["1", "2", "3", *last]

    # The same, private: noised, charged on top of training, and clean to an auditor.
    edit(silent.home, "metrics = []", 'metrics = ["counts"]')
    summary = lab.submit("heart", *PRIVATE)
    run = lab.coordinator / "runs" / "heart-2"
    assert summary["inference"]["told"]["sites"] == sorted(hospitals), lab.logs()
    _, here = exact(run)
    noise = summary["privacy"]["counts"]["noise_multiplier"]
    for name, partner in lab.partners.items():
        counts = left(partner.home, summary["run"], noise).counts
        apart = counts - coarser(here[name])
        assert 1 < apart.std() < 8 and (apart != 0).any()
        plans_of = [row["body"]["plan"] for row in partner.ledger() if "plan" in row["body"]]
        asked = [plan["run"] for plan in plans_of if isinstance(plan, dict)]
        assert asked == [summary["run"], run_of(bytes.fromhex(summary["run"]))]
        text = partner.log + (partner.home / "status.json").read_text()
        for clean in coarser(here[name]).tolist():
            assert str(clean) not in text
    signed = [one for one in lab.json("site", "record", silent.home)["runs"] if one["signed"]]
    assert [one["scenario"] for one in signed] == ["heart", "heart, its counts"]
    assert [len(one["releases"]) for one in signed] == [3, 1]
    site = summary["privacy"]["sites"]["cleveland"]
    assert site["prefix"]["epsilon"] <= 3.0 < site["epsilon"]["pld"] < 4.0 == site["budget"]
    ledgers = [partner.home / "ledgers" for partner in lab.partners.values()]
    audit = lab.json("audit", "ledgers", run, *ledgers)
    assert audit["clean"], json.dumps(audit)[:3000]
