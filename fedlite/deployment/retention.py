"""What may be thrown away: files that nothing needs any more, found first and removed after.

Which ones those are is decided where they are made (`clients.runtime.cleaning`,
`server.coordinator.cleaning`); here they are measured and removed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlite.deployment import bundle as bundles

KEEP_DAYS = 30
# Below a day a run that only pauses would be taken for one that is over.
LEAST_DAYS = 1
_DAY = 86400.0


class InUse(Exception):
    """Somebody works with it now."""


@dataclass(frozen=True)
class Leftover:
    """One file or folder that may go.

    why: for people. bytes: what it takes. held: keeps others away while it is removed, or raises
    InUse.
    """

    path: Path
    why: str
    bytes: int
    held: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext, compare=False)


def check_days(keep_days: int) -> None:
    """Raise ValueError for a number of days that is too small."""
    if keep_days < LEAST_DAYS:
        raise ValueError(
            f"--keep-days: must be at least {LEAST_DAYS}, got {keep_days}; what was used in the "
            "last day may be in use now"
        )


def days(path: Path) -> int:
    """Return for how many whole days nothing in `path` was written; -1 where it has gone."""
    try:
        times = [entry.lstat().st_mtime for entry in (path, *path.rglob("*"))]
    except OSError:
        return -1
    return int((time.time() - max(times)) // _DAY)


def leftover(
    path: Path, why: str, held: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Leftover:
    """Return a file or folder as one that may go; nothing is followed out of it."""
    found = [entry.lstat() for entry in (path, *path.rglob("*"))]
    return Leftover(path, why, sum(one.st_blocks * 512 for one in found), held)


def remove(leftovers: Iterable[Leftover]) -> tuple[list[Leftover], list[str]]:
    """Remove what may go; return what was removed, and a line for each that could not be."""
    removed, kept = [], []
    for one in leftovers:
        try:
            with one.held():
                _remove(one.path)
            removed.append(one)
        except InUse as error:
            kept.append(f"{one.path}: {error}")
        except FileNotFoundError:
            continue
        except OSError as error:
            kept.append(f"{one.path}: {error.strerror or error}; it stays")
    return removed, kept


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    # Out of sight first: who looks meanwhile finds all of it or nothing.
    hidden = path.with_name(f".{path.name}.gone")
    if hidden.exists():
        bundles.remove(hidden)
    path.chmod(0o700)
    path.rename(hidden)
    bundles.remove(hidden)


def report(
    found: Sequence[Leftover], kept: Sequence[str], home: Path, *, dry_run: bool
) -> tuple[dict[str, Any], str]:
    """Return what was done, or with `dry_run` would be, as plain values and as text."""
    total = sum(one.bytes for one in found)
    verb = "would remove" if dry_run else "removed"
    value = {
        "home": str(home),
        "dry_run": dry_run,
        "removed": [{"path": str(one.path), "why": one.why, "bytes": one.bytes} for one in found],
        "kept": list(kept),
        "bytes": total,
    }
    lines = [
        f"{verb} {one.path.relative_to(home)} ({_size(one.bytes)})\n  {one.why}" for one in found
    ]
    lines += [f"kept {line}" for line in kept]
    if found or kept:
        lines.append(f"{home}: {verb} {_size(total)} in {len(found)} places")
    else:
        lines.append(f"{home}: nothing to remove")
    return value, "\n".join(lines)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"
