"""A run's directory: taken by one run at a time, and by mistake never twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fedlite.reporting.record import SUMMARY
from fedlite.scenario import ScenarioError

LOCK = ".lock"


def free_directory(parent: Path, name: str) -> Path:
    """Make and return `parent/name`, or the first of `name-2`, `name-3`, ... that is not there yet.

    Of several processes that ask at once each gets another.
    """
    parent.mkdir(parents=True, exist_ok=True)
    candidate, number = parent / name, 1
    while True:
        try:
            candidate.mkdir()
        except FileExistsError:
            number += 1
            candidate = parent / f"{name}-{number}"
        else:
            return candidate


@contextmanager
def hold(directory: Path, *, fresh: bool) -> Iterator[None]:
    """Keep other processes' runs out of a directory, which is made where it is missing.

    fresh: refuse a directory that holds anything. One in which nothing was written is removed again
    at the end. The lock ends with its process, however that ends.

    Raises ScenarioError where another process has the directory, or it is not empty.
    """
    lock = _locked(directory)
    try:
        if fresh and any(entry.name != LOCK for entry in directory.iterdir()):
            raise _exists(directory)
        yield
    finally:
        (directory / LOCK).unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):  # it holds the run
            directory.rmdir()


def _locked(directory: Path) -> FileLock:
    """Return the directory's lock, taken."""
    while True:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise _exists(directory) from None
        # A soft lock, which it would take on a disk without locks, outlives a killed process.
        lock = FileLock(directory / LOCK, thread_local=False, fallback_to_soft=False)
        try:
            # More than one try: the last holder may remove the file as it is being locked.
            lock.acquire(timeout=0.2, poll_interval=0.02)
            return lock
        except FileNotFoundError:
            continue  # whoever had the directory has just removed it
        except Timeout:
            raise ScenarioError(
                f"{directory}: another process runs a federation there (rule: a directory holds "
                "one run); wait until it ends, or name another directory with --out"
            ) from None


def _exists(directory: Path) -> ScenarioError:
    mend = f", or go on with --resume {directory}" if resumable(directory) else ""
    return ScenarioError(
        f"--out {directory}: already exists, and a run is never overwritten; name another "
        f"directory{mend}"
    )


def resumable(directory: Path) -> bool:
    """Return whether a directory holds a run that has begun, not finished, and may go on."""
    # Flower's Ray engine gives its sites new state folders each time.
    over = (directory / SUMMARY).exists() or (directory / "checkpoint" / "fedlite").exists()
    return (directory / "scenario.toml").is_file() and not over


def after_a_stop(directory: Path) -> str:
    """Return what to do next about a run that was interrupted."""
    if resumable(directory):
        return f"go on with: fedlite simulate --resume {directory}"
    if (directory / SUMMARY).exists():
        return f"the run itself had finished: fedlite report {directory}"
    return "start it again"
