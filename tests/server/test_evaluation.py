from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fedlite import plan as plans
from fedlite.models import build
from fedlite.parameters import load_vector, to_vector
from fedlite.scenario import Scenario, from_dict
from fedlite.tasks.curves import area_under_curve, areas_under_curves
from server.evaluation import Evaluator


def digits() -> Scenario:
    return from_dict({"federation": {"sites": 3}, "model": {"name": "mlp"}})


def table(path: Path, **data: object) -> Scenario:
    rng = np.random.default_rng(0)
    rows = ["site,a,b,c,label"]
    for n in range(60):
        a, b, c = rng.normal(size=3)
        rows.append(f"h{n % 3},{a:.4f},{b:.4f},{c:.4f},{int(a + b > 0)}")
    path.write_text("\n".join(rows) + "\n")
    return from_dict(
        {
            "federation": {"sites": 3},
            "data": {"name": "csv", "path": str(path), "target": "label", "partition": "natural"}
            | data,
            "model": {"name": "mlp"},
        }
    )


def test_accuracy_is_the_share_of_right_answers_on_records_not_trained_on() -> None:
    evaluator = Evaluator(*plans.simulated(digits()))
    model = build("mlp", (1, 8, 8), 10, seed=8)
    scores = evaluator.overall(to_vector(model))
    assert evaluator.source.test is not None
    x, y = evaluator.source.test.x, evaluator.source.test.y
    with torch.no_grad():
        for name, logits in zip(("shallow", "deep"), model(torch.from_numpy(x)), strict=True):
            right = sum(int(row.argmax()) == label for row, label in zip(logits, y, strict=True))
            assert scores["accuracy"][name] == pytest.approx(right / len(y))
    assert "auc" not in scores and "360 records" in evaluator.on
    by_site = evaluator.by_site(to_vector(model))
    assert sorted(by_site) == ["site-01", "site-02", "site-03"]
    trained = {row.tobytes() for site in evaluator.sites for row in site.train.x}
    held = [row.tobytes() for site in evaluator.sites for row in site.test.x]
    assert len([row for row in held if row in trained]) < 0.02 * len(held)


def test_without_a_global_test_set_sites_count_by_their_records(tmp_path: Path) -> None:
    evaluator = Evaluator(*plans.simulated(table(tmp_path / "t.csv")))
    vector = to_vector(evaluator.model)
    scores, sites = evaluator.overall(vector), evaluator.by_site(vector)
    load_vector(evaluator.model, vector)
    counts = {site.name: len(site.test) for site in evaluator.sites}
    for branch in ("shallow", "deep"):
        mean = sum(sites[n]["accuracy"][branch] * counts[n] for n in sites) / sum(counts.values())
        assert scores["accuracy"][branch] == pytest.approx(mean)
        aucs = [s["auc"][branch] for s in sites.values() if "auc" in s]
        assert scores["auc"][branch] == pytest.approx(np.mean(aucs))


def test_the_area_is_the_chance_to_rank_a_pair_right() -> None:
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 6, 40).astype(float), rng.integers(0, 2, 40)
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in scores[labels == 1]
        for n in scores[labels == 0]
    ]
    assert area_under_curve(scores, labels) == pytest.approx(np.mean(pairs))


def test_a_model_that_overflows_scores_badly_and_raises_nothing(tmp_path: Path) -> None:
    evaluator = Evaluator(*plans.simulated(table(tmp_path / "t.csv")))
    vector = to_vector(evaluator.model)
    rng = np.random.default_rng(0)
    huge = (rng.choice([-1, 1], vector.size) * 3e38).astype(np.float32)
    scores = evaluator.overall(huge)
    assert all(
        0.0 <= v <= 1.0 for v in [v for figures in scores.values() for v in figures.values()]
    )


def test_a_site_that_holds_nothing_out_is_left_out(tmp_path: Path) -> None:
    evaluator = Evaluator(*plans.simulated(table(tmp_path / "t.csv")))
    first, *others = evaluator.sites
    bare = replace(first, test=first.test.take(np.zeros(0, np.int64)))
    evaluator.sites = (bare, *others)
    vector = to_vector(evaluator.model)
    assert list(evaluator.by_site(vector)) == [site.name for site in others]
    assert 0.0 <= evaluator.overall(vector)["accuracy"]["deep"] <= 1.0
    assert evaluator.records == sum(len(site.test) for site in others)


def test_where_no_site_holds_anything_out_none_is_scored() -> None:
    tables = {"federation": {"sites": 2}, "data": {"test_fraction": 0.0}, "model": {"name": "mlp"}}
    evaluator = Evaluator(*plans.simulated(from_dict(tables)))
    vector = to_vector(evaluator.model)
    assert evaluator.by_site(vector) == {}
    assert evaluator.records == 360


def test_one_batch_gives_what_each_site_by_itself_gives(tmp_path: Path) -> None:
    evaluator = Evaluator(*plans.simulated(table(tmp_path / "t.csv")))
    vector = to_vector(evaluator.model) + np.float32(0.1)
    found = evaluator.by_site(vector)
    load_vector(evaluator.model, vector)
    for site in evaluator.sites:
        x, y = torch.from_numpy(site.test.x), site.test.y
        with torch.no_grad():
            answers = evaluator.model(evaluator.model.prepare(x))
        for branch, logits in zip(("shallow", "deep"), answers, strict=True):
            right = float((logits.argmax(1).numpy() == y).mean())
            assert found[site.name]["accuracy"][branch] == pytest.approx(right)
            if 0 < y.sum() < len(y):
                area = roc_auc_score(y, (logits[:, 1] - logits[:, 0]).double().numpy())
                assert found[site.name]["auc"][branch] == pytest.approx(area)
            else:
                assert "auc" not in found[site.name]


def test_areas_of_many_owners_are_those_of_each_alone() -> None:
    rng = np.random.default_rng(2)
    owners = rng.integers(0, 40, 600)
    scores, labels = rng.integers(-3, 4, 600).astype(float), rng.integers(0, 2, 600)
    labels[owners == 7], owners[owners == 9] = 1, 10
    areas = areas_under_curves(scores, labels, owners, 41)
    for owner in range(41):
        mine = owners == owner
        if len(np.unique(labels[mine])) == 2:
            assert areas[owner] == pytest.approx(roc_auc_score(labels[mine], scores[mine]))
        else:
            assert np.isnan(areas[owner])
    assert np.isnan(areas[[7, 9, 40]]).all()


def test_a_model_is_run_again_only_when_it_has_changed(tmp_path: Path) -> None:
    evaluator = Evaluator(*plans.simulated(table(tmp_path / "t.csv")))
    runs = []
    evaluator.model.register_forward_hook(lambda *_: runs.append(1))
    vector = to_vector(evaluator.model)
    first = evaluator.overall(vector)
    assert len(runs) == 1, "all sites in one batch"
    evaluator.by_site(vector.copy())
    assert evaluator.overall(vector.copy()) == first and len(runs) == 1
    vector += 1  # in place: what was scored was another model
    assert evaluator.overall(vector) != first and len(runs) == 2
