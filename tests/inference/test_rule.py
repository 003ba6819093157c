"""By whose records a bundle's threshold is chosen, against the same test said with scipy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.data import load as load_data
from fedlite.evaluation import open_model
from fedlite.inference.calibration import GRID
from fedlite.inference.release import write_bundle
from fedlite.inference.rule import Own, rule_by, rule_of

DIGITS = load_data("digits").test
assert DIGITS is not None
X = DIGITS.x


def test_sites_have_bundles_of_their_own(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    summary = json.loads((copy / "summary.json").read_text())
    told = summary["inference"]
    with pytest.raises(
        ValueError,
        match="--site: must be left out where all sites have one threshold, got 'site-01'; leave",
    ):
        rule_of(open_model(copy), "site-01")
    told |= {"kind": "site", "promise": "holds for inputs of that site"}
    del told["threshold"]
    told["by_site"]["site-01"] |= {"threshold": None, "missing": 12}
    (copy / "summary.json").write_text(json.dumps(summary))
    alone, other = (rule_of(open_model(copy), name) for name in ("site-01", "site-02"))
    assert alone.threshold is None and "12 calibration records more" in alone.promise
    assert other.threshold == told["by_site"]["site-02"]["threshold"]
    assert "holds for inputs of that site" in other.promise
    # And what was measured is that site's alone.
    mine = told["by_site"]["site-02"]
    assert other.calibrated is not None and alone.calibrated is not None
    for name in ("harm", "loss", "accuracy", "share_shallow", "tested"):
        assert other.calibrated[name] == mine[name]
    assert other.calibrated["on"] == "site-02, which it held out"
    costs = open_model(copy).model.costs()
    stem, early, tail = (costs[part]["macs"] for part in ("stem", "exit", "tail"))
    work = stem + early + (1 - mine["share_shallow"]) * tail
    assert other.calibrated["macs"]["adaptive"] == pytest.approx(work)
    assert alone.calibrated["macs"]["adaptive"] == stem + tail
    with pytest.raises(ValueError, match="--site: must be one of site-01, site-02"):
        rule_of(open_model(copy))
    told["router"] = "mine.mine"
    (copy / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=r"inference\.router: must be one of .*runs no code"):
        rule_of(open_model(copy), "site-02")
    del summary["inference"]
    (copy / "summary.json").write_text(json.dumps(summary))
    assert rule_of(open_model(copy)).threshold is None


def test_records_of_the_place_choose_in_the_place_of_the_run(run: Path, tmp_path: Path) -> None:
    assert DIGITS is not None
    file, few = tmp_path / "place.npz", tmp_path / "few.npz"
    np.savez(file, x=X, y=DIGITS.y)
    np.savez(few, x=X[:50], y=DIGITS.y[:50])
    trained = open_model(run)
    found = rule_by(trained, Own(file, "margin", 0.1, 0.9), None)
    with torch.no_grad():
        shallow, deep = (one.double().numpy() for one in trained.model(torch.tensor(X)))
    two = np.sort(softmax(shallow, axis=1), axis=1)[:, -2:]
    harmed = (deep.argmax(1) == DIGITS.y) & (shallow.argmax(1) != DIGITS.y)
    wanted = None
    for threshold in GRID:
        reached = two[:, 1] - two[:, 0] >= threshold
        if stats.binom.cdf((harmed & reached).sum(), len(X), 0.1) > 0.1:
            break
        wanted = threshold
    assert found.threshold == wanted is not None and found.router == "margin"
    assert "At most 10 points" in found.promise and "calibrated with" in found.promise
    again = tmp_path / "again.npz"
    np.savez(again, x=np.repeat(X[:20], 20, 0), y=np.repeat(DIGITS.y[:20], 20))
    copied = rule_by(trained, Own(again, alpha=0.5), None)
    assert copied.threshold is not None and copied.calibrated is not None
    assert "380 calibration records had the values of others" in copied.promise
    assert copied.calibrated["copies"] == 380
    none = rule_by(trained, Own(few), None)
    assert none.threshold is None and "249 calibration records more" in none.promise
    for wrong, rule in (
        (Own(file, "mine.py:f"), r"--router: must be one of .*runs no code"),
        (Own(file, alpha=1.0), "--alpha: must be above 0 and below 1, got 1.0"),
        (Own(tmp_path / "no.npz"), "no such file"),
    ):
        with pytest.raises(ValueError, match=rule):
            rule_by(trained, wrong, None)
    with pytest.raises(ValueError, match="--site: must be left out with --calibrate-with"):
        write_bundle(trained, tmp_path / "b", site="site-01", own=Own(file))
    for given in ("0.1", "0"):
        told = ["export", str(run), "--to", str(tmp_path / "c"), "--alpha", given]
        refused = CliRunner().invoke(app, told)
        assert refused.exit_code and "--alpha: must be left out" in " ".join(refused.output.split())
