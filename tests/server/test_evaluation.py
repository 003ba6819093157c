from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedlite import plan as plans
from fedlite.models import build
from fedlite.parameters import load_vector, to_vector
from fedlite.scenario import Scenario, from_dict
from server.evaluation import Evaluator, area_under_curve


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
            assert scores.accuracy[name] == pytest.approx(right / len(y))
    assert scores.auc == {} and "360 records" in evaluator.on
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
        mean = sum(sites[n].accuracy[branch] * counts[n] for n in sites) / sum(counts.values())
        assert scores.accuracy[branch] == pytest.approx(mean)
        aucs = [s.auc[branch] for s in sites.values() if s.auc]
        assert scores.auc[branch] == pytest.approx(np.mean(aucs))


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
    assert all(0.0 <= v <= 1.0 for v in [*scores.accuracy.values(), *scores.auc.values()])


def test_a_site_that_holds_nothing_out_is_left_out(tmp_path: Path) -> None:
    evaluator = Evaluator(*plans.simulated(table(tmp_path / "t.csv")))
    first = evaluator.sites[0].test
    evaluator._site_tests[0] = evaluator._prepare(first.take(np.zeros(0, np.int64)))
    vector = to_vector(evaluator.model)
    assert len(evaluator.by_site(vector)) == 2
    assert 0.0 <= evaluator.overall(vector).accuracy["deep"] <= 1.0
