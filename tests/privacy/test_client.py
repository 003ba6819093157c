from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedlite.privacy import ClientMechanism, client

N = 40_000


def mechanism(at: str, clip: float = 0.5, sigma: float = 2.0) -> ClientMechanism:
    return ClientMechanism(clip=clip, noise_multiplier=sigma, steps=3, at=at)  # type: ignore[arg-type]


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.floats(1e-4, 1e4))
def test_the_bound_holds_after_rounding_and_short_updates_stay_as_they_are(
    seed: int, bound: float, scale: float
) -> None:
    update = (np.random.default_rng(seed).normal(size=50) * scale).astype(np.float32)
    clipped = client.clip(update, bound)
    norm = np.linalg.norm(update.astype(np.float64))
    assert clipped.dtype == np.float32
    assert np.linalg.norm(clipped.astype(np.float64)) <= bound
    if norm < bound * 0.999:
        np.testing.assert_array_equal(clipped, update)
    else:
        np.testing.assert_allclose(clipped, update * (bound / norm), rtol=2e-3)


@pytest.mark.parametrize(("at", "factor"), [("site", 2.0), ("server", 1.0)])
def test_noise_has_the_deviation_that_the_mechanism_says(at: str, factor: float) -> None:
    plan = mechanism(at)
    assert plan.noise_std == factor * 0.5 * 2.0
    zero = np.zeros(N, np.float32)
    if at == "site":
        noised = client.privatize(zero, plan, client.entropy(-1))
    else:
        noised = 10 * client.noised_mean(np.zeros(N), 10, plan, client.entropy(-1))
    # The standard error of a standard deviation over N draws is 1 / sqrt(2 N): 6 of them.
    assert noised.std() == pytest.approx(plan.noise_std, rel=6 / np.sqrt(2 * N))
    assert abs(noised.mean()) < 6 * plan.noise_std / np.sqrt(N)
    # On a grid of 1 / 819 of a deviation about one in 2,050 draws is 0.
    assert np.count_nonzero(noised) > N * (1 - 1 / 1000)


def test_the_divisor_is_the_planned_number_of_sites_whoever_answered() -> None:
    plan = mechanism("server", sigma=1e-6)
    total = np.full(5, 3.0)
    mean = client.noised_mean(total, 4, plan, client.entropy(-1))
    np.testing.assert_allclose(mean, 0.75, rtol=1e-5)


def test_noise_cannot_be_repeated_unless_it_is_only_simulated() -> None:
    plan, zero = mechanism("site"), np.zeros(30, np.float32)

    def draw(seed: int, *keys: int) -> np.ndarray:
        np.random.seed(0)
        return client.privatize(zero, plan, client.entropy(seed, *keys))

    assert not np.array_equal(draw(-1), draw(-1))
    np.testing.assert_array_equal(draw(3, 1, 2), draw(3, 1, 2))
    assert not np.array_equal(draw(3, 1, 2), draw(3, 2, 2))


@pytest.mark.parametrize("bound", [1e-6, 1e-3, 0.1])
def test_the_bound_holds_for_the_largest_numbers_that_there_are(bound: float) -> None:
    update = np.full(200_000, 3.4e38, np.float32)
    assert np.linalg.norm(client.clip(update, bound).astype(np.float64)) <= bound
    with pytest.raises(ValueError, match="finite"):
        client.clip(np.array([1.0, np.inf], np.float32), bound)


def test_an_update_that_is_not_finite_is_released_as_noise_alone() -> None:
    plan = mechanism("site")
    broken = np.full(N, np.nan, np.float32)
    noised = client.privatize(broken, plan, client.entropy(5, 1))
    np.testing.assert_array_equal(
        noised, client.privatize(np.zeros(N, np.float32), plan, client.entropy(5, 1))
    )
