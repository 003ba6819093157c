"""The numbers that a plan and its ceilings may have: one place for scenario, policy and audit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_STEPS = 10_000_000
LEAST_MEMBERS = 3
"""Of a sum."""

MOST_COLUMNS, MOST_BINS, MOST_RECORDS = 10_000, 1_000, 10**9
"""Of a question for figures of tables, which has 2 bins at least, and of one site's records."""


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`; with `above`, `low` itself is none of them.

    >>> Range(0.0, 100.0, above=True).rule, 0.0 in Range(0.0, 100.0, above=True)
    ('greater than 0 and at most 100', False)
    >>> Range(1e-6, 1e6).rule, 1e-6 in Range(1e-6, 1e6), float("nan") in Range(1e-6, 1e6)
    ('from 1e-6 to 1e6', True, False)
    """

    low: float
    high: float
    above: bool = False

    def __contains__(self, value: float) -> bool:
        """Tell whether `value` is one of them."""
        return self.low <= value <= self.high and not (self.above and value == self.low)

    @property
    def rule(self) -> str:
        """The range in words, to follow "must be"."""
        low, high = (_short(number) for number in (self.low, self.high))
        return f"greater than {low} and at most {high}" if self.above else f"from {low} to {high}"


def _short(number: float) -> str:
    return f"{number:g}".replace("e-0", "e-").replace("e+0", "e")


# An epsilon of 100 promises nothing to anybody, and a delta of 0.1 betrays one record in ten.
EPSILON = Range(0.0, 100.0, above=True)
CEILING = Range(0.0, 100.0)
DELTA = Range(0.0, 0.1, above=True)
RATE = Range(0.0, 1.0, above=True)
CLIP = Range(1e-6, 1e6)
# Less noise costs an epsilon of more than 100,000 a step; accountants go no further than the most.
NOISE = Range(1e-3, 1e6)


def figures_size(columns: int, bins: int) -> tuple[int, float]:
    """Return how many values a question for figures sums, and the most one record's are long.

    Of each column its bins, one for missing, and the mapped value: a record has a 1 in one cell and
    a value of -1..1, so that d columns are at most sqrt(2 d) long.

    >>> figures_size(2, 10)
    (24, 2.0)
    """
    return columns * (bins + 2), math.sqrt(2.0 * columns)


def shares_noise(unit: str) -> bool:
    """Return whether a plan of this unit has the noise of several sites in what is seen.

    >>> [unit for unit in ("record", "record-shared", "client-shared") if shares_noise(unit)]
    ['record-shared', 'client-shared']
    """
    return unit.endswith("-shared")


ALONE = {"record-shared": "record", "client-shared": "client-server"}
"""The units of what is left of shared noise when all others collude: a site's own, seen as such."""


def bounds_absence(unit: str) -> bool:
    """Return whether a plan's noise is in units of what one client less changes.

    Another one in its place then changes twice as much.
    """
    return unit in ("client-server", "client-shared")


def plan_problem(plan: Mapping[str, Any]) -> str:
    """Return what is wrong with a plan's terms taken together, or nothing.

    plan: a PLAN of the ledger's format, each of whose values is in its own range.

    >>> plan_problem({"unit": "client-site", "sampling_rate": 0.01})
    'sampling_rate must be 1 for the unit client-site, which no sampling amplifies, got 0.01'
    """
    unit = plan["unit"]
    if shares_noise(unit):
        told = sharing_problem(
            plan["members"], plan["least"], plan["honest"], plan.get("groups", 1)
        )
        if told:
            return told
        if len(plan["group"]) != plan["members"]:
            return f"group must name all {plan['members']} members, got {len(plan['group'])}"
    if not unit.startswith("record"):
        if plan["sampling_rate"] != 1.0:
            return (
                f"sampling_rate must be 1 for the unit {unit}, which no sampling amplifies, got "
                f"{plan['sampling_rate']:g}"
            )
        for name in ("expected_batch", "max_batch", "max_records"):
            if plan[name]:
                return f"{name} must be 0 for the unit {unit}, which has no batches"
        return ""
    if not plan["expected_batch"]:
        return "expected_batch must be at least 1 for the unit record: it divides what is released"
    if plan["max_batch"] and not plan["max_records"]:
        return "max_records must be set where max_batch is: what a cut costs depends on it"
    return ""


def worst_group(members: int, least: int, honest: int, groups: int = 1) -> tuple[int, int, int]:
    """Return of one of the groups: its members, the least in its sum, the least that are honest.

    All who may be missing, and all who may be dishonest, are taken to be in that one: nobody knows
    in which they are, and a record or site is protected by its own group's sum alone.

    >>> worst_group(5, 4, 4), worst_group(15, 15, 14, 3), worst_group(15, 14, 14, 3)
    ((5, 4, 4), (5, 5, 4), (5, 4, 4))
    """
    size = members // groups
    return size, size - (members - least), size - (members - honest)


def surely_honest(members: int, least: int, honest: int, groups: int = 1) -> int:
    """Return how many honest ones have their noise in every sum, if `honest` of all are.

    >>> surely_honest(5, 4, 4), surely_honest(15, 15, 14, 3), surely_honest(15, 15, 14, 5)
    (3, 4, 2)
    """
    size, inside, true = worst_group(members, least, honest, groups)
    return true - (size - inside)


def sharing_problem(members: int, least: int, honest: int, groups: int = 1) -> str:
    """Return what is wrong with who shares noise, or nothing; all four from 1.

    It is the rule of `fedlite.secure.group.Group`, without which no sum is secret: of members that
    sum in several groups it has to hold in each, wherever the dishonest are. It also leaves
    `surely_honest` at 1 or more.

    >>> sharing_problem(5, 4, 4), sharing_problem(5, 3, 3)[:40]
    ('', 'least and honest must be at most the mem')
    >>> sharing_problem(15, 15, 14, 3), sharing_problem(15, 15, 14, 4)[:38]
    ('', 'groups must divide the members into eq')
    """
    if members % groups or (groups > 1 and members // groups < LEAST_MEMBERS):
        return (
            f"groups must divide the members into equal ones of at least {LEAST_MEMBERS} (rule: a "
            f"sum of few is no cover), got {groups} of {members}"
        )
    size, inside, true = worst_group(members, least, honest, groups)
    if max(least, honest) <= members and 2 * inside > 2 * size - true:
        return ""
    where = f" in {groups} groups" if groups > 1 else ""
    each = " of each group, all missing and all dishonest ones in it," if groups > 1 else ""
    return (
        f"least and honest must be at most the members, and{each} twice least more than twice the "
        "members less the honest (rule: no two lists of members can both be signed by enough), got "
        f"{least} least and {honest} honest of {members}{where}"
    )
