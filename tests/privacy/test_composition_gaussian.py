"""The exact loss of Gaussian mechanisms, beside the one on a grid."""

from __future__ import annotations

import pytest

from fedlite.privacy.composition import compose_pld, gaussian
from fedlite.privacy.mechanism import Event


@pytest.mark.long
@pytest.mark.parametrize("sigma", [0.3, 1.0, 13.0, 200.0])
@pytest.mark.parametrize(("steps", "delta"), [(1, 1e-5), (40, 1e-3), (89, 1e-7)])
def test_the_exact_loss_is_that_of_the_grid_and_not_below_the_truth(
    sigma: float, steps: int, delta: float
) -> None:
    parts = [(Event(sigma), steps)]
    exact, grid = gaussian(parts, delta), compose_pld(parts, delta)
    if exact is None:
        assert steps**0.5 / sigma >= 20.0
        return
    assert exact == pytest.approx(grid, rel=1e-4, abs=1e-4)
    # By Balle and Wang's theorem in 40 digits.
    import mpmath

    with mpmath.workdps(40):
        mu = mpmath.sqrt(steps) / mpmath.mpf(sigma)
        epsilon = mpmath.mpf(exact)
        tail = mpmath.ncdf(mu / 2 - epsilon / mu)
        tail -= mpmath.exp(epsilon) * mpmath.ncdf(-mu / 2 - epsilon / mu)
    assert float(tail) <= delta


def test_sampled_steps_and_a_tiny_delta_are_left_to_the_grid() -> None:
    assert gaussian([(Event(1.0, 0.1), 5)], 1e-5) is None
    assert gaussian([(Event(1.0), 5), (Event(1.0, 0.1), 5)], 1e-5) is None
    assert gaussian([(Event(1.0), 5)], 1e-12) is None
