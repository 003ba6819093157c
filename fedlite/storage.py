"""Files that survive a crash: a reader sees the old content or the new, never a mixture."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import time
from pathlib import Path

# Nobody writes one file for so long; by its age, as the writer's number says nothing about a
# process in another container.
_ABANDONED_SECONDS = 3600.0


def is_full(error: OSError) -> bool:
    """Return whether a write failed because the disk, or this user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what tells whether a file is the one that was read; None where there is none."""
    try:
        seen = path.stat()
    except OSError:
        return None  # reading it says what is wrong
    return seen.st_ino, seen.st_mtime_ns, seen.st_size


def write_atomic(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Replace the content of `path` with `data` durably.

    mode: of the new file, from its first byte on; the umask is taken off it.

    Writes a sibling file, flushes it to the device, renames it over `path` and flushes the
    directory, so that neither `kill -9` nor a power cut leaves half a file.

    What a writer that was killed has left beside it is removed after an hour.

    Raises OSError (for example when the disk is full); `path` then still holds its old content.
    """
    # First, as the disk may be full of them: each is as large as the file.
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        # Another user's stays, and what has gone meanwhile need not be removed.
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                left.unlink()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
