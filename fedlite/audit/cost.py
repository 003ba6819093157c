"""What steps cost, three ways, from events that stand in ledgers; without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Protocol

from fedlite.privacy.accounting import (
    PRV_ERROR,
    Parts,
    PrivacyLoss,
    compose_pld,
    compose_prv,
    compose_rdp,
)
from fedlite.privacy.mechanism import MAX_SLACK, cut_slack
from fedlite.privacy.ranges import shares_noise, surely_honest
from fedlite.privacy.shared.lattice import rounding_slack

_ROUNDING = 1e-9

PRV_LIBRARY = "prv-accountant"


class Planned(Protocol):
    """A plan with its PLAN body."""

    @property
    def body(self) -> Mapping[str, Any]:
        """The PLAN of the ledger's format."""


@dataclass(frozen=True)
class Loss:
    """Epsilon at one delta, three ways; `prv` is None where it was not computed.

    `prv` is an upper bound that includes its stated error, 0.01.
    """

    pld: float
    rdp: float
    prv: float | None

    @property
    def agree(self) -> bool:
        """Whether the libraries that were run do not contradict each other."""
        # A missing figure is put where it contradicts nothing; it is told as missing elsewhere.
        prv = self.pld + PRV_ERROR if self.prv is None else self.prv
        return PrivacyLoss(self.pld, prv, self.rdp).agree

    def as_dict(self) -> dict[str, float | None]:
        """Return the figures; None where there is none or it is not finite."""
        figures = {"pld": self.pld, "rdp": self.rdp, "prv": self.prv}
        return {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in figures.items()
        }


def fits(cost: float, ceiling: float) -> bool:
    """Tell whether `cost` is at most `ceiling`, but for the last digits of a float.

    What wrote a ledger computed the same figure with the same library: no more has to be forgiven.
    """
    return cost <= ceiling + _ROUNDING * max(1.0, abs(ceiling))


def loss_of(parts: Parts, delta: float) -> Loss:
    """Return what `parts` cost at `delta`.

    Raises ValueError when a number is outside its range.
    """
    return Loss(compose_pld(parts, delta), compose_rdp(parts, delta), _prv(parts, delta))


def _prv(parts: Parts, delta: float) -> float | None:
    try:
        found = compose_prv(parts, delta, library="prv-accountant")
    except (ImportError, ValueError, RuntimeError, MemoryError, ArithmeticError):
        return None
    return found if math.isfinite(found) else None


def slack_of(plans: Sequence[Planned], epsilon: float) -> float:
    """Return the delta that cutting samples, and rounding shares, costs over `plans`, at `epsilon`.

    Raises ValueError when a plan cuts and does not say how many records a site may hold, or shares
    its noise with nobody who is surely honest.
    """
    rounding = sum(
        rounding_slack(epsilon, surely(plan.body), plan.body["coordinates"], plan.body["steps"])
        for plan in plans
        if shares_noise(plan.body["unit"])
    )
    return rounding + sum(
        cut_slack(
            epsilon,
            plan.body["sampling_rate"],
            plan.body["steps"],
            plan.body["max_batch"],
            plan.body["max_records"],
        )
        for plan in plans
        if plan.body["max_batch"]
    )


def surely(body: Mapping[str, Any]) -> int:
    """Return how many honest members are in every sum of a plan of shared noise, at least 1.

    Raises ValueError where none is: a ledger may hold any terms.
    """
    groups = body.get("groups", 1)
    carried = surely_honest(body["members"], body["least"], body["honest"], groups)
    if carried < 1:
        raise ValueError(
            f"of {body['honest']} honest members none is surely in a sum of {body['least']} of "
            f"{body['members']}" + (f" in {groups} groups" if groups > 1 else "")
        )
    return carried


def left_of(plans: Sequence[Planned], delta: float, slack: float) -> float:
    """Return the part of delta that pays for noise, as `fedlite.privacy.admission` divides it."""
    return delta * (1.0 - MAX_SLACK) if len(plans) > 1 or slack else delta


def libraries() -> dict[str, str]:
    """Return which library computed each column, with its version; "" where it is missing."""
    google, microsoft = _version("dp-accounting"), _version(PRV_LIBRARY)
    return {"pld": google, "rdp": google, "prv": microsoft}


def _version(name: str) -> str:
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return ""
