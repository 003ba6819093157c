"""What of a model is not trained stays as it is: found out before an update leaves.

An adapter trained beside another base than the federation's, or on another device than it, gives an
update that looks like any other and spoils the model for everybody.
"""

from __future__ import annotations

import torch
from torch import nn

from fedlite.parameters import Vector, frozen_digest


class Frozen:
    """The parameters of a model that are not trained, as they were when training began.

    model: on `device`. digest: what they must be, as in `Layout.frozen`; empty: there are none.

    Raises ValueError when they are others, or a parameter is on another device.
    """

    def __init__(self, model: nn.Module, device: torch.device, digest: bytes) -> None:
        """Hold them against the digest."""
        self._model, self._device, self._digest = model, device, digest
        self._seen = self._moved = False
        if digest:
            self._check_devices()
            self._check_digest()
        self._marks = self._now()

    def check(self, change: Vector, trained: bool) -> None:
        """Raise ValueError naming a tensor that moved though it is frozen, or that nothing moved.

        change: what training came to, float32 [n]. trained: whether something must have moved; that
        it did is held against one round. The first time all values are compared, later only whether
        anybody has written to them.
        """
        if not self._digest:
            return
        self._check_devices()
        for (name, mark), now in zip(self._marks.items(), self._now().values(), strict=True):
            if mark != now:
                raise ValueError(
                    f"model: '{name}' is frozen, and was written to in training (rule: what is "
                    "not sent must be the same at every site); leave it as it is, or set its "
                    "requires_grad to True before training"
                )
        if not self._seen:
            self._check_digest()
            self._seen = True
        if not trained or self._moved:
            return
        if not change.any():
            raise ValueError(
                "model: no trained value moved in the first round (rule: an update must come of "
                "training); see whether the adapters are part of what the model answers"
            )
        self._moved = True

    def _now(self) -> dict[str, tuple[int, int]]:
        frozen = ((name, p) for name, p in self._model.named_parameters() if not p.requires_grad)
        return {name: (p.data_ptr(), p._version) for name, p in frozen}

    def _check_devices(self) -> None:
        for name, parameter in self._model.named_parameters():
            if parameter.device.type != self._device.type:
                raise ValueError(
                    f"model: '{name}' is on {parameter.device}, and the model on {self._device} "
                    "(rule: adapters and what they adapt are on one device); move the whole model "
                    "after the adapters are on it"
                )

    def _check_digest(self) -> None:
        found = frozen_digest(self._model)
        if found != self._digest:
            raise ValueError(
                "model: what is frozen is not the federation's (rule: what is not sent must be the "
                f"same at every site), its sha256 must be {self._digest.hex()[:16]}, got "
                f"{found.hex()[:16]}; fetch the base again"
            )
