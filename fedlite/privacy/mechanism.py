"""The one frozen object from which sensitivity, noise and the accounting event come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedlite.privacy.checks import (
    LEAST_NOISE as LEAST_NOISE,
    MAX_SLACK as MAX_SLACK,
    check_cap as check_cap,
    check_count as check_count,
    check_noise,
    check_positive as check_positive,
    check_rate as check_rate,
    cut_slack as cut_slack,
)
from fedlite.privacy.event import Event as Event, clip_bound
from fedlite.privacy.shared.mechanism import SharedMechanism as SharedMechanism


@dataclass(frozen=True)
class RecordMechanism:
    """DP-SGD at one site (Abadi et al. 2016, algorithm 1); the privacy unit is one record.

    Each step releases `(sum of clipped per-record gradients + N(0, noise_std^2 I)) /
    expected_batch` over a Poisson sample with rate `sampling_rate`, to everybody outside the site.
    The sum is on a grid and the noise is discrete (`fedlite.privacy.noise`), which costs what the
    continuous Gaussian does. Adjacency: add or remove one record of the site's table.
    `expected_batch` is public and the same for every site, so the size of a site's data set is
    protected as well.

    clip: bound C > 0 on the L2 norm of one record's gradient over *all* trained tensors.
    noise_multiplier: sigma > 0, in units of the sensitivity.
    sampling_rate: q in (0, 1].
    steps: planned number of steps T >= 1 over the whole run, committed before the first.
    max_batch: a larger sample is cut to a random subset of this size; 0 never cuts.
    max_records: public upper bound on the records of any site; needed where max_batch is set.

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
    max_batch: int = 0
    max_records: int = 0

    def __post_init__(self) -> None:
        """Check every number."""
        check_positive("clip", self.clip)
        check_noise(self.noise_multiplier)
        check_rate(self.sampling_rate)
        check_count("steps", self.steps, 1)
        check_count("expected_batch", self.expected_batch, 1)
        check_count("max_batch", self.max_batch, 0)
        check_count("max_records", self.max_records, 0)
        if self.max_batch and not self.max_records:
            raise ValueError(
                "max_records: must be at least 1 where max_batch is set, because the cost of the "
                f"cap depends on how many records a site may hold, got {self.max_records!r}"
            )

    @property
    def unit(self) -> str:
        """What is protected: one record."""
        return "record"

    @property
    def adjacency(self) -> str:
        """Which two data sets must be hard to tell apart."""
        return "add or remove one record of the site's table"

    @property
    def sensitivity(self) -> float:
        """L2 change of the summed gradient when one record is added or removed: the clip."""
        return self.clip

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on every coordinate of the summed gradient."""
        return self.noise_multiplier * self.sensitivity

    @property
    def event(self) -> Event:
        """One step for the accountants."""
        return Event(self.noise_multiplier, self.sampling_rate)

    def clip_bound(self, coordinates: int) -> float:
        """Return the L2 norm to which one record's gradient is clipped: a little less than `clip`.

        Rounding the sum to the grid may move it by one fine cell a coordinate; what is clipped
        leaves room for that and for the arithmetic, so that `sensitivity` holds for what is noised.
        coordinates: length of the vector, at least 1. Raises ValueError where the room would be
        more than a tenth of the clip.

        >>> RecordMechanism(clip=0.1, noise_multiplier=8.0, sampling_rate=1.0, steps=30,
        ...                 expected_batch=287).clip_bound(20_640) > 0.0999
        True
        """
        return clip_bound(self.clip, self.noise_multiplier, coordinates)

    def delta_slack(self, epsilon: float) -> float:
        """Return the delta that cutting large samples costs over the plan, at `epsilon`.

        See `cut_slack`; 0 where `max_batch` is 0.
        """
        if not self.max_batch:
            return 0.0
        return cut_slack(epsilon, self.sampling_rate, self.steps, self.max_batch, self.max_records)


@dataclass(frozen=True)
class ClientMechanism:
    """A whole update clipped and noised; the privacy unit is all that one client ever sends.

    at="server": the server clips every decoded update to C, sums with a fixed public denominator
    and noises all coordinates of the sum. Adjacency: all that one client sends is replaced by zero,
    while who takes part and when is public; sensitivity C. The
    server is trusted; a client may compute its update in any way, error feedback included.
    at="site": the site clips and noises its own update before anything is selected from it.
    Adjacency: any other data at that client, for which two updates of norm C differ by at most 2C.
    Nobody is trusted.

    Neither is amplified by sampling: whoever runs the rounds sees which clients take part.

    clip: bound C > 0 on the L2 norm of one update over all coordinates.
    noise_multiplier: sigma > 0, in units of the *sensitivity*, so that at="site" means twice the
    noise for the same clip.
    steps: planned number of participations of one client, at least 1.

    >>> at_site = ClientMechanism(clip=0.5, noise_multiplier=4.0, steps=30, at="site")
    >>> at_site.sensitivity, at_site.noise_std
    (1.0, 4.0)
    >>> at_site.event
    Event(noise_multiplier=4.0, sampling_rate=1.0)
    """

    clip: float
    noise_multiplier: float
    steps: int
    at: Literal["site", "server"]

    def __post_init__(self) -> None:
        """Check every number."""
        check_positive("clip", self.clip)
        check_noise(self.noise_multiplier)
        check_count("steps", self.steps, 1)
        if self.at not in ("site", "server"):
            raise ValueError(f"at: must be 'site' or 'server', got {self.at!r}")

    @property
    def unit(self) -> str:
        """What is protected: one client."""
        return "client"

    @property
    def adjacency(self) -> str:
        """Which two federations must be hard to tell apart."""
        if self.at == "server":
            return "replace everything that one client sends by zero; who takes part is public"
        return "replace everything that one client holds"

    @property
    def sampling_rate(self) -> float:
        """Always 1: no amplification is claimed."""
        return 1.0

    @property
    def sensitivity(self) -> float:
        """L2 change of what is noised between adjacent federations: C at a server, 2C at a site.

        The factor 2 is brought here, and only here. Accountants are never asked to bring it: the
        RDP of dp-accounting 0.6 (and Flower's, built on it) leaves it out under REPLACE_ONE.
        """
        return self.clip if self.at == "server" else 2.0 * self.clip

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on every coordinate of the sum or update."""
        return self.noise_multiplier * self.sensitivity

    @property
    def event(self) -> Event:
        """One participation for the accountants."""
        return Event(self.noise_multiplier, 1.0)

    def clip_bound(self, coordinates: int) -> float:
        """Return the L2 norm to which one client's update is clipped: a little less than `clip`.

        Rounding the sum to the grid may move it by one fine cell a coordinate; what is clipped
        leaves room for that and for the arithmetic, so that `sensitivity` holds for what is noised.
        coordinates: length of the vector, at least 1. Raises ValueError where the room would be
        more than a tenth of the clip.

        >>> ClientMechanism(clip=1.0, noise_multiplier=8.0, steps=3, at="site").clip_bound(10**20)
        Traceback (most recent call last):
        ...
        ValueError: noise_multiplier: must leave the clip room for rounding 100000000000000000000 \
values to the noise's grid, got 8.0; use a smaller model or a larger epsilon
        """
        return clip_bound(self.clip, self.noise_multiplier, coordinates)

    def delta_slack(self, epsilon: float) -> float:
        """Return 0: nothing is cut."""
        return 0.0


# What one site, or the server, releases by itself; and with it what only their sum releases.
LocalMechanism = RecordMechanism | ClientMechanism
Mechanism = LocalMechanism | SharedMechanism
