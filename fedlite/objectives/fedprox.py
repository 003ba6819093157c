"""FedProx: a site is pulled back to the model that it received (Li et al. 2020, equation 2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedlite.objectives.base import State, Term


@dataclass(frozen=True)
class FedProx(Term):
    """`mu / 2 |w - w_0|^2`, w_0 the model received; no record is in it."""

    mu: float
    from_records = False

    def begin(self, values: Tensor, kept: State) -> State:
        """Keep a copy of the model received."""
        return {"received": values.clone()}

    def add_to(self, gradients: Tensor, values: Tensor, state: State) -> None:
        """Add `mu * (w - w_0)`."""
        gradients.add_(values - state["received"], alpha=self.mu)


def fedprox(*, mu: float = 0.01) -> FedProx:
    """Return FedProx; mu > 0 is in units of one over the learning rate, 0.001 to 1 in the paper.

    Raises ValueError when `mu` is not above 0.
    """
    if not 0 < mu < float("inf"):
        raise ValueError(f"mu: must be greater than 0 and finite, got {mu}; 0.01 is usual")
    return FedProx(mu)
