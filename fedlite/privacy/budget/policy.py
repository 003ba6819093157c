"""What a site allows: ceilings on epsilon, the units that may run, and what may leave it.

A site says so in its `site.toml`, and every ledger of the site holds the policy that was in force.
What counts is the lower of both: whoever runs the site's machine may lower a ceiling at any time,
and to raise one again the data owner must sign (`fedlite.privacy.ledger.rows.grant_message`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedlite.identity.names import owner_problem, site_problem
from fedlite.privacy.ledger.bodies import check_body, raised

_LISTS = ("units", "metrics", "servers")


@dataclass(frozen=True)
class Policy:
    """Ceilings on one data set's privacy loss, and what the site allows beside them.

    epsilon, delta: the ceiling over all runs and servers together, at one delta; epsilon 0 allows
    no private run. person: epsilon over all data sets of the site together, for a person who may
    be in several; 0 is no such ceiling. per_run: epsilon of one run by itself; 0 is no such
    ceiling. units: what may protect an update, of those of `bodies.UNITS` and `none`. honest: how
    many other sites are trusted to be honest where noise is shared; 0 is nobody. alone: epsilon of
    all plans together if all others collude with the server; what is lower than `epsilon`, as 0 is,
    stands for `epsilon`: local noise only. metrics: what may leave beside an update. servers:
    public keys, hex, of the servers whose signature over the ledger's head is accepted; none listed
    accepts any.

    The lists are kept sorted, so that equal policies are equal. Raises ValueError for a number
    outside its range, and for what a ledger's row could not hold.

    >>> mine = Policy(epsilon=2.0, units=("record", "none"))
    >>> mine.meet(Policy(epsilon=3.0, per_run=1.0)) == Policy(epsilon=2.0, per_run=1.0)
    True
    >>> mine.allows("client-site")
    False
    """

    epsilon: float = 3.0
    delta: float = 1e-5
    person: float = 0.0
    per_run: float = 0.0
    units: tuple[str, ...] = ("record",)
    metrics: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    honest: int = 0
    alone: float = 0.0

    def __post_init__(self) -> None:
        """Sort the lists and check everything by the table of the ledger's rows."""
        for name in _LISTS:
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
        check_body("policy", {"policy": self.body(), "grant": ""})

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Policy:
        """Return the policy that a ledger's row holds."""
        values: dict[str, Any] = {k: tuple(v) if k in _LISTS else v for k, v in body.items()}
        return Policy(**values)

    def body(self) -> dict[str, Any]:
        """Return what a ledger's row holds; whom it trusts only where it trusts anybody."""
        values = {name: getattr(self, name) for name in Policy.__dataclass_fields__}
        if not (self.honest or self.alone):
            del values["honest"], values["alone"]
        return {k: list(v) if k in _LISTS else v for k, v in values.items()}

    def allows(self, unit: str) -> bool:
        """Return whether an update protected by `unit` ("none": not at all) may leave."""
        return unit in self.units

    @property
    def collusion(self) -> float:
        """The ceiling on epsilon if all others collude with the server, at `delta`."""
        return max(self.alone, self.epsilon)

    def trusts(self, honest: int) -> bool:
        """Return whether a plan may take so many members for honest, this site among them."""
        return honest - 1 <= self.honest

    def meet(self, other: Policy) -> Policy:
        """Return what both allow; of the lists of servers, the one of `other`."""
        return Policy(
            epsilon=min(self.epsilon, other.epsilon),
            delta=min(self.delta, other.delta),
            person=_lower(self.person, other.person),
            per_run=_lower(self.per_run, other.per_run),
            honest=min(self.honest, other.honest),
            alone=min(self.alone, other.alone),
            units=tuple(set(self.units) & set(other.units)),
            metrics=tuple(set(self.metrics) & set(other.metrics)),
            servers=other.servers,
        )

    def beyond(self, other: Policy) -> tuple[str, ...]:
        """Name what this policy allows and `other` does not: what would need a grant."""
        return tuple(raised(other.body(), self.body()))


@dataclass(frozen=True)
class SitePolicy(Policy):
    """A policy with the name of its site and the data owner's public key.

    site: 1 to 64 printable characters, no "/" and no dot at the start. owner: 64 hex digits, or
    empty when nobody can ever raise a ceiling; it goes into a ledger's first row and stays.
    """

    site: str = "site"
    owner: str = ""

    def __post_init__(self) -> None:
        """Check name and key as well."""
        super().__post_init__()
        for problem in (site_problem(self.site), owner_problem(self.owner)):
            if problem:
                raise ValueError(problem)


def _lower(one: float, other: float) -> float:
    """Return the lower of two ceilings of which 0 is none."""
    lowest = min(one or math.inf, other or math.inf)
    return lowest if lowest < math.inf else 0.0
