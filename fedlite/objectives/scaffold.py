"""SCAFFOLD: control variates correct the drift of unlike sites (Karimireddy et al. 2020).

Algorithm 1 with option II. The server's step is `federation.server_learning_rate`, its eta_g.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlite.objectives.base import OWN, State, Term


@dataclass(frozen=True)
class Scaffold(Term):
    """`<c - c_i, w>`: c_i is about the site's own mean gradient, c the mean of all sites'.

    c_i is 0 until the site has first taken part, and c counts such a site as 0. The site's control
    variate is what the server has of it, so that c stays the mean of the c_i however both are
    compressed (Huang, Li, Li 2024, "Stochastic controlled averaging").
    """

    extras = ("control",)

    def begin(self, values: Tensor, kept: State) -> State:
        """Keep the model received, c, and the correction c - c_i of every step."""
        common = kept["control"]
        correction = common - kept[OWN + "control"]
        return {"received": values.clone(), "common": common, "correction": correction}

    def add_to(self, gradients: Tensor, values: Tensor, state: State) -> None:
        """Add `c - c_i`."""
        gradients.add_(state["correction"])

    def end(self, values: Tensor, state: State, *, steps: int, learning_rate: float) -> State:
        """Change c_i by `(w_0 - w) / (steps * learning_rate) - c`."""
        if not steps:
            return {"control": torch.zeros_like(values)}
        slope = (state["received"] - values) / (steps * learning_rate)
        return {"control": slope - state["common"]}


def scaffold() -> Scaffold:
    """Return SCAFFOLD; it has no options."""
    return Scaffold()
