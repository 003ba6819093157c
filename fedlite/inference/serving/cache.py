"""Answers to inputs that come again, bounded in number and in bytes; off unless asked for."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from fedlite.inference.bundle import Answers

_BYTES = 64 * 2**20


class Cache:
    """The answers to the last requests, the longest unused forgotten first.

    requests: how many; 0: none. By client, too: how fast an answer comes must not tell one client
    what another has asked. Raises ValueError for a number that cannot be.
    """

    def __init__(self, requests: int) -> None:
        """Begin empty."""
        if not 0 <= requests <= 1_000_000:
            raise ValueError(f"--cache: must be from 0 to 1000000, got {requests}")
        self._most = requests
        self._kept: OrderedDict[bytes, Answers] = OrderedDict()
        self._bytes = 0

    def key(self, who: str, version: str, inputs: NDArray[np.float32]) -> bytes | None:
        """Return what an input's answer is kept by; None where nothing is kept."""
        if not self._most:
            return None
        told = f"{who}\0{version}\0{len(inputs)}\0".encode()
        return hashlib.sha256(told + np.ascontiguousarray(inputs).tobytes()).digest()

    def get(self, key: bytes | None) -> Answers | None:
        """Return the answers that are kept by a key."""
        if key is None or key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: bytes | None, answers: Answers) -> None:
        """Keep answers, unless they alone are too many."""
        if key is None or _size(answers) > _BYTES or key in self._kept:
            return
        # Their own copy: a part of a batch would keep the whole batch.
        self._kept[key] = Answers(
            answers.names, answers.shares.copy(), answers.early.copy(), answers.scores.copy()
        )
        self._bytes += _size(answers)
        while len(self._kept) > self._most or self._bytes > _BYTES:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= _size(gone)

    def clear(self) -> None:
        """Forget all, as what was right may no longer be."""
        self._kept.clear()
        self._bytes = 0


def _size(answers: Answers) -> int:
    return answers.shares.nbytes + answers.early.nbytes + answers.scores.nbytes + 128
