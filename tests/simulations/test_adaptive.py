"""Which inputs leave early after a simulation, against the same said with torch and loops.

Covers fedlite/inference/work.py, fedlite/inference/measured.py, fedlite/reporting/routes.py,
fedlite/reporting/page_routes.py, fedlite/inference/counted.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fedlite import plan as plans
from fedlite.data import Dataset
from fedlite.evaluation import open_model
from fedlite.inference.calibration import GRID, choose, pooled
from fedlite.inference.measured import inference_of, site_counts
from fedlite.inference.work import answered, copies, early
from fedlite.reporting.report import report
from fedlite.reporting.routes import verdict
from fedlite.scenario import Scenario, ScenarioError, from_dict
from simulations.run import check, simulate
from tests.reporting.reader import read

pytestmark = pytest.mark.long

SCENARIO: dict[str, Any] = {
    "federation": {"name": "routed", "rounds": 5, "sites": 3, "weighting": "records"},
    "model": {"name": "cnn"},
    "training": {"epochs": 2, "learning_rate": 0.1},
    "inference": {"calibration": 0.3, "alpha": 0.03},
}


def scenario(**inference: Any) -> Scenario:
    return from_dict(SCENARIO | {"inference": SCENARIO["inference"] | inference})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("adaptive") / "run"
    simulate(scenario(), directory, engine="serial", quiet=True)
    return directory


@pytest.fixture(scope="module")
def told(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())["inference"]
    return found


def branches(run: Path, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the confidence of the shallow answer, and both branches' classes."""
    model = open_model(run).model
    with torch.no_grad():
        shallow, deep = model(model.prepare(torch.from_numpy(x)))
    return (
        torch.softmax(shallow.double(), 1).amax(1).numpy(),
        shallow.argmax(1).numpy(),
        deep.argmax(1).numpy(),
    )


def test_the_threshold_is_what_all_calibration_records_in_one_place_give(
    run: Path, told: dict[str, Any]
) -> None:
    _, _, sites = plans.simulated(scenario())
    kept = [site.calibration for site in sites if site.calibration is not None]
    x, y = np.concatenate([d.x for d in kept]), np.concatenate([d.y for d in kept])
    score, shallow, deep = branches(run, x)
    harmed = (deep == y) & (shallow != y)
    chosen = None
    from scipy.stats import binom

    for threshold in GRID:
        if binom.cdf(int((harmed & (score >= threshold)).sum()), len(y), 0.03) > 0.05:
            break
        chosen = threshold
    assert told["threshold"] == chosen and told["records"] == len(y) and told["missing"] == 0
    assert told["harm"] <= 0.03 and 0.2 < told["share_shallow"] < 1


def test_counts_of_sites_are_those_of_their_records_together(run: Path) -> None:
    chosen, trained = scenario(), open_model(run)
    _, source, sites = plans.simulated(chosen)
    parts = [s.calibration for s in sites if s.calibration is not None]
    each = pooled(site_counts(chosen, trained, part, 10) for part in parts)
    rows = np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts])
    whole = site_counts(chosen, trained, type(parts[0])(*rows), 10)
    for name in ("records", "harm", "shallow"):
        np.testing.assert_array_equal(getattr(each, name), getattr(whole, name))
    assert source.test is not None and each.total == sum(map(len, parts)) > 300


def test_figures_are_those_of_the_test_set(run: Path, told: dict[str, Any]) -> None:
    _, source, _ = plans.simulated(scenario())
    assert source.test is not None
    x, y = source.test.x, source.test.y
    score, shallow, deep = branches(run, x)
    leaves = score >= told["threshold"]
    given = np.where(leaves, shallow, deep)
    assert told["tested"] == len(y) == 360
    assert told["accuracy"]["adaptive"] == pytest.approx((given == y).mean())
    assert told["accuracy"]["deep"] == pytest.approx((deep == y).mean())
    assert told["loss"] == pytest.approx((deep == y).mean() - (given == y).mean())
    assert told["harm"] == pytest.approx(((deep == y) & (given != y)).mean())
    assert told["loss"] <= told["harm"] + 1e-12
    costs = open_model(run).model.costs()
    stem, exit, tail = (costs[part]["macs"] for part in ("stem", "exit", "tail"))
    work = stem + exit + (1 - leaves.mean()) * tail
    assert told["macs"]["adaptive"] == pytest.approx(work)
    assert told["macs"]["deep"] == stem + tail and told["macs"]["shallow"] == stem + exit
    assert told["auroc"]["confidence"] == pytest.approx(roc_auc_score(shallow == y, score))
    worst = max(told["by_class"], key=lambda name: told["by_class"][name]["harm"])
    of = y == int(worst)
    harmed = ((deep == y) & (given != y) & of).sum() / of.sum()
    assert told["by_class"][worst] == {"records": of.sum(), "harm": pytest.approx(harmed)}
    ends = told["curve"][0], told["curve"][-1]
    assert ends[1]["share_shallow"] == 1
    assert ends[1]["accuracy"] == pytest.approx(told["accuracy"]["shallow"])
    assert ends[0]["macs"] > told["macs"]["adaptive"] > ends[1]["macs"]


def test_each_site_is_judged_by_what_it_holds_out(run: Path, told: dict[str, Any]) -> None:
    _, _, sites = plans.simulated(scenario())
    assert set(told["by_site"]) == {site.name for site in sites}
    for site in sites:
        score, shallow, deep = branches(run, site.test.x)
        harmed = (score >= told["threshold"]) & (deep == site.test.y) & (shallow != site.test.y)
        row = told["by_site"][site.name]
        assert row["tested"] == len(site.test) and row["harm"] == pytest.approx(harmed.mean())
        assert row["violated"] == (harmed.mean() > 0.03)


def test_thresholds_of_sites_are_their_own(run: Path) -> None:
    trained = open_model(run)
    alone = inference_of(scenario(threshold="site"), trained)
    assert "threshold" not in alone and alone["on"] == "the sites' own held-out records"
    alone_at = {row["threshold"] for row in alone["by_site"].values()}
    assert len(alone_at) > 1
    drawn = inference_of(scenario(threshold="shrunk"), trained)
    assert "no guarantee" in drawn["promise"] and drawn["tested"] == alone["tested"]


def test_too_few_records_leave_everything_deep(run: Path) -> None:
    found = inference_of(scenario(alpha=0.001), open_model(run))
    assert found["threshold"] is None and found["missing"] > 2000 and found["share_shallow"] == 0
    assert found["loss"] == found["harm"] == 0
    assert found["macs"]["adaptive"] == found["macs"]["deep"]
    said = verdict(found)
    assert said.startswith(f"All inputs go deep: {found['missing']:,} calibration records more")


def test_without_labels_it_is_no_looser(run: Path, told: dict[str, Any]) -> None:
    blind = inference_of(scenario(labels=False), open_model(run))
    assert blind["threshold"] is None or blind["threshold"] >= told["threshold"]


def test_a_router_of_ones_own_and_its_auroc(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def mine(inputs, shares):\n    return 1 - shares.min(axis=1)\n")
    found = inference_of(scenario(router=f"{file}:mine"), open_model(run))
    assert found["router"] == "mine.mine"
    assert set(found["auroc"]) == {"mine.mine", "confidence", "margin", "entropy", "complexity"}


def test_the_page_shows_the_choice(run: Path, told: dict[str, Any]) -> None:
    from matplotlib.image import imread

    text, reader = read(run / "report.html")
    for words in ("Shallow or deep", "At most 3 points", "above the promise", "Harm by class"):
        assert words in text, words
    assert f"{100 * told['share_shallow']:.1f} % of inputs leave early" in text
    image = imread(run / "figures" / "routes.png")[..., :3]
    for colour in ("0072B2", "D55E00", "009E73"):
        wanted = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        assert (np.abs(image - wanted).max(axis=2) < 0.02).sum() > 100, colour
    assert sum(name == "src" for name, _ in reader.attributes) == 2


def test_a_summary_without_the_curve_is_named_damaged(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    summary = json.loads((copy / "summary.json").read_text())
    del summary["inference"]["curve"]
    (copy / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=r"key 'inference\.curve' is missing"):
        report(copy)


def test_a_site_that_keeps_no_record_for_it_counts_nothing(run: Path) -> None:
    _, _, sites = plans.simulated(scenario())
    nothing = sites[0].train.take(np.zeros(0, np.int64))
    for router in ("confidence", "margin", "entropy", "complexity"):
        found = site_counts(scenario(router=router), open_model(run), nothing, 10)
        assert found.total == found.harm.sum() == found.shallow.sum() == 0
    assert choose(found, 0.05, 0.95).missing == 59


def test_a_run_without_the_key_says_nothing_of_it(run: Path) -> None:
    one = check(from_dict({}))
    _, _, sites = plans.simulated(one)
    assert all(site.calibration is None for site in sites)


def test_a_model_with_one_branch_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n\n"
        "def make(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    with pytest.raises(ScenarioError, match=r"inference\.calibration: must be 0 for a model with"):
        check(from_dict(SCENARIO | {"model": {"name": f"{file}:make"}}))


def test_an_unknown_router_is_refused_and_a_deployment_is_not() -> None:
    with pytest.raises(ValueError, match=r"inference\.router: must be one of .*mean confidence"):
        check(scenario(router="confidense"))
    assert check(scenario(), deployed=True).inference.calibration == 0.3


def test_nothing_leaves_early_where_there_is_no_threshold(run: Path) -> None:
    _, source, _ = plans.simulated(scenario())
    assert source.test is not None
    of = answered(open_model(run), source.test)
    assert not early(of.shares.max(axis=1), None).any() and early(np.ones(2), 1.0).all()


def test_copies_are_counted_over_all_sites_by_input_and_label() -> None:
    x = np.array([[1.0], [1.0], [2.0], [1.0]], np.float32)
    parts = [Dataset(x, np.array([0, 0, 0, 1])), Dataset(x[2:3], np.array([0]))]
    assert copies(parts) == 2
