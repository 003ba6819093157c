"""A bundle released by a coordinator's process and used at a site's, through the real gateway."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedlite
from fedlite.evaluation import open_model
from tests.end_to_end.conftest import Lab, Partner
from tests.inference.conftest import SCENARIO

pytestmark = pytest.mark.long


def actions(partner: Partner) -> list[str]:
    return [row["action"] for row in partner.lab.journal(partner.home)]


def restarted(partner: Partner) -> None:
    """A site asks what is released when it begins; a minute would be long to wait."""
    partner.stop()
    partner.start()
    partner.wait_online()


def test_a_bundle_is_released_fetched_and_used_and_no_old_one_is_brought_back(
    lab: Lab, tmp_path: Path, wait: Callable[..., Any]
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from fedlite.inference.release import write_bundle

    fedlite.simulate(SCENARIO, out=tmp_path / "run", engine="serial")
    for name in ("first", "second"):
        write_bundle(open_model(tmp_path / "run"), tmp_path / name)
        # The second is a smaller world: another threshold, and so another manifest.
        if name == "first":
            summary = tmp_path / "run" / "summary.json"
            told = json.loads(summary.read_text())
            summary.write_text(json.dumps(told | {"scenario": "routed again"}))
    lab.start()
    partner = lab.add("north", data="digits")
    first = lab.json("server", "release", tmp_path / "first", "--note", "the first one")["released"]
    announced = lab.coordinator / "releases" / "announced.json"
    old = announced.read_bytes()
    partner.start()
    partner.wait_online()
    wait("the news", lambda: "released" in actions(partner))
    (row,) = lab.json("site", "released", partner.home)["releases"]
    assert (row["sha256"], row["state"], row["in_use"]) == (first, "not fetched", "")
    assert "fetch of site.toml is false" in partner.log

    policy = partner.home / "site.toml"
    policy.write_text(policy.read_text().replace("fetch = false", "fetch = true"))
    restarted(partner)
    wait("the bundle", lambda: "fetched" in actions(partner))
    assert lab.json("site", "status", partner.home)["releases"][0]["state"] == "to decide on"
    wrong = lab.fedlite("site", "status", partner.home, "--quiet", code=1).stdout
    assert f"bundle {first[:12]} to decide on" in wrong
    page = lab.fedlite("site", "released", partner.home, first[:12], "--yes").stdout
    assert "the first one" in page and "| # routed" in page
    key = page.split("--signed-by ")[1].split()[0]
    x = np.random.default_rng(0).uniform(0, 1, (20, 1, 8, 8)).astype(np.float32)
    used = fedlite.load_bundle(partner.home / "releases" / "current", signed_by=key)
    made = fedlite.load_bundle(tmp_path / "first")
    assert np.array_equal(used.predict(x).shares, made.predict(x).shares)

    second = lab.json("server", "release", tmp_path / "second")["released"]
    assert second != first
    restarted(partner)
    wait("the second", lambda: actions(partner).count("fetched") == 2)
    # What is in use is what a person approved, whatever the coordinator has now.
    assert lab.json("site", "released", partner.home)["releases"][0]["in_use"] == first
    lab.fedlite("site", "released", partner.home, second, "--yes")
    lab.fedlite("site", "released", partner.home, "--back")
    assert lab.json("site", "released", partner.home)["releases"][0]["in_use"] == first

    # Whoever gets hold of the server, but not of its key, says that the first is new.
    announced.write_bytes(old)
    restarted(partner)
    wait("the refusal", lambda: "must be newer than" in partner.log)
    assert "refuse" in actions(partner)[-2:]
    announced.write_bytes(old.replace(b"the first one", b"the third one"))
    shutil.rmtree(lab.coordinator / "releases" / first)
    restarted(partner)
    wait("the second refusal", lambda: "must be signed by" in partner.log)
    lab.fedlite("site", "released", partner.home, "--back")
    rows = lab.json("site", "released", partner.home)["releases"]
    assert rows[0]["in_use"] == rows[0]["sha256"] == second
    assert partner.stop() == 0
