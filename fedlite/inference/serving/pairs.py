"""Requests that two versions answer and whose labels may follow, kept for a while."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.inference.serving.refused import Refused

Classes = NDArray[np.int64]
# Requests that are remembered, and rows of all of them together.
_REQUESTS, _ROWS = 10_000, 1_000_000


@dataclass
class _Entry:
    rows: int
    current: Classes | None = None
    candidate: Classes | None = None
    truth: Classes | None = None


class Pairs:
    """What both versions have answered, by client and id; the oldest are forgotten."""

    def __init__(self) -> None:
        """Begin with none."""
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._rows = 0

    def answered(
        self, whose: tuple[str, str], by_candidate: bool, classes: Classes
    ) -> tuple[Classes, Classes, Classes] | None:
        """Remember the classes that one version has answered, [n]; see `_whole` for the rest.

        A request without an id, for which no label can follow, is not remembered.
        """
        if not whose[1]:
            return None
        entry = self._entries.get(whose)
        mine = None if entry is None else entry.candidate if by_candidate else entry.current
        if entry is None or mine is not None or entry.rows != len(classes):
            # Another request under an id that was given before takes its place.
            self._forget(whose)
            entry = self._entries[whose] = _Entry(len(classes))
            self._rows += entry.rows
        if by_candidate:
            entry.candidate = classes
        else:
            entry.current = classes
        while len(self._entries) > _REQUESTS or self._rows > _ROWS:
            self._forget(next(iter(self._entries)))
        return self._whole(whose)

    def labelled(
        self, whose: tuple[str, str], truth: Classes
    ) -> tuple[Classes, Classes, Classes] | None:
        """Remember the right classes of a request; see `_whole`.

        Raises Refused where there is no such request, its labels are known, or it has other rows.
        """
        entry = self._entries.get(whose)
        if entry is None or entry.truth is not None:
            raise Refused(
                "NOT_FOUND",
                f"id: must be of a request of yours that was answered and has no labels yet, got "
                f"{whose[1]!r:.80}",
            )
        if entry.rows != len(truth):
            text = f"labels: must be {entry.rows}, one a row of the request, got {len(truth)}"
            raise Refused("INVALID_ARGUMENT", text)
        entry.truth = truth
        return self._whole(whose)

    def _whole(self, whose: tuple[str, str]) -> tuple[Classes, Classes, Classes] | None:
        """Return and forget what is known from both versions with its labels; else None."""
        entry = self._entries.get(whose)
        if entry is None or entry.current is None or entry.candidate is None:
            return None
        if entry.truth is None:
            return None
        self._forget(whose)
        return entry.current, entry.candidate, entry.truth

    def _forget(self, whose: tuple[str, str]) -> None:
        gone = self._entries.pop(whose, None)
        if gone is not None:
            self._rows -= gone.rows
