"""The one frozen object from which sensitivity, noise and the accounting event come."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class RecordMechanism:
    """DP-SGD at one site (Abadi et al. 2016, algorithm 1); the privacy unit is one record.

    Each step releases `(sum of clipped per-record gradients + N(0, noise_std^2 I)) /
    expected_batch` over a Poisson sample with rate `sampling_rate`, to everybody outside the site.
    Adjacency: add or remove one record. `expected_batch` is public and the same for every site, so
    the size of a site's data set is protected as well.

    clip: bound C > 0 on the L2 norm of one record's gradient over *all* trained tensors.
    noise_multiplier: sigma > 0, in units of the sensitivity.
    sampling_rate: q in (0, 1].
    steps: planned number of steps T >= 1 over the whole run, committed before the first.

    >>> mechanism = RecordMechanism(clip=0.1, noise_multiplier=8.0, sampling_rate=1.0,
    ...                             steps=30, expected_batch=287)
    >>> mechanism.sensitivity, mechanism.noise_std
    (0.1, 0.8)
    """

    clip: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    expected_batch: int

    def __post_init__(self) -> None:
        """Check every number."""
        for name in ("clip", "noise_multiplier"):
            value = getattr(self, name)
            # Comparisons with NaN are false, so the rule is stated as what must be true.
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: must be finite and greater than 0, got {value!r}")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(
                f"sampling_rate: must be greater than 0 and at most 1, got {self.sampling_rate!r}"
            )
        for name in ("steps", "expected_batch"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name}: must be a whole number of at least 1, got {value!r}")

    @property
    def sensitivity(self) -> float:
        """L2 change of the summed gradient when one record is added or removed: the clip."""
        return self.clip

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on every coordinate of the summed gradient."""
        return self.noise_multiplier * self.sensitivity
