"""How long a simulation's rounds would have taken on the network that it plays, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedlite.reporting import wording
from fedlite.reporting.formats import share
from fedlite.reporting.record import RoundRecord


def minutes(seconds: object) -> str:
    """Return a duration in minutes; in seconds, hours or days where that reads better.

    >>> minutes(6.0), minutes(5400.0), minutes(36_000.0), minutes(864_000.0)
    ('6 s', '90 min', '10 hours', '10 days')
    """
    if not isinstance(seconds, int | float):
        return "never"
    for size, unit, most in (
        (1.0, "s", 120.0),
        (60.0, "min", 7200.0),
        (3600.0, "hours", 172_800.0),
    ):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400.0:,.3g} days"


def network_of(
    rounds: Sequence[RoundRecord],
    *,
    profile: str,
    target: float,
    deadline: float = math.inf,
    needed: int = 0,
) -> dict[str, Any]:
    """Return the summary's part `network`: virtual seconds in all, and to the target accuracy.

    deadline: seconds for which a round waits that has fewer answers than `needed`; infinity where
    there are no rounds. seconds_to_target: until the end of the first round whose deep branch had
    it; None where none did, or none is set. waited: rounds that lasted until the deadline because
    sites did not answer; seconds_waited: how long these rounds were together.

    >>> rows = [RoundRecord(n, 1, accuracy={"deep": n / 4}, simulated_seconds=60.0)
    ...         for n in (1, 2, 3)]
    >>> found = network_of(rows, profile="4g", target=0.5)
    >>> found["seconds"], found["seconds_to_target"]
    (180.0, 120.0)
    """
    passed, reached = 0.0, None
    for record in rounds:
        passed += record.simulated_seconds
        if target and reached is None and record.accuracy.get("deep", 0.0) >= target:
            reached = round(passed, 3)
    waited = [
        record.simulated_seconds
        for record in rounds
        if record.missing
        and record.accepted < needed
        and record.simulated_seconds >= deadline - 1e-6  # the record has six places
    ]
    used = sum(record.accepted for record in rounds)
    stale = sum(record.staleness * record.accepted for record in rounds)
    return {
        "profile": profile,
        "seconds": round(passed, 3),
        "waited": len(waited),
        "seconds_waited": round(sum(waited), 3),
        "target": target or None,
        "seconds_to_target": reached,
        "late": sum(len(record.late) for record in rounds),
        "staleness": round(stale / used, 3) if used else 0.0,
    }


def told(summary: Mapping[str, Any]) -> list[str]:
    """Return it as plain sentences; none of a run without virtual time.

    >>> told({"network": {"profile": "lora", "seconds": 600.0, "target": 0.5, "staleness": 0.0,
    ...                   "seconds_to_target": 300.0, "late": 2}})
    ['On lora the rounds would have taken 10 min; 50.0 % was reached after 5 min.', 'Of the \
answers, 2 were not among the first that were needed.']
    """
    network = summary.get("network")
    if not isinstance(network, Mapping):
        return []
    name = "a network of one's own" if network["profile"] == "own" else network["profile"]
    line = f"On {name} the rounds would have taken {minutes(network['seconds'])}"
    if network["target"]:
        after = network["seconds_to_target"]
        when = "not reached" if after is None else f"reached after {minutes(after)}"
        line += f"; {share(network['target'])} was {when}"
    lines = [f"{line}."]
    if waited := network.get("waited"):
        lines.append(
            f"Of that, {minutes(network['seconds_waited'])} were "
            f"{wording.count(waited, 'round')} that lasted until "
            "federation.deadline_seconds, as sites did not answer."
        )
    if network["late"]:
        lines.append(
            f"Of the answers, {network['late']:,} were not among the first that were needed."
        )
    if network["staleness"]:
        lines.append(
            f"An update was {network['staleness']:.2g} steps of the server old in the mean."
        )
    return lines


def of(summary: Mapping[str, Any], key: str) -> float | None:
    """Return a figure of the part `network`; None of a run without virtual time."""
    found: float | None = (summary.get("network") or {}).get(key)
    return found


def notes(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a reader must know before he compares times to a target."""
    timed = [network for one in summaries if (network := one.get("network") or {}).get("target")]
    found = []
    if len({network["target"] for network in timed}) > 1:
        found.append("Not all runs have the same network.target.")
    missed = sum(network["seconds_to_target"] is None for network in timed)
    if missed and missed == len(timed):
        found.append("No run came to its target: there is no time to it.")
    elif missed:
        found.append(
            f"{missed} of {len(timed)} runs did not come to their target: the time to it is the "
            "mean of the others."
        )
    return found
