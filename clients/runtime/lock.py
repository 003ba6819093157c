"""One process at a time works from a site's folder: two would answer with the same key."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

NAME = "node.lock"


class Held(RuntimeError):
    """Another process works from this folder."""


def hold(home: Path) -> ExitStack:
    """Hold the folder for this process until what is returned is closed, or the process ends.

    Raises Held when another process has it, OSError when the folder cannot be written or its disk
    has no locks.
    """
    # Closed by whatever thread ends the site. A soft lock would outlive a killed process.
    lock = FileLock(home / NAME, thread_local=False, fallback_to_soft=False)
    held = ExitStack()
    try:
        held.enter_context(lock.acquire(timeout=0))
    except Timeout:
        raise Held(
            f"{home}: another process works from this folder already; see `fedlite site status "
            f"{home}`, and stop that one first"
        ) from None
    return held
