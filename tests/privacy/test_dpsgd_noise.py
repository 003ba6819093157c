"""Noise lies on every coordinate, is never drawn twice, and follows no global seed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlite.parameters import to_vector
from fedlite.privacy import RecordMechanism, dpsgd
from fedlite.privacy.noise import Stream
from tests.privacy.small import SILENT, convolutional, linear, loss


@pytest.mark.long
@pytest.mark.parametrize("make", [linear, convolutional])
def test_noise_lies_on_every_coordinate_with_the_promised_deviation(
    make: Callable[[], tuple[nn.Module, Tensor, Tensor]],
) -> None:
    model, inputs, labels = make()
    repeats, rate, batch = 60, 0.25, 7
    mechanism = RecordMechanism(0.3, 5.0, 1.0, repeats, batch)
    quiet = RecordMechanism(0.3, SILENT, 1.0, repeats, batch)
    start = copy.deepcopy(model)
    _, noise = dpsgd.entropy(-1)

    def step(mechanism: RecordMechanism, generator: Stream) -> np.ndarray:
        trained = copy.deepcopy(start)
        dpsgd.train(
            trained,
            inputs,
            labels,
            loss,
            mechanism,
            steps=1,
            learning_rate=rate,
            sampler=Stream.seeded(0),
            noise=generator,
        )
        return to_vector(trained).astype(np.float64)

    mean = step(quiet, Stream.fresh())
    count = 60 if mean.size < 1000 else 12
    draws = np.stack([step(mechanism, noise) for _ in range(count)]) - mean
    promised = mechanism.noise_std / batch * rate
    squares = (draws / promised) ** 2
    # A sum of n squared standard normals has mean n and variance 2 n; six deviations allow 1e-9.
    n = squares.size
    assert abs(squares.sum() - n) < 6 * math.sqrt(2 * n)
    by_coordinate = squares.sum(axis=0)
    assert by_coordinate.min() > 0.0
    # Neither steps nor coordinates repeat each other.
    if mean.size < 1000:
        assert by_coordinate.min() > 0.25 * count and by_coordinate.max() < 3.0 * count
        flat = draws / promised
        assert abs((flat[1:] * flat[:-1]).mean()) < 6 / math.sqrt(flat[1:].size)
        assert abs((flat[:, 1:] * flat[:, :-1]).mean()) < 6 / math.sqrt(flat[:, 1:].size)


def noised(simulate_seed: int, *keys: int) -> np.ndarray:
    model, inputs, labels = linear()
    torch.manual_seed(0)
    np.random.seed(0)
    sampler, noise = dpsgd.entropy(simulate_seed, *keys)
    dpsgd.train(
        model,
        inputs,
        labels,
        loss,
        RecordMechanism(1.0, 1.0, 0.5, 2, 4),
        steps=2,
        learning_rate=0.1,
        sampler=sampler,
        noise=noise,
    )
    return to_vector(model)


def test_global_seeds_cannot_repeat_the_noise() -> None:
    assert not np.array_equal(noised(-1, 1, 2), noised(-1, 1, 2))
    state = torch.random.get_rng_state()
    dpsgd.entropy(-1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_only_a_simulation_seed_repeats_and_each_round_and_site_has_its_own() -> None:
    np.testing.assert_array_equal(noised(3, 1, 2), noised(3, 1, 2))
    for other in ((3, 1, 3), (3, 2, 2), (4, 1, 2)):
        assert not np.array_equal(noised(3, 1, 2), noised(*other))
