"""Files that survive a crash: a reader sees the old content or the new, never a mixture."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the content of `path` with `data` durably.

    Writes a sibling file, flushes it to the device, renames it over `path` and flushes the
    directory, so that neither `kill -9` nor a power cut leaves half a file.

    Raises OSError (for example when the disk is full); `path` then still holds its old content.
    """
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
