"""The way down: the model that clients remember, and the frames that lead to it.

A frame is the compressed difference between the strategy's model and what clients have, and is
added to that at both ends. So what compression left out stays in the difference and goes out
later: error feedback without a residual of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord
from numpy.typing import NDArray

from fedlite.flower import frames, replica
from fedlite.flower.tensors import Arrays, Tensors, write


class Broadcast:
    """What clients have that are up to date; by `version` and `digest` both ends know which."""

    def __init__(self, seed: int, exact: tuple[str, ...]) -> None:
        """Begin without a model."""
        self._seed, self._exact = seed, exact
        self.version = 0
        self.digest = b""
        self.arrays: Mapping[str, NDArray[Any]] = {}
        self._model = b""
        self._whole: ArrayRecord | None = None
        self._frames: list[bytes] = []
        self._versions: dict[bytes, int] = {}

    def advance(self, key: str, model: Arrays, run_id: int) -> None:
        """Bring what clients have nearer to `model`; nothing happens when that is the last one."""
        digest = Tensors.of(key, model).values_digest(model)
        if self.version and digest == self._model:
            return
        self.version, self._model, self._whole = self.version + 1, digest, None
        tensors = Tensors.of(key, self.arrays, self._exact)
        told = frames.envelope(
            run_id, self.version, 0, self._seed, tensors, self.digest or bytes(8)
        )
        try:
            if misfit := tensors.misfit(model):
                raise ValueError(misfit)
            frame = frames.seal(tensors, self.arrays, model, replica.choice, told)
            self.arrays = frames.unseal(tensors, self.arrays, frame, replica.choice, told)
            self._frames.append(frame)
        except ValueError:
            # The first model, another one, or one that has overflown: it goes out whole.
            self.arrays, self._frames = dict(model), []
        self.digest = Tensors.of(key, self.arrays).values_digest(self.arrays)
        self._versions[self.digest] = self.version
        self._forget(sum(array.nbytes for array in self.arrays.values()))

    def whole(self) -> ArrayRecord:
        """Return what clients have, as a record."""
        if self._whole is None:
            self._whole = write(self.arrays)
        return self._whole

    def chain(self, held: bytes) -> bytes | None:
        """Return what leads from the model of digest `held` here, or None: the whole is needed."""
        behind = self.version - self._versions.get(held, -1)
        if behind > len(self._frames):
            return None
        return replica.chain(self._frames[len(self._frames) - behind :])

    def _forget(self, whole: int) -> None:
        """Drop the frames that no client will be sent, as the whole model is smaller than them."""
        while self._frames and sum(map(len, self._frames)) > whole:
            del self._frames[0]
        oldest = self.version - len(self._frames)
        self._versions = {d: v for d, v in self._versions.items() if v >= oldest}
