"""What was refused to approved sites: counted, and written with their names.

A site writes at most one line a minute, whatever it does, and the file is put aside at 5 MB.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from server.coordinator.service import open_log

log = logging.getLogger("fedlite.coordinator")

PAUSE_SECONDS = 60.0
DAY_SECONDS = 24 * 3600.0
_BYTES = 5_000_000

# How often by "path rule", and the longest body.
Counts = dict[str, list[int]]


class Refusals:
    """The refusals that one SuperLink counts."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Name the file; nothing is written yet. clock: seconds since 1970."""
        self._path, self._clock = path, clock
        self._waiting: dict[str, Counts] = defaultdict(dict)
        self._written: dict[str, float] = {}

    def add(self, site: str, path: str, rule: str, length: int) -> None:
        """Count one. path: the last part of it. length: of the body in bytes, as announced."""
        row = self._waiting[site].setdefault(f"{path} {rule}", [0, 0])
        row[0] += 1
        row[1] = max(row[1], length)
        self.write()

    def write(self) -> None:
        """Write what waits of each site that has written nothing for a minute."""
        now = self._clock()
        for site in list(self._waiting):
            if now - self._written.get(site, 0.0) < PAUSE_SECONDS:
                continue
            self._written[site] = now
            line = {"time": int(now), "site": site, "refused": self._waiting.pop(site)}
            try:
                with open_log(self._path, _BYTES) as file:
                    file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            except OSError as error:
                log.error("%s: cannot be written (%s); refused: %s", self._path, error, line)


def read(path: Path, now: float | None = None) -> dict[str, dict[str, int]]:
    """Return how often each site was refused what in the last 24 hours, by "path rule"."""
    since = (time.time() if now is None else now) - DAY_SECONDS
    found: dict[str, dict[str, int]] = {}
    for part in (path.with_name(path.name + ".1"), path):
        for line in part.read_bytes().splitlines() if part.is_file() else ():
            try:
                row = json.loads(line)
                if row["time"] < since:
                    continue
                counts = found.setdefault(row["site"], {})
                for what, (times, _) in row["refused"].items():
                    counts[what] = counts.get(what, 0) + times
            except (ValueError, KeyError, TypeError):
                continue  # torn by a crash
    return found
