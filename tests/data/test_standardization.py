import numpy as np
import pytest

from fedlite.data import Dataset, SiteData, standardize


def site(seed: int = 0) -> SiteData:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(60, 4)) * [1, 10, 0.1, 0] + [0, 100, -5, 7]).astype(np.float32)
    x[::7, 1] = np.nan
    y = rng.integers(0, 2, 60)
    return SiteData("a", Dataset(x[:40], y[:40]), Dataset(x[40:], y[40:]))


def test_the_training_part_is_centred_and_scaled_and_complete() -> None:
    before, after = site(), standardize(site())
    assert after.train.x.dtype == np.float32
    assert np.isfinite(after.train.x).all() and np.isfinite(after.test.x).all()
    assert np.allclose(after.train.x.mean(axis=0), 0, atol=1e-5)
    seen = ~np.isnan(before.train.x[:, 1])
    assert after.train.x[seen, 1].std() == pytest.approx(1, abs=1e-5)
    assert np.all(after.train.x[~seen, 1] == 0)
    assert np.all(after.train.x[:, 3] == 0), "a constant column is only centred"
    assert np.array_equal(after.train.y, before.train.y)


def test_only_the_training_part_decides() -> None:
    before = site()
    other = SiteData("a", before.train, Dataset(before.test.x * 50 + 3, before.test.y))
    assert np.array_equal(standardize(before).train.x, standardize(other).train.x)
    mean = np.nanmean(before.train.x.astype(np.float64), axis=0)
    std = np.nanstd(before.train.x.astype(np.float64), axis=0)
    expected = (before.test.x[:, 0] - mean[0]) / std[0]
    assert np.allclose(standardize(before).test.x[:, 0], expected, atol=1e-5)


def test_a_feature_missing_throughout_is_zero_even_where_the_held_out_part_has_it() -> None:
    x = np.array([[np.nan, 1], [np.nan, 2], [np.nan, 3]], np.float32)
    y = np.array([0, 1, 1])
    after = standardize(SiteData("a", Dataset(x[:2], y[:2]), Dataset(x[2:], y[2:])))
    assert np.all(after.train.x[:, 0] == 0) and after.test.x[0, 0] == 0


def test_the_input_is_left_alone() -> None:
    before = site()
    copy = before.train.x.copy()
    standardize(before)
    assert np.array_equal(before.train.x, copy, equal_nan=True)


def test_without_training_records_nothing_is_scaled() -> None:
    none = Dataset(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))
    held = Dataset(np.array([[2.0, np.nan]], np.float32), np.zeros(1, np.int64))
    scaled = standardize(SiteData("empty-site", none, held))
    assert scaled.train.x.shape == (0, 2) and scaled.test.x.tolist() == [[2.0, 0.0]]


def test_a_small_spread_far_from_zero_is_no_constant() -> None:
    x = (1.7e12 + np.arange(40.0)).reshape(-1, 1)
    y = np.arange(40) % 2
    scaled = standardize(SiteData("a", Dataset(x, y, raw=True), Dataset(x[:1], y[:1], raw=True)))
    assert scaled.train.x.dtype == np.float32
    assert np.allclose(scaled.train.x[:, 0], (np.arange(40) - 19.5) / np.arange(40).std())
    constant = np.full((40, 1), 0.1)
    one = SiteData("a", Dataset(constant, y, raw=True), Dataset(constant, y, raw=True))
    assert not standardize(one).train.x.any()


def test_a_feature_that_the_site_never_saw_is_zero_where_it_is_held_out_too() -> None:
    """Else one unix time stands beside features of the order of 1, and decides all."""
    x = np.array([[1.0, np.nan], [3.0, np.nan]])
    train = Dataset(x, np.array([0, 1]), raw=True)
    test = Dataset(np.array([[2.0, 1.7e9]]), np.array([0]), raw=True)
    scaled = standardize(SiteData("a", train, test))
    assert scaled.train.x.tolist() == [[-1, 0], [1, 0]] and scaled.test.x.tolist() == [[0, 0]]


def test_calibration_records_are_scaled_as_the_others_and_have_no_influence() -> None:
    rng = np.random.default_rng(9)
    x, y = rng.normal(5, 3, (60, 2)).astype(np.float32), np.zeros(60, np.int64)
    train, test, kept = (Dataset(x[a : a + 20], y[:20]) for a in (0, 20, 40))
    without = standardize(SiteData("a", train, test))
    scaled = standardize(SiteData("a", train, test, kept))
    assert without.calibration is None and scaled.calibration is not None
    np.testing.assert_array_equal(scaled.train.x, without.train.x)
    wanted = (x[40:] - x[:20].mean(axis=0, dtype=np.float64)) / x[:20].std(axis=0, dtype=np.float64)
    np.testing.assert_allclose(scaled.calibration.x, wanted, rtol=1e-5)
