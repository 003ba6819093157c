"""Canaries go through the real clip and noise, and none disturbs another.

Covers fedlite/attacks/subject.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedlite.attacks.canaries import Dense, Dirac, Nothing, Repeated, WithCanaries
from fedlite.attacks.subject import Subject
from fedlite.privacy import RecordMechanism, dpsgd
from fedlite.privacy.noise import Stream

QUIET = RecordMechanism(0.5, 1e-6, 1.0, 1, 1)


@pytest.mark.parametrize("kind", [Dirac, Dense])
def test_canaries_are_orthogonal_unit_directions(kind: type[Dirac] | type[Dense]) -> None:
    canaries = kind.drawn(70, 64, np.random.default_rng(0))
    directions = np.stack([canaries.total(row) for row in np.eye(canaries.count)])
    assert canaries.count == 64
    np.testing.assert_allclose(directions @ directions.T, np.eye(64), atol=1e-12)
    vector = np.random.default_rng(1).normal(size=70)
    np.testing.assert_allclose(canaries.scores(vector), directions @ vector, atol=1e-12)


def test_a_dense_canary_lies_on_every_coordinate() -> None:
    canaries = Dense.drawn(64, 64, np.random.default_rng(0))
    assert (canaries.total(np.eye(64)[5]) != 0).all()


@pytest.mark.parametrize("kind", [Dirac, Dense])
def test_the_real_clip_cuts_each_canary_to_its_bound(kind: type[Dirac] | type[Dense]) -> None:
    canaries = kind.drawn(50, 32, np.random.default_rng(0))
    planted = WithCanaries(Nothing(50), canaries, first=7, norm=5.0)
    coins = np.arange(32) % 3 == 0
    total = dpsgd.noised_sum(planted, planted.rows(np.arange(2), coins), QUIET, Stream.fresh())
    scores = canaries.scores(total)
    np.testing.assert_allclose(scores, 0.5 * coins, atol=1e-5)


@pytest.mark.long
def test_canaries_leave_the_records_part_as_it_was(subject: Callable[..., Subject]) -> None:
    one = subject()
    canaries = Dirac.drawn(one.size, 20, np.random.default_rng(0))
    rows = np.arange(9)
    with one.gradients() as real:
        planted = WithCanaries(real, canaries, one.records, 5.0)
        both = dpsgd.noised_sum(
            planted, planted.rows(rows, np.ones(20, bool)), QUIET, Stream.fresh()
        )
    expected = one.reference(rows, QUIET)
    np.testing.assert_allclose(planted.clean, expected, atol=1e-5)
    np.testing.assert_allclose(both - canaries.total(np.full(20, 0.5)), expected, atol=1e-5)


def test_a_repeated_batch_answers_like_a_fresh_one(subject: Callable[..., Subject]) -> None:
    one = subject()
    kept = Repeated(one.gradients)
    for rows in (np.arange(5), np.arange(5), np.arange(4, 40)):
        for factor in (0.5, 0.25):
            with one.gradients() as real:
                norms = real.norms(rows)
                total = real.weighted(np.full(len(rows), factor))
            np.testing.assert_array_equal(kept.norms(rows), norms)
            np.testing.assert_array_equal(kept.weighted(np.full(len(rows), factor)), total)
