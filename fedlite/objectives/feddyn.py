"""FedDyn: a linear and a proximal term align the sites' optima (Acar et al. 2021, algorithm 1).

Its other half is the strategy of the same name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlite.objectives.base import State, Term


@dataclass(frozen=True)
class FedDyn(Term):
    """`-<g_i, w> + alpha / 2 |w - w_0|^2`; at a site's optimum g_i is the gradient of its loss.

    g_i is 0 until the site has first taken part. It is kept exactly, whatever of the update arrives
    at the server, so that the two halves agree but for what compression has not sent yet.
    """

    alpha: float

    def begin(self, values: Tensor, kept: State) -> State:
        """Keep the model received beside g_i."""
        slope = kept.get("slope", torch.zeros_like(values))
        return {"received": values.clone(), "slope": slope}

    def add_to(self, gradients: Tensor, values: Tensor, state: State) -> None:
        """Add `alpha * (w - w_0) - g_i`."""
        gradients.add_(values - state["received"], alpha=self.alpha).sub_(state["slope"])

    def end(self, values: Tensor, state: State, *, steps: int, learning_rate: float) -> State:
        """Keep `g_i - alpha * (w - w_0)`."""
        return {"slope": state["slope"] - self.alpha * (values - state["received"])}


def feddyn(*, alpha: float = 0.1) -> FedDyn:
    """Return FedDyn; alpha > 0 weighs a site's distance, 0.001 to 0.1 in the paper.

    Raises ValueError when `alpha` is not above 0.
    """
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha: must be greater than 0 and finite, got {alpha}; 0.1 is usual")
    return FedDyn(alpha)
