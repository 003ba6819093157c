"""What simulated sites wrote last, in memory: as long as its file is that one, it need not be read.

A worker of a pool may serve a site that another has served meanwhile. It wrote another file then,
which is told by its number, its size and its times: of when it was written, and, which nobody can
set, of when anything of it was changed.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Generic, TypeVar

_BYTES = 64_000_000
# What each takes beside its arrays: the objects that hold them, its path and its stamp.
_EACH = 2_000

State = TypeVar("State")
Stamp = tuple[int, int, int, int]


class Remembered(Generic[State]):
    """Something for each of some files, `_BYTES` of it in all; the oldest is forgotten first.

    >>> Remembered().find(Path("never-written")) is None
    True
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._known: OrderedDict[Path, tuple[Stamp, State, int]] = OrderedDict()
        self._held = 0

    def keep(self, path: Path, state: State, size: int) -> None:
        """Remember what was just written into a file; its arrays take `size` bytes of memory."""
        self.forget(path)
        size += _EACH
        stamp = _stamp(path)
        if stamp is None or size > _BYTES:
            return
        self._known[path] = stamp, state, size
        self._held += size
        while self._held > _BYTES:
            self.forget(next(iter(self._known)))

    def find(self, path: Path) -> State | None:
        """Return what was written into the file; None where it is not known, or another by now."""
        found = self._known.get(path)
        return found[1] if found is not None and found[0] == _stamp(path) else None

    def forget(self, path: Path) -> None:
        """Remember nothing of a file any longer."""
        if (found := self._known.pop(path, None)) is not None:
            self._held -= found[2]

    def clear(self) -> None:
        """Remember nothing any longer."""
        self._known.clear()
        self._held = 0


def _stamp(path: Path) -> Stamp | None:
    try:
        seen = os.stat(path)
    except OSError:
        return None
    return seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns
