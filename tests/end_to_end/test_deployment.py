"""A coordinator and its partners, by commands alone, from the first folder to the last report.

Covers fedlite/commands/server.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

SIMULATED = ("--set", "inference.home_head=false", "--set", "report.baseline_repeats=0")
DELIVER = ("--set", "federation.deliver=true")
CLEAR = ("--set", "privacy.unit=none", "--set", "training.learning_rate=1.0")


def model(directory: Path) -> dict[str, np.ndarray[Any, Any]]:
    return dict(safetensors.numpy.load_file(directory / "model.safetensors"))


@pytest.mark.long
@pytest.mark.data("heart-disease")
def test_hospitals_train_privately_and_are_audited(
    lab: Any, hospitals: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    lab.start()
    lab.enrol(hospitals)
    lab.approve(lab.bundle("heart", "--rounds", "5", *DELIVER))
    for partner in lab.partners.values():
        partner.start()
    for partner in lab.partners.values():
        partner.wait_online()
    enrolled = time.monotonic()
    summary = lab.submit("heart", "--rounds", "5", *DELIVER)
    ran = time.monotonic()

    assert summary["rounds"] == 5 and summary["engine"] == "network"
    assert set(summary["privacy"]["sites"]) == set(hospitals)
    rounds = lab.rounds("heart")
    assert [r["accepted"] for r in rounds] == [4] * 5, lab.logs()
    ledgers = [p.home / "ledgers" for p in lab.partners.values()]
    run = lab.coordinator / "runs" / "heart"
    audit = lab.json("audit", "ledgers", run, *ledgers)
    assert audit["clean"], audit
    for partner in lab.partners.values():
        assert not list((partner.home / "inflight").iterdir()), partner.log
        assert [line["action"] for line in lab.journal(partner.home)][:2] == ["init", "join"]
    assert {line["action"] for line in lab.journal(lab.coordinator)} >= {"approve", "submit"}

    # Each has the model that was released, what it did on one page, and itself in one file.
    assert summary["delivery"]["sites"] == sorted(hospitals), lab.logs()
    for name, partner in lab.partners.items():
        given = lab.root / f"model-{name}"
        lab.fedlite("site", "model", partner.home, "heart", "--out", given)
        for file in ("model.safetensors", "model.json"):
            assert (given / file).read_bytes() == (run / file).read_bytes()
        told = lab.json("site", "record", partner.home)
        (one,) = told["runs"]
        assert (one["coordinator"], one["scenario"], one["signed"]) == ("lab", "heart", True)
        assert [int(r["round"]) for r in one["releases"]] == [1, 2, 3, 4, 5]
        lab.fedlite("site", "backup", partner.home, lab.root / f"{name}.tar")

    # The same settings and seeds, nothing private: the same model as a simulation, bit for bit.
    for partner in lab.partners.values():
        path = partner.home / "site.toml"
        path.write_text(path.read_text().replace('units = ["record"]', 'units = ["none"]'))
    lab.approve(lab.bundle("heart", "--rounds", "5", *CLEAR))
    lab.submit("heart", "--rounds", "5", *CLEAR)
    alone = lab.root / "simulated"
    lab.fedlite("simulate", "heart", "--rounds", 5, *CLEAR, *SIMULATED, "--out", alone)
    deployed, simulated = model(lab.coordinator / "runs" / "heart-2"), model(alone)
    assert deployed.keys() == simulated.keys()
    for name in deployed:
        np.testing.assert_array_equal(deployed[name], simulated[name], err_msg=name)
    with capsys.disabled():
        seconds = sorted(r["seconds"] for r in lab.rounds("heart-2"))
        print(
            f"\n4 hospitals: enrolled in {enrolled - begun:.1f} s, 5 private rounds in "
            f"{ran - enrolled:.1f} s, median of a later run {seconds[2]:.2f} s a round"
        )
