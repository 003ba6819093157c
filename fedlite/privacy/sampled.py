"""Opacus's hooks on what is no plain layer of a model.

A module of its own, because Opacus takes longer to load than most models need to begin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opacus.grad_sample import GradSampleModule
from torch import nn


class Samples(GradSampleModule):  # type: ignore[misc]
    """A model whose gradients are kept record by record, but for layers that `left_out` tells."""

    def __init__(self, model: nn.Module, left_out: Callable[[nn.Module], bool]) -> None:
        """Put the hooks on."""
        # Not a module's attribute: hooks are put on before those can be set.
        object.__setattr__(self, "_left_out", left_out)
        # strict=False: the fixed public filters are buffers, which strict mode takes for
        # BatchNorm's.
        super().__init__(model, loss_reduction="sum", strict=False)

    def iterate_submodules(self, module: nn.Module) -> Iterable[nn.Module]:
        """Leave out those."""
        return (m for m in super().iterate_submodules(module) if not self._left_out(m))
