"""Corruptions do what they say, more of it at a higher severity, and the same each time."""

from __future__ import annotations

import numpy as np
import pytest

from fedlite.data import Dataset
from fedlite.evaluation.corruptions import SEVERITIES, chosen, corrupt, known, meaning
from fedlite.scenario.tabular import Columns

READING = Columns(names=("age", "sex"), categories=(("sex", ("f", "m", "x")),))


def rows(n: int = 2000) -> Dataset:
    rng = np.random.default_rng(0)
    x = np.zeros((n, 4), np.float32)
    x[:, 0] = 3 * rng.normal(size=n)
    x[np.arange(n), 1 + rng.integers(0, 3, n)] = 1.0
    return Dataset(x, np.zeros(n, np.int64))


def images(n: int = 50) -> Dataset:
    rng = np.random.default_rng(0)
    x = np.zeros((n, 1, 16, 16), np.float32)
    x[:, :, 4:12, 7:9] = rng.uniform(0.5, 1.0, (n, 1, 1, 1))
    return Dataset(x, np.zeros(n, np.int64))


@pytest.mark.parametrize("data", [rows(), images()], ids=["rows", "images"])
def test_each_spoils_more_at_a_higher_severity_and_repeats(data: Dataset) -> None:
    shape = data.x.shape[1:]
    for name in known(shape):
        before, distances = data.x.copy(), []
        for severity in SEVERITIES:
            moved = corrupt(data, name, severity, READING)
            assert moved.x.dtype == np.float32 and moved.x.shape == data.x.shape
            np.testing.assert_array_equal(moved.x, corrupt(data, name, severity, READING).x)
            distances.append(float(np.square(moved.x - data.x).mean()))
        assert 0 < distances[0] < distances[1] < distances[2], name
        np.testing.assert_array_equal(data.x, before)
        assert meaning(name, shape)


def test_numbers_get_noise_and_texts_do_not() -> None:
    data = rows()
    moved = corrupt(data, "noise", 2, READING).x
    np.testing.assert_array_equal(moved[:, 1:], data.x[:, 1:])
    assert (moved[:, 0] - data.x[:, 0]).std() == pytest.approx(0.5 * data.x[:, 0].std(), rel=0.05)


def test_a_missing_text_is_missing_in_all_its_features() -> None:
    data = rows()
    moved = corrupt(data, "missing", 3, READING).x
    assert (moved[:, 0] == 0).mean() == pytest.approx(0.5, abs=0.05)
    gone = moved[:, 1:].sum(axis=1) == 0
    assert gone.mean() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(moved[~gone, 1:], data.x[~gone, 1:])


def test_a_shift_moves_every_record_alike_and_a_swap_keeps_whole_values() -> None:
    data = rows()
    moved = corrupt(data, "shift", 3, READING).x - data.x
    assert np.abs(moved[:, 0]).max() == pytest.approx(data.x[:, 0].std(), rel=1e-3)
    assert np.ptp(moved[:, 0]) < 1e-5 and not moved[:, 1:].any()
    swapped = corrupt(data, "swap", 3, READING).x
    assert set(np.unique(swapped[:, 1:].sum(axis=1))) == {1.0}
    assert (swapped[:, 0] != data.x[:, 0]).mean() == pytest.approx(0.2, abs=0.03)


def test_images_keep_their_range_and_are_turned_both_ways() -> None:
    data = images()
    for name in known(data.x.shape[1:]):
        moved = corrupt(data, name, 3).x
        assert data.x.min() <= moved.min() and moved.max() <= data.x.max() + 1e-6, name
    turned = corrupt(data, "rotation", 3).x
    # The top of the bar leans to the one side or the other.
    top = turned[:, 0, 4, :] @ np.arange(16) / turned[:, 0, 4, :].sum(axis=1)
    assert (top > 8).any() and (top < 7).any()


def test_brightness_and_contrast_are_by_formula() -> None:
    data = images()
    low, high = data.x.min(), data.x.max()
    bright = np.clip(data.x + 0.2 * (high - low), low, high)
    np.testing.assert_allclose(corrupt(data, "brightness", 2).x, bright, atol=1e-6)
    middle = data.x.mean(axis=(1, 2, 3), keepdims=True)
    flat = middle + 0.4 * (data.x - middle)
    np.testing.assert_allclose(corrupt(data, "contrast", 2).x, flat, atol=1e-6)


def test_names_are_checked_against_the_shape() -> None:
    assert chosen("noise, missing,noise", (4,)) == ("noise", "missing")
    assert chosen("all", (1, 8, 8)) == known((1, 8, 8)) and chosen("", (4,)) == ()
    with pytest.raises(ValueError, match=r"--corrupt: must be among noise, missing.*got 'blur'"):
        chosen("blur", (4,))
    with pytest.raises(ValueError, match=r"or all, got 'missing'"):
        chosen("missing", (1, 8, 8))
