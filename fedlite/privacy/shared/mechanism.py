"""The mechanism of shared noise, as one frozen object; see `fedlite.privacy.mechanism`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedlite.privacy.checks import check_count, check_noise, check_positive, check_rate
from fedlite.privacy.event import Event, clip_bound
from fedlite.privacy.grid import fine_cell
from fedlite.privacy.ranges import LEAST_MEMBERS, sharing_problem, surely_honest, worst_group
from fedlite.privacy.shared.lattice import (
    OWN_UNITS,
    REACH,
    TAIL,
    UNIT_CELLS,
    rounding_slack,
    width,
)


@dataclass(frozen=True)
class SharedMechanism:
    """Sums over sites that share the noise; the privacy unit is one record, or all of one site.

    All that anybody sees of a round is one sum: of what the sites hand in, and of the noise of
    those that took part. Kairouz, Liu, Steinke 2021 (distributed discrete Gaussian); rounding as in
    `fedlite.privacy.shared.lattice`.

    unit="record": DP-SGD. All sites take gradients at the same public model, each over its own
    secret Poisson sample. Steps are summed one by one: of several local steps between two sums
    nothing of this is proven. Adjacency: add or remove one record of one site's table.
    unit="client": a site's whole update, made in any way, is clipped and handed in, and that is all
    of it that is ever seen. Adjacency: all that one site hands in is replaced by zero, while who
    the members are and who takes part is public. Not amplified by sampling. The sum has the law
    that a trusted server's would have (`ClientMechanism`).

    Each sum is of at least `least` of the `sites`. When at least `honest` of all sites are, the
    noise of `honest - (sites - least)` honest ones is in every sum, whoever drops out or is dropped
    by the server: `carried`. Each therefore adds noise enough for `carried` to make sigma.

    groups > 1: a round has as many sums, each of `sites / groups` sites, and a site is in one of
    them. Then all who may be missing, and all who are not honest, are taken to be in one group, and
    `carried` is of that (`worst_group`). Of two adjacent federations one group's sum differs in
    each round, and all others are independent of what differs: so a round is one release, with
    sigma as of one sum, whatever anybody sees first (docs/secure-sum.md).

    clip: bound C > 0 on the L2 norm, over the common support, of one record's gradient or of one
    site's update. noise_multiplier: sigma > 0, of the honest noise that is surely in a sum, in
    units of C. sampling_rate: q in (0, 1]; 1 of a client. steps: planned number of sums over the
    whole run, at least 1. expected_batch: of one site; 0 of a client. coordinates: length of the
    common support, at least 1. sites: K >= 3. least, honest: from 1 to K. groups: divides K into
    groups of at least 3. split: the public seed by which they are divided in each round, from 0 to
    2^64 - 1; no figure follows from it. reach: the public bound on what a site hands in of a
    coordinate, in units of C; 0 takes `REACH` deviations of the noise.

    Raises ValueError for a number outside its range, and where so few make no secret sum
    (`sharing_problem`), by which honest noise is in every one.

    >>> mechanism = SharedMechanism(clip=0.1, noise_multiplier=8.0, sampling_rate=1.0, steps=30,
    ...                             expected_batch=287, coordinates=600, sites=5, least=4, honest=4)
    >>> mechanism.carried, round(mechanism.own_std, 3), mechanism.bits
    (3, 0.462, 7)
    """

    clip: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    expected_batch: int
    coordinates: int
    sites: int
    least: int
    honest: int
    unit: Literal["record", "client"] = "record"
    reach: float = 0.0
    groups: int = 1
    split: int = 0

    def __post_init__(self) -> None:
        """Check every number."""
        check_positive("clip", self.clip)
        check_noise(self.noise_multiplier)
        check_rate(self.sampling_rate)
        for name in ("steps", "coordinates", "least", "honest", "groups"):
            check_count(name, getattr(self, name), 1)
        if self.unit not in ("record", "client"):
            raise ValueError(f"unit: must be 'record' or 'client', got {self.unit!r}")
        check_count("expected_batch", self.expected_batch, int(self.unit == "record"))
        if self.unit == "client" and (self.expected_batch or self.sampling_rate != 1.0):
            raise ValueError(
                "unit: a client has no batches, and no sampling amplifies it; set expected_batch "
                f"to 0 and sampling_rate to 1, got {self.expected_batch} and {self.sampling_rate}"
            )
        if not 0.0 <= self.reach < math.inf:
            raise ValueError(f"reach: must be finite and at least 0, got {self.reach!r}")
        check_count("sites", self.sites, LEAST_MEMBERS)
        check_count("split", self.split, 0)
        if self.split >= 2**64:
            raise ValueError(f"split: must be below 2^64, got {self.split}")
        if told := sharing_problem(self.sites, self.least, self.honest, self.groups):
            mend = "raise least, or take fewer groups" if self.groups > 1 else "raise least"
            raise ValueError(f"honest: {told}; {mend}")

    @property
    def adjacency(self) -> str:
        """Which two federations must be hard to tell apart."""
        if self.unit == "client":
            return (
                "replace everything that one site hands in by zero; who the members are and who "
                "takes part is public; only sums over the sites are seen"
            )
        return "add or remove one record of one site's table; only sums over the sites are seen"

    @property
    def summed(self) -> tuple[int, int, int]:
        """Of one sum: its members, the least that are in it, the least that are honest."""
        return worst_group(self.sites, self.least, self.honest, self.groups)

    @property
    def carried(self) -> int:
        """Honest sites whose noise is in every sum, if `honest` of all sites are."""
        return surely_honest(self.sites, self.least, self.honest, self.groups)

    @property
    def sensitivity(self) -> float:
        """L2 change of a sum between adjacent federations: the clip."""
        return self.clip

    @property
    def noise_std(self) -> float:
        """Standard deviation of the honest noise that is surely on every coordinate of a sum."""
        return self.noise_multiplier * self.sensitivity

    @property
    def divisor(self) -> int:
        """What a sum is divided by: public and planned, whoever has answered."""
        return self.summed[0] * max(1, self.expected_batch)

    @property
    def own_multiplier(self) -> float:
        """What one site adds, in units of the sensitivity."""
        return self.noise_multiplier / math.sqrt(self.carried)

    @property
    def own_std(self) -> float:
        """Standard deviation of what one site adds to every coordinate of its sum."""
        return self.own_multiplier * self.sensitivity

    @property
    def event(self) -> Event:
        """One sum for the accountants, with the noise of `carried` honest sites."""
        return Event(self.noise_multiplier, self.sampling_rate)

    def seen_with(self, count: int) -> Event:
        """Return one sum for the accountants when the noise of `count` honest sites is in it.

        With 1 it is what is left when all others and the server collude.
        """
        check_count("count", count, 1)
        return Event(self.own_multiplier * math.sqrt(count), self.sampling_rate)

    def hidden_among(self, count: int) -> int:
        """Return of how many honest sites the noise is in whatever can be seen of one of them.

        count: honest ones that are in every sum by number, as `carried` counts them; at least 1.
        That a sum is all that is seen holds where they are more than may be missing: it is the
        rule 2 t > K + c for them (docs/secure-sum.md). Of fewer each can be singled out, by lists
        that shrink around it, and what is seen of it then has its own noise alone.
        """
        check_count("count", count, 1)
        members, inside, _ = self.summed
        return count if count > members - inside else 1

    @property
    def unit_width(self) -> float:
        """Width of a unit of the grid on which sums are seen."""
        return UNIT_CELLS * fine_cell(self.own_std)

    @property
    def most_cells(self) -> int:
        """Fine cells beyond which a site cuts a coordinate of its clean sum: public, as K is."""
        most = self.reach * self.sensitivity or REACH * self.noise_std / self.summed[0]
        return math.floor(most / fine_cell(self.own_std))

    @property
    def bits(self) -> int:
        """The b of the modulus 2^b in which no sum wraps, but for noise beyond `TAIL` deviations.

        The bound is of public numbers alone: of all members of a sum what a site's clean coordinate
        may be and half a unit for rounding, and the noise of all of them.
        """
        members, _, _ = self.summed
        clean = members * (self.most_cells / UNIT_CELLS + 0.5)
        return width(clean + TAIL * OWN_UNITS * math.sqrt(members))

    def clip_bound(self, coordinates: int) -> float:
        """Return the L2 norm to which a gradient or update is clipped, as `RecordMechanism` does.

        What is cut at `most_cells` afterwards moves no two sums apart: cutting is a projection.
        """
        return clip_bound(self.clip, self.own_multiplier, coordinates)

    def delta_slack(self, epsilon: float) -> float:
        """Return the delta that rounding at the sites costs over the plan, at `epsilon`."""
        return rounding_slack(epsilon, self.carried, self.coordinates, self.steps)
