"""Numbers of a mechanism held against their ranges, and what a bound on samples costs."""

from __future__ import annotations

import math
from typing import Any

MAX_SLACK = 0.01
"""Share of a delta that the capping of samples, or the rounding of shares, may use up."""

LEAST_NOISE = 1e-6
"""Noise multipliers below it are no noise, and their grid is finer than a float64 sum can carry."""


def cut_slack(
    epsilon: float, sampling_rate: float, steps: int, max_batch: int, max_records: int
) -> float:
    """Return the delta that cutting Poisson samples to `max_batch` rows adds over `steps` steps.

    Couple the cut run M' with the uncut M by the same sample and noise: they differ only if some
    sample is larger than the cap, at most with probability tau = steps x P[Binomial(max_records,
    sampling_rate) > max_batch], on either of two adjacent data sets of at most `max_records` rows.
    So if M is (epsilon, delta)-DP, then
    P[M'(D) in S] <= P[M(D) in S] + tau <= e^epsilon P[M(D') in S] + delta + tau
    <= e^epsilon P[M'(D') in S] + delta + (1 + e^epsilon) tau, which holds for adaptively chosen
    steps too. The sum of several runs' slacks is the slack of all.

    Raises ValueError when a number is outside its range.
    """
    check_rate(sampling_rate)
    check_count("steps", steps, 0)
    check_count("max_batch", max_batch, 1)
    check_count("max_records", max_records, 1)
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon: must be finite and at least 0, got {epsilon!r}")
    if max_batch >= max_records:
        return 0.0
    from scipy.stats import binom

    larger = float(binom.sf(max_batch, max_records, sampling_rate))
    return odds(epsilon) * steps * larger


def check_cap(
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    max_batch: int,
    max_records: int,
) -> float:
    """Return the `cut_slack`, or raise ValueError where it is more than `MAX_SLACK` of `delta`."""

    def slack(cap: int) -> float:
        return cut_slack(epsilon, sampling_rate, steps, cap, max_records)

    found, most = slack(max_batch), MAX_SLACK * delta
    if found <= most:
        return found
    low, high = max_batch, max_records
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if slack(middle) <= most else (middle, high)
    raise ValueError(
        f"max_batch: cutting larger samples must cost at most {MAX_SLACK:.0%} of delta "
        f"({most:.2g} at epsilon {epsilon:.4g}), got {max_batch}, which costs {found:.2g}; "
        f"set at least {high}"
    )


def odds(epsilon: float) -> float:
    """Return 1 + e^epsilon: what a distance in total variation is multiplied by in delta."""
    # Beyond e^700 a float overflows; any chance at all of a cut is then too much.
    return 1.0 + math.exp(min(epsilon, 700.0))


def check_positive(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is finite and greater than 0."""
    # Comparisons with NaN are false, so the rule is stated as what must be true.
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: must be finite and greater than 0, got {value!r}")


def check_noise(value: Any) -> None:
    """Raise ValueError unless `value` is a noise multiplier of a mechanism."""
    if not (math.isfinite(value) and value >= LEAST_NOISE):
        raise ValueError(
            f"noise_multiplier: must be finite and at least {LEAST_NOISE:g}, got {value!r}"
        )


def check_rate(value: Any) -> None:
    """Raise ValueError unless `value` is a sampling rate."""
    if not 0 < value <= 1:
        raise ValueError(f"sampling_rate: must be greater than 0 and at most 1, got {value!r}")


def check_count(name: str, value: Any, least: int) -> None:
    """Raise ValueError unless `value` is a whole number of at least `least`."""
    if not (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        raise ValueError(f"{name}: must be a whole number of at least {least}, got {value!r}")
