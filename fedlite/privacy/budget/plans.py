"""A run's plan: what it may do to one data set at one site."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from fedlite.privacy.accounting import check_delta
from fedlite.privacy.mechanism import (
    ClientMechanism,
    Event,
    Mechanism,
    SharedMechanism,
    cut_slack,
)
from fedlite.privacy.ranges import (
    ALONE,
    MOST_STEPS,
    bounds_absence,
    shares_noise,
    surely_honest,
)
from fedlite.privacy.shared.lattice import rounding_slack

_TERMS = (
    "unit",
    "noise_multiplier",
    "sampling_rate",
    "asked",
    "clip",
    "expected_batch",
    "max_batch",
    "max_records",
    "members",
    "least",
    "honest",
    "coordinates",
    "group",
    "groups",
    "split",
)
_SHARED = ("members", "least", "honest", "coordinates", "group", "alone")


@dataclass(frozen=True)
class Plan:
    """What one run may do to one data set at one site, committed and charged before its first step.

    steps: admitted, at most those `asked` for. charged: epsilon of all plans up to this one, whole,
    by `bound`, at the policy's delta. epsilon_asked, delta: what the run promises for itself.
    members, least, honest: of those who share the noise; coordinates: of their sums; group: their
    names and keys, hex; alone: as `charged`, if all others collude with the server. 0, or nothing,
    where nobody does. groups, split: in how many sums a round is, and the seed that divides the
    members into them, 16 hex digits; of one sum neither is written down.
    """

    run: str
    unit: str
    noise_multiplier: float
    sampling_rate: float
    steps: int
    asked: int
    clip: float
    expected_batch: int
    max_batch: int
    max_records: int
    delta: float
    epsilon_asked: float
    bound: str
    charged: float
    code: str
    members: int = 0
    least: int = 0
    honest: int = 0
    coordinates: int = 0
    group: Mapping[str, str] = field(default_factory=dict, hash=False)
    alone: float = 0.0
    groups: int = 1
    split: str = ""

    def body(self) -> dict[str, Any]:
        """Return what a ledger's row holds."""
        body = dict(vars(self))
        if not self.shared:
            for name in _SHARED:
                del body[name]
        if self.groups == 1:
            del body["groups"], body["split"]
        return body

    def asks_the_same(self, other: Plan) -> bool:
        """Return whether both are for the same mechanism; how much is admitted is the site's."""
        return all(getattr(self, name) == getattr(other, name) for name in _TERMS)

    @property
    def shared(self) -> bool:
        """Whether others' noise is counted on."""
        return shares_noise(self.unit)

    @property
    def carried(self) -> int:
        """Honest sites whose noise is in every sum, where it is shared."""
        return surely_honest(self.members, self.least, self.honest, self.groups)

    @property
    def by_itself(self) -> Plan:
        """What is left of it when all others collude with the server: the site's own noise."""
        if not self.shared:
            return self
        own = self.noise_multiplier / math.sqrt(self.carried)
        return replace(self, unit=ALONE[self.unit], noise_multiplier=own)

    def slack(self, epsilon: float, steps: int) -> float:
        """Return the delta that cutting samples, or rounding shares, costs over `steps` steps."""
        if self.shared:
            return rounding_slack(epsilon, self.carried, self.coordinates, steps)
        if not self.max_batch:
            return 0.0
        rate, cap, records = self.sampling_rate, self.max_batch, self.max_records
        return cut_slack(epsilon, rate, steps, cap, records)


def parts_of(plans: Sequence[Plan], steps: Sequence[int] | None = None) -> list[tuple[Event, int]]:
    """Return one (event, steps) for each plan, in order; `steps` replaces those of the plans.

    Where plans of several units meet, their sum has to be one for a change that all of them bound:
    one record, or all that one client holds, is replaced or taken away. Noise at the server, and
    shared noise on whole updates, is in units of the clip, for a client that stays away; for a
    client that sends something else the sensitivity is twice that.
    """
    mixed = len({plan.unit for plan in plans}) > 1
    parts = []
    for plan, count in zip(plans, steps or [plan.steps for plan in plans], strict=True):
        half = mixed and bounds_absence(plan.unit)
        sigma = plan.noise_multiplier / 2 if half else plan.noise_multiplier
        parts.append((Event(sigma, plan.sampling_rate), count))
    return parts


def asked_plan(
    run: str,
    mechanism: Mechanism,
    *,
    epsilon: float,
    delta: float,
    code: str,
    group: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """Return what a run asks for as a plan that is not admitted, charged or written yet.

    run: 16 hex digits. epsilon, delta: what the run promises for itself. code: digest, hex. group:
    names and keys of those who share the noise, where it is shared.
    Raises ValueError for a number outside its range.
    """
    check_run(run)
    check_delta(delta)
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"asked_epsilon: must be finite and at least 0, got {epsilon!r}")
    if mechanism.steps > MOST_STEPS:
        raise ValueError(f"steps: must be at most {MOST_STEPS:,}, got {mechanism.steps:,}")
    groups = getattr(mechanism, "groups", 1)
    return Plan(
        run=run,
        unit=plan_unit(mechanism),
        noise_multiplier=float(mechanism.noise_multiplier),
        sampling_rate=float(mechanism.sampling_rate),
        steps=mechanism.steps,
        asked=mechanism.steps,
        clip=float(mechanism.clip),
        expected_batch=getattr(mechanism, "expected_batch", 0),
        max_batch=getattr(mechanism, "max_batch", 0),
        max_records=getattr(mechanism, "max_records", 0),
        delta=float(delta),
        epsilon_asked=float(epsilon),
        bound="pld",
        charged=0.0,
        code=code,
        members=getattr(mechanism, "sites", 0),
        least=getattr(mechanism, "least", 0),
        honest=getattr(mechanism, "honest", 0),
        coordinates=getattr(mechanism, "coordinates", 0),
        group=dict(group),
        groups=groups,
        split=f"{getattr(mechanism, 'split', 0):016x}" if groups > 1 else "",
    )


def plan_unit(mechanism: Mechanism) -> str:
    """Return what policies and ledgers call the mechanism's unit and the place of its noise."""
    if isinstance(mechanism, ClientMechanism):
        return f"client-{mechanism.at}"
    return f"{mechanism.unit}-shared" if isinstance(mechanism, SharedMechanism) else mechanism.unit


def check_run(run: str) -> None:
    """Raise ValueError unless `run` is 16 lower-case hex digits."""
    if not (isinstance(run, str) and re.fullmatch(r"[0-9a-f]{16}", run)):
        raise ValueError(f"run: must be 16 lower-case hex digits, got {run!r}")
