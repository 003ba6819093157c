"""Records whose gradients are huge or not finite: bounded like any other."""

from __future__ import annotations

import numpy as np
import pytest

from fedlite.parameters import to_vector
from fedlite.privacy import RecordMechanism, dpsgd
from fedlite.privacy.gradients import ModelGradients
from fedlite.privacy.noise import Stream
from tests.privacy.small import SILENT, linear, loss


def step_with(value: float, rows: list[int]) -> np.ndarray:
    """One step without noise on 12 records of which number 3 holds `value`."""
    model, x, y = linear()
    x = x.clone()
    x[3] = value
    dpsgd.train(
        model,
        x[rows],
        y[rows],
        loss,
        RecordMechanism(0.5, SILENT, 1.0, steps=1, expected_batch=4),
        steps=1,
        learning_rate=0.5,
        sampler=Stream.seeded(1),
        noise=Stream.seeded(1),
    )
    return to_vector(model).astype(np.float64)


EVERYBODY = list(range(12))
WITHOUT = [row for row in EVERYBODY if row != 3]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_record_whose_gradient_is_not_finite_counts_as_zero(value: float) -> None:
    """A hostile model can choose which record overflows: the step must not fail for it."""
    found = step_with(value, EVERYBODY)
    np.testing.assert_allclose(found, step_with(value, WITHOUT), rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [1e30, 3e38])
def test_a_huge_record_moves_the_sum_by_no_more_than_the_clip(value: float) -> None:
    moved = np.linalg.norm(step_with(value, EVERYBODY) - step_with(value, WITHOUT))
    assert 0.0 < moved <= 0.5 * 0.5 / 4 * 1.001


def test_a_bad_record_takes_no_pass_more_than_a_good_one() -> None:
    """A second pass for it took twice the time: whether a record is there could be read off."""
    shapes = []
    for value in (0.5, float("nan")):
        model, x, y = linear()
        x = x.clone()
        x[3] = value
        passes: list[tuple[int, ...]] = []
        model.register_forward_hook(lambda m, given, o, p=passes: p.append(tuple(given[0].shape)))
        gradients = ModelGradients(model, x, y, loss)
        with gradients:
            dpsgd.noised_sum(
                gradients, np.arange(12), RecordMechanism(0.5, 1.0, 1.0, 1, 4), Stream.fresh()
            )
        shapes.append(passes)
    assert shapes[0] == shapes[1] == [(32, 6)]
