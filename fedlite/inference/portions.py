"""Inputs a portion at a time: as many as fit, and texts of about one length together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of numbers that go through the graphs at a time, and of texts: each of their tokens is hundreds of
# values, and what a portion fills up to its longest text would be most of the work.
NUMBERS, TEXTS = 4096, 32


def are_texts(inputs: NDArray[Any]) -> bool:
    """Return whether inputs are texts, tokens over a mask, int64 [n, 2, length].

    >>> are_texts(np.zeros((1, 2, 8), np.int64)), are_texts(np.zeros((1, 2, 8), np.float32))
    (True, False)
    """
    return inputs.dtype == np.int64 and inputs.ndim == 3


def portions(inputs: NDArray[Any]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Yield which inputs go together, int64, and what of them the graphs read; each input once.

    Of texts the shortest go first, and what no text of a portion has is left out.

    >>> mask = np.array([[1, 1, 1], [1, 0, 0]])
    >>> [(rows.tolist(), part.shape) for rows, part in portions(np.stack([mask, mask], 1))]
    [([1, 0], (2, 2, 3))]
    """
    if not are_texts(inputs):
        for start in range(0, len(inputs), NUMBERS):
            rows = np.arange(start, min(start + NUMBERS, len(inputs)), dtype=np.int64)
            yield rows, inputs[start : start + NUMBERS]
        return
    places = np.arange(1, inputs.shape[2] + 1)
    longest = np.maximum((places * (inputs[:, 1] > 0)).max(axis=1), 1)
    order = np.argsort(longest, kind="stable")
    for start in range(0, len(order), TEXTS):
        rows = order[start : start + TEXTS]
        yield rows, np.ascontiguousarray(inputs[rows, :, : longest[rows[-1]]])
