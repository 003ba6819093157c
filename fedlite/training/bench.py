"""A model on which a process trains many sites, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from fedlite.models import Model
from fedlite.plan import Plan
from fedlite.training import channels, local
from fedlite.training.frozen import Frozen

# Multiply-accumulates of a record below which oneDNN, which prepares every convolution anew for its
# shapes, takes two to three times as long for it as PyTorch's own.
_LIGHT = 200_000


def _light(model: Model) -> bool:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    if not any(isinstance(module, kinds) for module in model.modules()):
        return False
    return sum(part["macs"] for part in model.costs().values()) < _LIGHT


def _pools(model: Model) -> bool:
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return False
    with torch.no_grad():
        inputs = model.prepare(model.made_up(2))
    return channels.fits(model, inputs)


class Bench:
    """The plan's model on a device, and what is made of it once.

    flat: its trainable values as one tensor (`local.flatten`); None where not all of them move in a
    round, or records are protected one by one.

    A site that trains on it finds it as a new model would be: its trainable values and running
    statistics are loaded anew in each round, and `reset` puts back what else training has written
    to.
    """

    def __init__(self, plan: Plan, device: torch.device) -> None:
        """Make the model; raises ValueError where what is frozen is not the federation's."""
        model = plan.model()
        self.device, self._light = device, _light(model)
        self.model: Model = model.to(device)
        self.frozen = Frozen(self.model, device, plan.layout.frozen)
        whole = plan.scenario.privacy.unit != "record" and not plan.turns
        self.flat = local.flatten(self.model) if whole else None
        # Under record-level privacy convolutions are computed otherwise (`privacy.convolutions`).
        self._last = (
            device.type == "cpu" and plan.scenario.privacy.unit != "record" and _pools(self.model)
        )
        self._buffers = [
            (buffer, buffer._version, buffer.detach().clone()) for buffer in self.model.buffers()
        ]

    @contextmanager
    def kernels(self, model: nn.Module | None = None) -> Iterator[None]:
        """Compute inside with the convolutions that are faster for this model when it is trained.

        It follows from the model alone: the kinds round differently. model: a copy of it, which is
        trained in its place.
        """
        flags: Any = torch.backends.mkldnn
        before = flags.enabled
        flags.enabled = before and not self._light
        try:
            with channels.last(model or self.model) if self._last else nullcontext():
                yield
        finally:
            flags.enabled = before

    def reset(self) -> None:
        """Put back buffers that were written to: what they remember is of another site."""
        for at, (buffer, version, begun) in enumerate(self._buffers):
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(begun)
                self._buffers[at] = buffer, buffer._version, begun
