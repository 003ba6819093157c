"""Calibration against a loop over bins."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from fedlite.evaluation.calibration import BINS, of_classes, of_labels


def test_the_error_is_that_of_a_loop_over_bins() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet((0.5, 0.5, 0.5), 500)
    true = rng.integers(0, 3, 500)
    told, sure = shares.argmax(axis=1), shares.max(axis=1)
    error = 0.0
    for at in range(BINS):
        inside = (sure >= at / BINS) & (sure < (at + 1) / BINS if at < BINS - 1 else sure <= 1)
        if inside.any():
            apart = abs(sure[inside].mean() - (told == true)[inside].mean())
            error += inside.mean() * apart
    found = of_classes(shares, true)
    assert found.error == pytest.approx(error)
    assert sum(one.records for one in found.bins) == 500
    wanted = np.mean([((shares[i] - np.eye(3)[true[i]]) ** 2).sum() for i in range(500)])
    assert found.brier == pytest.approx(wanted)


def test_probabilities_that_are_kept_have_almost_no_error() -> None:
    rng = np.random.default_rng(1)
    shares = rng.random((200_000, 1))
    kept = of_labels(shares, rng.random((200_000, 1)) < shares)
    assert kept.error < 0.01
    boasted = of_labels(np.sqrt(shares), rng.random((200_000, 1)) < shares)
    assert boasted.error > 0.1


def test_brier_is_scikit_learn_s() -> None:
    rng = np.random.default_rng(2)
    shares, true = rng.random((300, 1)), rng.random((300, 1)) < 0.3
    wanted = brier_score_loss(true.ravel(), shares.ravel())
    assert of_labels(shares, true).brier == pytest.approx(wanted)
