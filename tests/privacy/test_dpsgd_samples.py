"""Samples are Poisson, and never larger than the cap that was accounted for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedlite.parameters import to_vector
from fedlite.privacy import RecordMechanism, dpsgd
from fedlite.privacy.gradients import ModelGradients
from fedlite.privacy.noise import Stream
from fedlite.privacy.trial import block_of
from tests.privacy.small import SILENT, linear, loss


def test_poisson_batch_sizes_are_binomial() -> None:
    n, rate, draws = 400, 0.05, 3000
    rng = Stream.seeded(11)
    samples = [dpsgd.poisson_sample(n, rate, rng) for _ in range(draws)]
    sizes = np.array([len(s) for s in samples])
    variance = n * rate * (1 - rate)
    assert abs(sizes.mean() - n * rate) < 5 * math.sqrt(variance / draws)
    # A fixed batch size has variance 0, sampling with replacement another one.
    assert 0.88 < sizes.var() / variance < 1.12
    counts = np.bincount(np.concatenate(samples), minlength=n)
    assert abs(counts.mean() / draws - rate) < 0.002
    assert counts.min() > 0.5 * rate * draws and counts.max() < 1.5 * rate * draws
    assert all((np.diff(s) > 0).all() for s in samples)


def test_a_sample_above_the_cap_is_cut_to_a_random_subset_of_it() -> None:
    n, rate, cap, draws = 40, 0.3, 12, 4000
    rng, again = Stream.seeded(7), Stream.seeded(8)
    samples = [dpsgd.poisson_sample(n, rate, rng, cap) for _ in range(draws)]
    sizes = np.array([len(s) for s in samples])
    uncut = np.array([len(dpsgd.poisson_sample(n, rate, again)) for _ in range(draws)])
    assert sizes.max() == cap < uncut.max()
    # Samples below the cap are as they were; all of the others have its size.
    for size in (8, 10, 11):
        assert abs((sizes == size).mean() - (uncut == size).mean()) < 0.035
    assert abs((sizes == cap).mean() - (uncut >= cap).mean()) < 0.05
    # No record is cut more often than another: within five deviations of the mean count.
    counts = np.bincount(np.concatenate(samples), minlength=n)
    share = sizes.mean() / n
    assert np.abs(counts - draws * share).max() < 5 * math.sqrt(draws * share * (1 - share))
    assert all((np.diff(s) > 0).all() for s in samples)


def test_a_cap_that_is_not_reached_changes_nothing() -> None:
    for cap in (0, 40):
        rng, plain = Stream.seeded(3), Stream.seeded(3)
        for _ in range(20):
            np.testing.assert_array_equal(
                dpsgd.poisson_sample(40, 0.3, rng, cap), dpsgd.poisson_sample(40, 0.3, plain)
            )
        assert rng.words(1) == plain.words(1)


def test_training_takes_no_more_records_than_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, labels = linear()
    before = to_vector(model)
    seen: list[int] = []
    norms = ModelGradients.norms

    def counting(gradients: ModelGradients, rows: np.ndarray) -> np.ndarray:
        seen.append(len(rows))
        return norms(gradients, rows)

    block_of(model, inputs, labels, loss, 1)
    monkeypatch.setattr(ModelGradients, "norms", counting)
    mechanism = RecordMechanism(0.01, SILENT, 0.9, 20, 1, max_batch=5, max_records=12)
    arguments = {"steps": 20, "learning_rate": 1.0, "noise": Stream.fresh()}
    dpsgd.train(
        model,
        inputs,
        labels,
        loss,
        mechanism,
        sampler=Stream.seeded(1),
        **arguments,  # type: ignore[arg-type]
    )
    assert seen == [5] * 20
    assert np.linalg.norm(to_vector(model) - before) <= 20 * 5 * 0.01 * 1.001


def test_a_site_with_more_records_than_the_cap_was_accounted_for_is_refused() -> None:
    model, inputs, labels = linear()
    mechanism = RecordMechanism(1.0, 1.0, 0.5, 1, 1, max_batch=5, max_records=11)
    with pytest.raises(ValueError, match=r"max_records: must be at least .* got 11 for 12"):
        dpsgd.train(
            model,
            inputs,
            labels,
            loss,
            mechanism,
            steps=1,
            learning_rate=0.1,
            sampler=Stream.seeded(0),
            noise=Stream.fresh(),
        )


def test_rate_one_takes_every_record() -> None:
    assert dpsgd.poisson_sample(5, 1.0, Stream.seeded(0)).tolist() == [0, 1, 2, 3, 4]
