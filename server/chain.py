"""A file of signed lines that is only ever appended to, each line with the hash of the one before.

Several runs of one server may append to one file: each does so under a lock, after whatever the
others have written.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fedlite.identity import keys
from fedlite.privacy.ledger import lines
from fedlite.privacy.ledger.rows import NO_HASH
from fedlite.privacy.ledger.rules import LedgerError


class ChainFile:
    """The file at `path`, which need not exist yet.

    head: `line_hash` of the last line, 64 zeros where there is none. last: what that line says.
    """

    def __init__(self, path: Path) -> None:
        """Begin before the first line."""
        self.path = path
        self.head = NO_HASH
        self.last: Mapping[str, Any] = {}
        self._count = self._end = 0

    def load(self) -> list[dict[str, Any]]:
        """Return what every line says, verified; a line that was cut short is removed.

        Raises ValueError for a line that is damaged, was not signed by the witness that it names,
        or does not follow the one before.
        """
        if not self.path.exists():
            return []
        with self._locked("r+b") as file:
            return self._catch_up(file)

    def append(self, rows: Iterable[Mapping[str, Any]], key: keys.Key) -> None:
        """Sign and add a line for each row, durably.

        Raises ValueError as `load` does, for what another process has added.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked("a+b") as file:
            self._catch_up(file)
            data, head = b"", self.head
            for row in rows:
                line = lines.sign(row, head, key)
                data, head, last = data + line, lines.line_hash(line), row
                self._count += 1
            if data:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                self.head, self.last, self._end = head, last, self._end + len(data)

    @contextmanager
    def _locked(self, mode: str) -> Iterator[BinaryIO]:
        with self.path.open(mode) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file  # type: ignore[misc]

    def _catch_up(self, file: BinaryIO) -> list[dict[str, Any]]:
        """Read and verify the lines that are new."""
        if file.seek(0, os.SEEK_END) < self._end:
            raise ValueError(
                f"{self.path}: became shorter while it was in use (rule: what was seen is never "
                "edited); restore the file from a copy"
            )
        file.seek(self._end)
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            # It was being written when the machine stopped; its reply will come again.
            file.truncate(self._end + len(whole))
        found = [self._take(line) for line in whole.splitlines()]
        self._end += len(whole)
        return found

    def _take(self, line: bytes) -> dict[str, Any]:
        self._count += 1
        try:
            row = lines.parse(line)
            # Lines without a hash of the one before are of an older fedlite, and come first.
            follows = row["prev"] == self.head if "prev" in row else "prev" not in self.last
            good = follows and lines.proven(row)
        except LedgerError:
            good = False
        if not good:
            raise ValueError(
                f"{self.path}: line {self._count} is damaged, does not follow the line before, or "
                "was not written by the witness it names (rule: what was seen is never edited); "
                "restore the file from a copy"
            )
        self.head, self.last = lines.line_hash(line), row
        return row
