"""How a ledger touches the disk: system calls that a test can replace, and what a failure means."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator

from fedlite.privacy.ledger.rows import MAX_LINE
from fedlite.privacy.ledger.rules import LedgerError, LedgerPoisoned

_BLOCK = 1 << 20

# What this process may not use any more, by real path.
_POISONED: dict[str, str] = {}


class Files:
    """The system calls of a ledger. Every one may raise OSError."""

    def open(self, path: str, flags: int) -> int:
        """Open `path`; a new file is for its owner alone."""
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)

    def read(self, handle: int, size: int, offset: int) -> bytes:
        """Return at most `size` bytes from `offset`."""
        return os.pread(handle, size, offset)

    def write(self, handle: int, data: bytes) -> int:
        """Write and return how many bytes went out."""
        return os.write(handle, data)

    def fsync(self, handle: int) -> None:
        """Flush a file, or a directory's entries, to the device."""
        os.fsync(handle)

    def truncate(self, handle: int, size: int) -> None:
        """Cut a file to `size` bytes."""
        os.ftruncate(handle, size)

    def replace(self, source: str, target: str) -> None:
        """Rename `source` over `target`."""
        os.replace(source, target)

    def unlink(self, path: str) -> None:
        """Remove `path`."""
        os.unlink(path)

    def stat(self, handle: int) -> os.stat_result:
        """Return size and kind of an open file."""
        return os.fstat(handle)

    def close(self, handle: int) -> None:
        """Close a file."""
        os.close(handle)

    def now(self) -> float:
        """Return the time in seconds since 1970."""
        return time.time()


FILES = Files()


class Unflushed(Files):
    """Without waiting for the device: for ledgers that record what a simulation played.

    Rows are written in the same order, so a killed process leaves what a real site's would. What a
    power cut may take with it is of a run that can be played again, in which nobody's records were
    released; a ledger that goes on counting when the run is over is always flushed.
    """

    def fsync(self, handle: int) -> None:
        """Leave it to the system."""


UNFLUSHED = Unflushed()


def write_all(files: Files, handle: int, data: bytes) -> None:
    """Write all of `data`, usually in one call."""
    while data:
        data = data[files.write(handle, data) :]


def flush_directory(files: Files, path: str) -> None:
    """Make the entry of `path` in its directory durable."""
    handle = files.open(os.path.dirname(path), os.O_RDONLY)
    try:
        files.fsync(handle)
    finally:
        files.close(handle)


def lines_of(files: Files, handle: int, offset: int) -> Iterator[bytes]:
    """Yield each line from `offset` on, its end included; what follows the last end comes last.

    At most 65,536 bytes without an end are looked at, whatever the length of the file.
    """
    rest = b""
    while len(rest) <= MAX_LINE:
        try:
            block = files.read(handle, _BLOCK, offset)
        except OSError as error:
            raise LedgerError("unreadable", f"cannot be read ({error}); mend the disk") from error
        if not block:
            break
        offset += len(block)
        *lines, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def replace_durably(files: Files, path: str, data: bytes) -> None:
    """Give `path` the content `data`: after a power cut it is the old file or the new one."""
    part = f"{path}.part"
    handle = files.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(files, handle, data)
        files.fsync(handle)
    finally:
        files.close(handle)
    files.replace(part, path)
    flush_directory(files, path)


def open_file(files: Files, path: str, flags: int) -> int:
    """Open a regular file; raise LedgerError "not-a-file" or "unreadable" otherwise."""
    try:
        handle = files.open(path, flags)
    except IsADirectoryError:
        raise LedgerError("not-a-file", "must be a file, got a directory") from None
    except OSError as error:
        raise LedgerError(
            "unreadable", f"cannot be opened ({error}); mend its place or permissions"
        ) from error
    if not stat.S_ISREG(files.stat(handle).st_mode):
        files.close(handle)
        raise LedgerError("not-a-file", "must be a file, got a directory or a device")
    return handle


@contextlib.contextmanager
def opened(files: Files, path: str, flags: int) -> Iterator[int]:
    """Open a regular file and close it in the end."""
    handle = open_file(files, path, flags)
    try:
        yield handle
    finally:
        files.close(handle)


def marker(path: str) -> str:
    """Return the path of the marker that a failed write or flush leaves."""
    return f"{path}.poisoned"


def forget_poison(path: str) -> None:
    """Forget, in this process alone, that writing failed; a marker on the disk stays."""
    _POISONED.pop(path, None)


def check_poison(path: str) -> None:
    """Raise LedgerPoisoned where a write or flush has failed."""
    why = _POISONED.get(path)
    if why is None and os.path.lexists(marker(path)):
        why = "an earlier write or flush failed"
    if why is not None:
        raise LedgerPoisoned(
            "poisoned",
            f"{why}, so nobody knows what the disk holds; mend the disk, then run `fedlite site "
            "recover`",
        )


@contextlib.contextmanager
def poisoning(files: Files, path: str) -> Iterator[None]:
    """Poison the ledger where the disk fails: after a failed flush a second one proves nothing."""
    try:
        yield
    except OSError as error:
        _POISONED[path] = f"writing failed ({error})"
        marked = "the marker stays until then"
        try:
            handle = files.open(marker(path), os.O_WRONLY | os.O_CREAT)
            try:
                write_all(files, handle, f"{error}\n".encode())
                files.fsync(handle)
            finally:
                files.close(handle)
            flush_directory(files, path)
        except OSError as second:
            marked = f"its marker could not be made durable either ({second})"
        raise LedgerPoisoned(
            "poisoned",
            f"writing failed ({error}), so nobody knows what the disk holds; nothing is written "
            f"any more: mend the disk, then run `fedlite site recover`; {marked}",
        ) from error


def forgive(files: Files, path: str) -> None:
    """Remove the marker durably, once the file is known to be good."""
    with contextlib.suppress(FileNotFoundError):
        files.unlink(marker(path))
    flush_directory(files, path)
    _POISONED.pop(path, None)
