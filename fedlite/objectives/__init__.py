"""What a site minimises beside its records' loss; one file an objective, one line in the registry.

It is the half of federated optimisation that runs at a site; the other is `strategies`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedlite.objectives.base import OWN, State, Term
from fedlite.objectives.checks import check, check_portions
from fedlite.objectives.feddyn import FedDyn, feddyn
from fedlite.objectives.fedprox import FedProx, fedprox
from fedlite.objectives.scaffold import Scaffold, scaffold
from fedlite.registry import Registry


def plain() -> None:
    """Return nothing to add: the mean loss of the records alone, as in federated averaging."""


OBJECTIVES: dict[str, Callable[..., Term | None]] = {
    "plain": plain,
    "fedprox": fedprox,
    "scaffold": scaffold,
    "feddyn": feddyn,
}
KNOWN = Registry(
    "training.objective",
    "fedlite.objectives",
    OBJECTIVES,
    "training.objective_options",
    "(**options)",
)


def make(name: str, options: Mapping[str, Any] | None = None) -> Term | None:
    """Return what the objective called `name` adds to the loss; None where that is nothing.

    name: one of the house, of an installed package, or of one's own (`fedlite.registry`), which is
    called with its options.

    Raises ValueError when there is none, it does not take the options, or what it makes is no
    `Term`.

    >>> make("fedprox")
    FedProx(mu=0.01)
    """
    made: Term | None = KNOWN.make(name, options=options or {})
    if made is not None and not isinstance(made, Term):
        raise ValueError(
            f"training.objective: {name!r} must make a fedlite.objectives.Term, got {made!r}; "
            "return an object of a class derived from it"
        )
    return made


__all__ = [
    "KNOWN",
    "OBJECTIVES",
    "OWN",
    "FedDyn",
    "FedProx",
    "Scaffold",
    "State",
    "Term",
    "check",
    "check_portions",
    "make",
]
