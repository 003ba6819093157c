"""What several runs on the same records cost together: no run is an island."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedlite.privacy.admission import order_for, rdp_epsilon
from fedlite.privacy.budget.plans import Plan, asked_plan, parts_of
from fedlite.privacy.composition import Parts, compose_pld
from fedlite.privacy.mechanism import MAX_SLACK, ClientMechanism, Mechanism, RecordMechanism
from fedlite.reporting import wording

# Beyond it no ceiling may be set, and a plan of next to no noise would be searched for ever.
_FARTHEST = 1e6


_BESIDE = (
    " It covers the records that are trained on: a search chooses by those that sites hold out, "
    "which no plan charges. Where they are private as well, search on public records."
)


@dataclass(frozen=True)
class Cost:
    """What `runs` private runs on the same records cost at `delta`; infinite where unbounded.

    bound: "pld" where all plans were fixed before the first was played: epsilon is then that of
    them all. "rdp" where later ones may have been chosen with earlier results in view: epsilon is
    then the least ceiling under which a site's ledger admits one after the other, by its Renyi
    filter, which also bounds what they cost. searched: whether settings were chosen by what sites
    hold out: of those records epsilon bounds nothing, as no plan adds noise to a score.
    """

    epsilon: float
    delta: float
    runs: int
    bound: Literal["pld", "rdp"]
    searched: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON; an epsilon that is not finite is null."""
        return vars(self) | {"epsilon": self.epsilon if math.isfinite(self.epsilon) else None}

    def told(self) -> str:
        """Return it as a sentence, or two."""
        return f"{self._worth()}{_BESIDE if self.searched else ''}"

    def _worth(self) -> str:
        runs = wording.count(self.runs, "private run")
        if not math.isfinite(self.epsilon):
            return f"What the {runs} cost together has no bound."
        worth = f"epsilon {wording.epsilon(self.epsilon)} at delta {self.delta:g}"
        if self.runs == 1:
            return f"The one private run costs {worth}."
        if self.bound == "pld":
            return f"Together the {runs} cost {worth}, as all plans were fixed beforehand."
        return (
            f"Together the {runs} cost {worth}, the least ceiling under which a site's ledger "
            "admits one after the other."
        )


def cost_of(
    directories: Sequence[Path],
    summaries: Sequence[Mapping[str, Any]],
    fixed_beforehand: bool,
    searched: bool = False,
) -> Cost | None:
    """Return what the runs cost together; None where not one claims privacy.

    The plans count in their whole length, at the smallest of their deltas. Whichever run is used in
    the end, all of them were released to whoever chose it.
    """
    plans = [
        _plan(directory, summary)
        for directory, summary in zip(directories, summaries, strict=True)
        if wording.claimed(summary["privacy"])
    ]
    if not plans:
        return None
    delta = min(plan.delta for plan in plans)
    parts, cuts = parts_of(plans), any(plan.max_batch for plan in plans)
    fixed = fixed_beforehand or len(plans) == 1
    # As admission divides a delta: what cutting large samples may use up is set aside.
    left = delta * (1 - MAX_SLACK) if cuts or not fixed else delta
    epsilon = compose_pld(parts, left) if fixed else _ceiling(parts, delta, left)
    if cuts and sum(plan.slack(epsilon, plan.steps) for plan in plans) > MAX_SLACK * delta:
        epsilon = math.inf
    return Cost(epsilon, delta, len(plans), "pld" if fixed else "rdp", searched)


def _ceiling(parts: Parts, delta: float, left: float) -> float:
    """Return the least ceiling, to 0.1 %, whose own Renyi order adds `parts` up to no more."""

    def admits(ceiling: float) -> bool:
        return rdp_epsilon(parts, order_for(ceiling, delta), left) <= ceiling

    low, high = 0.0, 1.0
    while not admits(high):
        low, high = high, 2 * high
        if high > _FARTHEST:
            return math.inf
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if admits(middle) else (middle, high)
    return high


def _plan(directory: Path, summary: Mapping[str, Any]) -> Plan:
    """Return a run's plan from what it has written down.

    Raises ValueError, naming the directory and the mend, where that is not all there.
    """
    try:
        text = (directory / "scenario.toml").read_text(encoding="utf-8")
        return _planned(summary["privacy"], tomllib.loads(text)["privacy"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{directory}: scenario.toml and summary.json do not tell its privacy plan "
            f"({type(error).__name__}: {error}); restore them from a copy"
        ) from error


def _planned(privacy: Mapping[str, Any], asked: Mapping[str, Any]) -> Plan:
    clip, noise, steps = privacy["clip"], privacy["noise_multiplier"], privacy["steps"]
    mechanism: Mechanism
    if privacy["unit"] == "client":
        mechanism = ClientMechanism(clip, noise, steps, privacy["noise_at"])
    else:
        mechanism = RecordMechanism(
            clip,
            noise,
            privacy["sampling_rate"],
            steps,
            privacy["expected_batch"],
            asked["max_batch"],
            asked["max_records"],
        )
    # Which run and which code it was changes no cost.
    return asked_plan(
        "0" * 16, mechanism, epsilon=asked["epsilon"], delta=privacy["delta"], code=""
    )
