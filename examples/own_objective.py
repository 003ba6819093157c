"""FedProx as a file of one's own (Li et al. 2020): a site is pulled back to what it received.

`fedlite simulate skewed.toml --set training.objective=examples/own_objective.py:fedprox`
"""

from fedlite.objectives import Term


class Proximal(Term):
    """Adds the gradient of mu / 2 |w - w0|^2 to every step."""

    def __init__(self, mu):
        self.mu = mu

    def begin(self, values, kept):
        return {"received": values.clone()}

    def add_to(self, gradients, values, state):
        gradients.add_(values - state["received"], alpha=self.mu)


def fedprox(*, mu=0.01):
    return Proximal(mu)
