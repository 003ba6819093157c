"""Files that survive a crash: a reader sees the old content or the new, never a mixture."""

from __future__ import annotations

import contextlib
import csv
import errno
import glob
import hashlib
import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Nobody writes one file for so long; by its age, as the writer's number says nothing about a
# process in another container.
_ABANDONED_SECONDS = 3600.0
# Bytes of a file that is kept as room for the next one of its name.
_SHORT = 2**16


def is_full(error: OSError) -> bool:
    """Return whether a write failed because the disk, or this user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what tells whether a file is the one that was read; None where there is none.

    Of a folder it tells whether a file below was added, taken away or written; no link is followed.
    """
    try:
        seen = path.stat()
        if not path.is_dir():
            return seen.st_ino, seen.st_mtime_ns, seen.st_size
        below = [(name, file.lstat()) for name, file in files_below(path)]
    except OSError:
        return None  # reading it says what is wrong
    told = "".join(f"{name!r} {one.st_mtime_ns} {one.st_size}\n" for name, one in below)
    digest = hashlib.sha256(told.encode(errors="surrogateescape")).digest()
    return seen.st_ino, int.from_bytes(digest[:8], "little"), len(below)


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name below a folder, and the path, of every file and link in it, in their order."""
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(where, name)
            yield file.relative_to(folder).as_posix(), file


def content_digest(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, or of all names and files in a folder.

    A link in a folder counts by where it leads, and is not followed. Raises OSError.
    """
    if not path.is_dir():
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    whole = hashlib.sha256()
    for name, file in files_below(path):
        one = f"link {os.readlink(file)!r}" if file.is_symlink() else content_digest(file)
        whole.update(f"{name!r} {one}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()


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
    except OSError as error:
        temporary.unlink(missing_ok=True)
        # Of the file beside it the caller has never heard.
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_quickly(path: Path, data: bytes) -> None:
    """Replace the content of `path` so that `kill -9` leaves the old one or the new; see `latest`.

    Nothing is flushed to the device: after a power cut either may be lost. File systems flush a
    file that is renamed over another by themselves, which takes ten times as long as the writing,
    so the old one is first given another name. A short one is then the room for the next content:
    to make a file and to remove one take fifty times as long as to write over it. So who holds an
    older one open may see it change: read it whole, under the lock of who writes. Raises OSError.
    """
    folder, name = os.path.split(path)
    temporary, old = (os.path.join(folder, f".{name}.{kind}") for kind in ("part", "old"))
    try:
        with open(_room(temporary), "wb", buffering=0) as file:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            file.truncate()
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, old)
    os.replace(temporary, path)
    # Also one that a killed process has left.
    with contextlib.suppress(FileNotFoundError):
        if len(data) <= _SHORT:
            os.rename(old, temporary)
        else:
            os.unlink(old)


def _room(path: str) -> int:
    """Return a file to write from its start, which has no other name: somebody may keep that."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        file = os.open(path, flags, 0o666)
    except OSError as error:
        # Another user's, one that is read only, or a link: it was let be written over by rename.
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ELOOP):
            raise
    else:
        if os.fstat(file).st_nlink == 1:
            return file
        os.close(file)
    os.unlink(path)
    return os.open(path, flags | os.O_EXCL, 0o666)


def latest(path: Path) -> Path:
    """Return where the content of `path` is: under its other name if it was just being replaced."""
    old = path.with_name(f".{path.name}.old")
    return old if not path.exists() and old.exists() else path


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same columns as a CSV file; there must be one at least. Raises OSError."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomic(path, text.getvalue().encode())
