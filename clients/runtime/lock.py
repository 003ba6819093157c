"""One process at a time works from a site's folder: two would answer with the same key."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

_NAME = "node.lock"


class Held(ValueError):
    """Another process works from this folder."""


def hold(home: Path) -> IO[str]:
    """Return a file that holds the folder for this process until it is closed.

    Raises Held when another process has it, OSError when the folder cannot be written.
    """
    handle = (home / _NAME).open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise Held(
            f"{home}: another process works from this folder already; see `fedlite site status "
            f"{home}`, and stop that one first"
        ) from None
    return handle
