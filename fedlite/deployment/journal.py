"""Who did what, and when: one line for each act, in a file for each month.

The journal is for the people who run a site or a coordinator. It never holds a secret, and it is
no proof: the signed ledgers are.
"""

from __future__ import annotations

import json
import os
import pwd
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedlite.identity.canonical import canonical

KEEP_DAYS = 180
# Of a month, in bytes: refusals are caused by others, who could fill the disk with them.
REFUSALS = 10_000_000
_FILE = re.compile(r"audit-(\d{4})-(0[1-9]|1[0-2])\.jsonl")
_FIXED = ("action", "time", "who")


class Journal:
    """The journal in `directory`, made (0700) with its first line.

    keep_days: months that ended longer ago are deleted; at least 180. Raises ValueError below it.
    """

    def __init__(self, directory: Path, keep_days: int = KEEP_DAYS) -> None:
        """Name the folder; nothing is written yet."""
        if keep_days < KEEP_DAYS:
            raise ValueError(
                f"keep_days: must be at least {KEEP_DAYS}, got {keep_days}; what was done must "
                "stay provable for half a year"
            )
        self.directory = Path(directory)
        self.keep_days = keep_days

    def write(self, action: str, **facts: str | int | float | bool) -> None:
        """Append one line durably and drop the months that are too old.

        Once a month has `REFUSALS` bytes, "refuse" is written no more in it, and the last says so.

        Raises ValueError for a fact called "time" or "who", for one that is neither text nor a
        finite number, and OSError where the line cannot be written.
        """
        for name, value in facts.items():
            if name in _FIXED or not isinstance(value, str | int | float | bool):
                raise ValueError(f"journal: {name} must be text or a number, got {value!r:.80}")
        now = datetime.now(UTC)
        fixed = {"action": action, "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "who": _who()}
        line = canonical(facts | fixed) + b"\n"
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.directory / f"audit-{now:%Y-%m}.jsonl"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            end = os.fstat(handle).st_size
            if action == "refuse" and end >= REFUSALS:
                return
            if action == "refuse" and end + len(line) >= REFUSALS:
                line = canonical(facts | fixed | {"last": "no more are written this month"}) + b"\n"
            if end and os.pread(handle, 1, end - 1) != b"\n":
                line = b"\n" + line  # a crash tore the line before; it stays one line of its own
            os.write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)
        if end == 0:
            self._new_month(now)

    def _new_month(self, now: datetime) -> None:
        kept = now - timedelta(days=self.keep_days)
        for path in _files(self.directory):
            year, month = (int(part) for part in path.stem.split("-")[1:])
            over = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
            if over <= kept:
                path.unlink(missing_ok=True)
        directory = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def read(directory: Path) -> list[dict[str, Any]]:
    """Return all lines, oldest first.

    A line that a crash has torn is returned as the action "damaged", with its file and number.
    """
    found: list[dict[str, Any]] = []
    for path in _files(directory):
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                said = json.loads(line)
                found.append({**said, "action": str(said["action"])})
            except (ValueError, TypeError, KeyError):
                found.append({"action": "damaged", "file": path.name, "line": number})
    return found


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("audit-*.jsonl") if _FILE.fullmatch(path.name))


def _who() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no name
        return f"uid {os.getuid()}"
