"""Requests that two versions answer and whose labels may follow, kept for a while."""

from __future__ import annotations

from collections import Counter
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
    """What both versions have answered, by client and id.

    Where there is too much, the client that holds most loses its oldest: no client's requests push
    out those of another that asks less.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._entries: dict[tuple[str, str], _Entry] = {}
        # Of each client: its ids, the oldest first, and their rows together.
        self._ids: dict[str, dict[str, None]] = {}
        self._held: Counter[str] = Counter()
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
            self._ids.setdefault(whose[0], {})[whose[1]] = None
            self._held[whose[0]] += entry.rows
            self._rows += entry.rows
        if by_candidate:
            entry.candidate = classes
        else:
            entry.current = classes
        while self._rows > _ROWS:
            self._forget_of(max(self._held, key=self._held.__getitem__))
        while len(self._entries) > _REQUESTS:
            self._forget_of(max(self._ids, key=lambda client: len(self._ids[client])))
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

    def _forget_of(self, client: str) -> None:
        self._forget((client, next(iter(self._ids[client]))))

    def _forget(self, whose: tuple[str, str]) -> None:
        gone = self._entries.pop(whose, None)
        if gone is not None:
            client, name = whose
            self._rows -= gone.rows
            self._held[client] -= gone.rows
            del self._ids[client][name]
            if not self._ids[client]:
                del self._ids[client], self._held[client]
