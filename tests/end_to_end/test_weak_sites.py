"""A deployment in which one hospital trains the shallow branch alone, by commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

WEAK = "hungary"
SPLIT = (
    *("--rounds", "3", "--set", f"federation.weak_sites={WEAK}", "--set", "model.name=mlp"),
    *("--set", "inference.home_head=false", "--set", "report.baseline_repeats=0"),
    *("--set", "federation.deliver=true"),
)
PRIVATE = ("--set", "training.learning_rate=1.0")
CLEAR = ("--set", "privacy.unit=none", "--set", "training.learning_rate=0.5")


def model(directory: Path) -> dict[str, np.ndarray[Any, Any]]:
    return dict(safetensors.numpy.load_file(directory / "model.safetensors"))


@pytest.mark.faults
@pytest.mark.data("heart-disease")
def test_a_weak_hospital_trains_its_part_privately_and_as_in_a_simulation(
    lab: Any, hospitals: Sequence[str]
) -> None:
    lab.start()
    lab.enrol(hospitals)
    bundle = lab.bundle("heart", *SPLIT, *PRIVATE)
    # Its operator reads that it is a part; the others that it is all.
    for name, partner in lab.partners.items():
        page = lab.json("site", "approve", partner.home, bundle, "--yes")
        said = "its shallow branch alone" if name == WEAK else "all of the model"
        assert page["facts"]["this site trains"].startswith(said)
    for partner in lab.partners.values():
        partner.start()
    for partner in lab.partners.values():
        partner.wait_online()
    summary = lab.submit("heart", *SPLIT, *PRIVATE)
    rounds = lab.rounds("heart")
    assert [r["accepted"] for r in rounds] == [4] * 3, lab.logs()
    kinds = summary["kinds"]
    assert kinds["shallow branch"]["sites"] == [WEAK]
    both = (kinds["shallow branch"], kinds["whole model"])
    small, large = (kind["up"] / kind["used"] for kind in both)
    assert small < large
    ledgers = [p.home / "ledgers" for p in lab.partners.values()]
    run = lab.coordinator / "runs" / "heart"
    assert lab.json("audit", "ledgers", run, *ledgers)["clean"]
    # It may use all of the model, for all that it trains a part.
    given = lab.root / "given"
    lab.fedlite("site", "model", lab.partners[WEAK].home, "heart", "--out", given)
    assert (given / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()

    for partner in lab.partners.values():
        path = partner.home / "site.toml"
        path.write_text(path.read_text().replace('units = ["record"]', 'units = ["none"]'))
    lab.approve(lab.bundle("heart", *SPLIT, *CLEAR))
    second = lab.submit("heart", *SPLIT, *CLEAR)
    alone = lab.root / "simulated"
    lab.fedlite("simulate", "heart", *SPLIT, *CLEAR, "--out", alone)
    deployed, simulated = model(lab.coordinator / "runs" / "heart-2"), model(alone)
    for name in simulated:
        np.testing.assert_array_equal(deployed[name], simulated[name], err_msg=name)
    told = json.loads((alone / "summary.json").read_text())["kinds"]["shallow branch"]
    assert told["up"] == second["kinds"]["shallow branch"]["up"]
    # What a hospital's processor does is its own affair.
    assert "cpu_seconds" in told and "cpu_seconds" not in second["kinds"]["shallow branch"]
