"""Files that survive a crash: a reader sees the old content or the new, never a mixture."""

from __future__ import annotations

import glob
import os
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the content of `path` with `data` durably.

    Writes a sibling file, flushes it to the device, renames it over `path` and flushes the
    directory, so that neither `kill -9` nor a power cut leaves half a file.

    What a writer that was killed has left beside it is removed.

    Raises OSError (for example when the disk is full); `path` then still holds its old content.
    """
    # First, as the disk may be full of them: each is as large as the file.
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        if not _writing(left):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
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


def _writing(temporary: Path) -> bool:
    """Whether the process that wrote a temporary file lives, as far as can be told."""
    number = temporary.name.split(".")[-2]
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        return True  # another user's, or no file of ours
    return True
