"""Membership inference: at chance where nothing is learnt, far from it without privacy's noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedlite.attacks.membership import auc, membership
from fedlite.attacks.subject import Subject
from tests.attacks.mutants import RECORD


def test_auc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 30).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    assert auc(inside, outside) == pytest.approx(np.mean(pairs))


@pytest.mark.long
def test_noise_hides_members_and_its_absence_shows_them(
    subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = subject(sampling_rate=1.0, clip=5.0)
    hidden = membership(one, models=8, rounds=6)
    assert hidden.kind == "estimate" and hidden.outcome == "pass"
    assert abs(hidden.figures["auc"] - 0.5) < 0.1
    RECORD["no noise"][0](monkeypatch)
    shown = membership(one, models=8, rounds=60)
    assert shown.figures["auc"] > hidden.figures["auc"] + 0.02


def test_too_few_models_are_refused(subject: Callable[..., Subject]) -> None:
    with pytest.raises(ValueError, match="models: must be at least 4, got 3"):
        membership(subject(), models=3, rounds=1)
