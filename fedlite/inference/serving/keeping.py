"""What a server keeps in a folder: who asked when, what happened, and what must outlive it.

`requests-YYYY-MM-DD.jsonl` has a line a request, without its inputs and answers; the journal
(`fedlite.deployment.journal`) what happened to versions; `state.json` which must not answer early,
or at all, until an operator says so.
"""

from __future__ import annotations

import errno
import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedlite.deployment.journal import KEEP_DAYS, Journal
from fedlite.identity.canonical import canonical
from fedlite.storage import write_atomic

_FILE = re.compile(r"requests-(\d{4}-\d{2}-\d{2})\.jsonl")
# Of the log, that is sent at once, and how far back it is looked for.
MOST_LINES, _TAIL = 1000, 1 << 20


class Keeping:
    """The folder of one server. folder: None: nothing is kept.

    Raises ValueError where another server has it, or its state cannot be read.
    """

    def __init__(self, folder: Path | None) -> None:
        """Make the folder and read its state."""
        self.folder = folder
        self.state: dict[str, Any] = {"deep": [], "withdrawn": []}
        self._day, self._handle, self._journal = "", -1, None
        self._lock: Any = None
        if folder is None:
            return
        from filelock import FileLock, Timeout

        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"--keep {folder}: is another server's; name another") from None
        self._journal = Journal(folder)
        path = folder / "state.json"
        if path.exists():
            try:
                told = json.loads(path.read_text("utf-8"))
                lists = {name: [str(one) for one in told[name]] for name in self.state}
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}: cannot be read ({error!r}), so nobody knows which version must not "
                    "answer; put it right, or remove it if none must"
                ) from None
            self.state = lists

    def request(self, **facts: str | int | float) -> None:
        """Add a line to the log of requests; raises OSError where it cannot be written."""
        if self.folder is None:
            return
        now = datetime.now(UTC)
        if f"{now:%Y-%m-%d}" != self._day:
            self._new_day(now)
        told = {"time": now.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z", **facts}
        line = json.dumps(told).encode() + b"\n"
        if os.write(self._handle, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def happened(self, action: str, facts: dict[str, Any]) -> None:
        """Add a line to the journal, durably."""
        if self._journal is not None:
            canonical(facts)
            self._journal.write(action, **facts)

    def remember(self, **lists: list[str]) -> None:
        """Keep which versions are `deep`, or `withdrawn`, durably."""
        self.state = self.state | lists
        if self.folder is not None:
            content = json.dumps(self.state, indent=2).encode() + b"\n"
            write_atomic(self.folder / "state.json", content, 0o600)

    def last(self, lines: int) -> list[str]:
        """Return the last lines of the log of requests, the oldest first; at most MOST_LINES."""
        found: list[str] = []
        wanted = min(lines, MOST_LINES)
        for path in sorted(_days(self.folder), reverse=True):
            if len(found) >= wanted:
                break
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL))
                read = file.read(_TAIL).decode("utf-8", "replace").splitlines()
            found = read[-(wanted - len(found)) :] + found
        return found

    def close(self) -> None:
        """Let go of the folder."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        if self._lock is not None:
            self._lock.release()

    def _new_day(self, now: datetime) -> None:
        if self.folder is None:
            return
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        path = self.folder / f"requests-{now:%Y-%m-%d}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._handle = os.open(path, flags, 0o600)
        self._day = f"{now:%Y-%m-%d}"
        oldest = f"{now - timedelta(days=KEEP_DAYS):%Y-%m-%d}"
        for old in _days(self.folder):
            found = _FILE.fullmatch(old.name)
            if found is not None and found[1] < oldest:
                old.unlink(missing_ok=True)


def _days(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    return [path for path in folder.glob("requests-*.jsonl") if _FILE.fullmatch(path.name)]
