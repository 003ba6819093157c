"""Covers simulations/baselines.py."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedlite import plan as plans
from fedlite.data.spread import spread
from fedlite.privacy import RecordMechanism, accounting
from fedlite.scenario import Scenario, ScenarioError, load, with_values
from simulations import baselines
from simulations.baselines import over_folds, train_here
from simulations.benchmarks import heart
from simulations.comparison import Comparison, as_summary, compare
from simulations.run import check, scenario_path, simulate

pytestmark = [pytest.mark.data("heart-disease"), pytest.mark.long]

SITES = ("cleveland", "hungary", "switzerland", "va-long-beach")
TINY = (
    "federation.rounds=3",
    "data.test_fraction=0.5",
    "report.baseline_repeats=1",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("heart") / "run"
    simulate(load(scenario_path("heart"), TINY), directory, engine="serial", quiet=True)
    return directory


@pytest.fixture(scope="module")
def tiny() -> Scenario:
    return check(load(scenario_path("heart"), TINY))


def test_the_scenario_is_what_the_report_claims() -> None:
    scenario = check(load(scenario_path("heart")))
    privacy = scenario.privacy
    assert (privacy.unit, privacy.epsilon, privacy.delta) == ("record", 3.0, 1e-5)
    assert privacy.simulate_seed == -1
    # Four fifths of 920 records at four hospitals: a public number, the same for all.
    assert privacy.expected_batch == 184
    assert scenario.data.test_fraction == 0.2 and scenario.inference.home_head


def test_a_run_is_set_beside_the_other_ways(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    found = summary["baselines"]
    assert (found["metric"], found["folds"], found["repeats"]) == ("auc", 2, 1)
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == [
        "alone, not private",
        "alone, epsilon 3",
        "pooled, not private",
        "federated, not private",
        "federated, epsilon 3",
        "federated, epsilon 3 + home head",
        "federated, epsilon 3, shallow branch",
    ]
    for row in rows.values():
        assert tuple(row["by_site"]) == SITES
        assert row["mean"] == pytest.approx(np.mean(list(row["by_site"].values())))
    # What the literature reports for these two hospitals is about .9.
    alone = rows["alone, not private"]["by_site"]
    assert 0.85 < alone["cleveland"] < 0.95 and 0.85 < alone["hungary"] < 0.95
    exchange = found["exchange"]
    assert {(a, b) for a in exchange for b in exchange[a]} == {(a, b) for a in SITES for b in SITES}
    for site in SITES:
        assert exchange[site][site] == pytest.approx(alone[site])
    assert found["accuracy"]["always the commonest class"]["switzerland"] == pytest.approx(
        0.935, abs=0.01
    )
    assert "no gain in it is claimed" in found["note"] and "right for 93 %" in found["note"]


def test_the_page_shows_the_comparisons_and_the_home_heads(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert set(summary["home_head"]) == {"auc"} and set(summary["home_head"]["auc"]) == set(SITES)
    page = (finished / "report.html").read_text()
    assert "Beside other ways to train" in page and "federated, epsilon 3 + home head" in page
    assert (finished / "figures" / "baselines.png").stat().st_size > 10_000


def test_the_home_scores_are_those_of_the_released_model(finished: Path, tiny: Scenario) -> None:
    """Once more by another road: scikit-learn's AUC of the heads' own logits."""
    from sklearn.metrics import roc_auc_score

    from fedlite.models import build
    from fedlite.models.files import read_vector
    from fedlite.parameters import Layout, load_vector
    from fedlite.training.head import deep_features, home_head

    source, sites = spread(tiny)
    model = build("linear", source.shape, 2, seed=0)
    load_vector(model, read_vector(finished, Layout.of(model)))
    summary = json.loads((finished / "summary.json").read_text())
    for site in sites:
        head = home_head(model, site.train, seed=tiny.federation.seed)
        margin = head.logits(deep_features(model, site.test.x)) @ [-1.0, 1.0]
        assert summary["home_head"]["auc"][site.name] == pytest.approx(
            roc_auc_score(site.test.y, margin)
        )


def test_training_without_messages_is_the_federation_without_compression(
    tiny: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both roads, with next to no noise and dense links, end at the same model."""
    monkeypatch.setattr(accounting, "calibrate", lambda *_, **__: 1e-6)
    scenario = tiny
    for link in ("uplink", "downlink"):
        scenario = with_values(scenario, link, compressor="dense", error_feedback=False)
    plans._of.cache_clear()
    plan, _, sites = plans.simulated(scenario)
    planned = plan.mechanism
    assert isinstance(planned, RecordMechanism) and planned.noise_multiplier == 1e-6
    here = train_here(scenario, [site.train for site in sites], planned)
    there = baselines.federate(scenario)
    plans._of.cache_clear()
    assert np.abs(there).max() > 0.5
    assert there == pytest.approx(here, abs=1e-4)


def test_every_fold_is_another_part_and_every_repeat_another_division(tiny: Scenario) -> None:
    held = {}
    for repeat in range(2):
        for fold in range(2):
            scenario = baselines.divided(tiny, repeat, fold)
            _, sites = spread(scenario)
            held[repeat, fold] = {row.tobytes() for row in sites[3].test.x}
    assert held[0, 0] != held[0, 1] and held[0, 0] != held[1, 0]


def test_without_held_out_records_it_is_refused(tiny: Scenario) -> None:
    scenario = with_values(tiny, "data", test_fraction=0.0)
    with pytest.raises(ScenarioError, match=r"test_fraction: must be greater than 0.*baseline"):
        compare(scenario, 1, lambda _: None)


def comparison_of(scores: np.ndarray) -> Comparison:
    """`scores` [repeats, ways, sites], the same in the one fold of each repeat."""
    ways = ("alone, not private", "pooled, not private", "federated, epsilon 3")
    sites = ("a", "b")
    flat = np.full((len(scores), 1, 2), 0.5)
    exchange = np.full((len(scores), 2, 2), 0.5)
    return Comparison("auc", ways, sites, scores, scores[:, None], scores[:, None], flat, exchange)


def test_a_fold_without_a_score_is_left_out_of_the_mean() -> None:
    values = np.array([[[0.5, math.nan], [0.7, math.nan]]])
    assert over_folds(values)[0, 0] == pytest.approx(0.6) and math.isnan(over_folds(values)[0, 1])


def test_differences_are_paired_within_a_repeat() -> None:
    # [repeats, ways, sites]: the federation wins at `a` twice, at `b` once.
    scores = np.array([[[0.5, 0.9], [0.5, 0.5], [0.6, 0.8]], [[0.7, 0.5], [0.5, 0.5], [0.9, 0.6]]])
    found = comparison_of(scores)
    at_a, at_b, mean = heart.differences(found, found.ways[2], found.ways[0])
    assert (at_a["value"], at_a["won"]) == (pytest.approx(0.15), 1.0)
    assert (at_b["value"], at_b["won"]) == (pytest.approx(0.0), 0.5)
    assert mean["value"] == pytest.approx(0.075) and mean["sd"] == pytest.approx(0.15 / 2**0.5)


def test_an_undefined_score_never_reaches_the_summary(tiny: Scenario) -> None:
    scores = np.array([[[0.5, math.nan], [0.5, math.nan], [0.6, math.nan]]])
    summary = as_summary(tiny, replace(comparison_of(scores)))
    assert summary["rows"][0] == {"name": "alone, not private", "by_site": {"a": 0.5}, "mean": 0.5}
    assert json.dumps(summary, allow_nan=False)
