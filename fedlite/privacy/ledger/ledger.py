"""The privacy ledger of one site and one data set: appended, flushed, locked, never rewritten.

The order that protects a person is: reserve, flush, train, settle and release, flush, send. So what
has been sent is always in the file, whatever is killed and whenever the power fails. A local file
cannot prove that it is the newest copy: cutting it at a row's end, restoring an older copy or
rebuilding it with its own key is seen by the witness, not here.

Beside LEDGER lie `LEDGER.lock` (the writer holds `flock` on it) and, after a failed write or flush,
`LEDGER.poisoned`. Keep all three on a local disk: NFS turns `flock` into a lock of its own, which
holds between machines only where its lock service runs and `local_lock` is off.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from fedlite.identity import keys
from fedlite.privacy.ledger import files as disk
from fedlite.privacy.ledger.bodies import check_body
from fedlite.privacy.ledger.chain import Chain
from fedlite.privacy.ledger.files import FILES, Files
from fedlite.privacy.ledger.lock import Lock
from fedlite.privacy.ledger.rows import (
    MAX_LINE,
    NO_HASH,
    Head,
    Row,
    rotate_message,
    row_hash,
    row_message,
)
from fedlite.privacy.ledger.rules import (
    LedgerError,
    located,
)

_APPEND = os.O_RDWR | os.O_APPEND
# What this process has verified, by real path.
_VERIFIED: dict[str, Chain] = {}


def read(path: str | Path) -> list[Row]:
    """Return the rows of the ledger at `path`, without locking it or writing anything.

    A torn last line is left out. Raises LedgerError on the first finding that is a failure.
    """
    path = os.path.realpath(path)
    with located(path), disk.opened(FILES, path, os.O_RDONLY) as handle:
        chain = Chain()
        chain.take_all(disk.lines_of(FILES, handle, 0))
        return chain.rows


def forget(path: str | Path) -> None:
    """Drop what this process remembers of `path`, after its owner has deleted it on purpose."""
    path = os.path.realpath(path)
    _VERIFIED.pop(path, None)
    disk.forget_poison(path)


def recover(
    path: str | Path, key: keys.Key, *, drop_damaged_tail: bool = False, files: Files = FILES
) -> Head | None:
    """Make a poisoned ledger usable again: verify it in full, rewrite it durably, unmark it.

    Rows whose flush had failed are kept where they can still be read: they count, nothing more.
    drop_damaged_tail: also give up a last stretch of at most 65,536 bytes that does not verify,
        as a power cut can leave where a write had reached the disk in part. Nothing was sent after
        such a write; if something was, the witness knows, and refuses this ledger.

    Returns the head, or None where no ledger had come to be. Raises LedgerError where it is not
    valid, LedgerPoisoned where the disk fails again.
    """
    path = os.path.realpath(path)
    lock = Lock(path, 0.0)
    try:
        with located(path), disk.poisoning(files, path):
            return _recover(path, key, drop_damaged_tail, files)
    finally:
        lock.release()


def _recover(path: str, key: keys.Key, drop: bool, files: Files) -> Head | None:
    chain, known = Chain(), _VERIFIED.get(path)
    if os.path.lexists(path):
        with disk.opened(files, path, os.O_RDONLY) as handle:
            try:
                chain.take_all(disk.lines_of(files, handle, 0))
            except LedgerError:
                left = files.stat(handle).st_size - chain.offset
                if not (drop and chain.rows and left <= MAX_LINE):
                    raise
        chain.check_key(keys.public_hex(key))
    if known is not None and chain.hash_of(known.rows[-1].seq) != known.rows[-1].hash:
        raise known.rolled_back()
    if chain.rows:
        disk.replace_durably(files, path, b"".join(row.line for row in chain.rows))
        _VERIFIED[path] = chain
    disk.forgive(files, path)
    return chain.head if chain.rows else None


class Ledger:
    """An open ledger, the only one for its path on this machine; a context manager.

    Threads may share one object. It must be closed: `with Ledger.open(path, key) as ledger: ...`
    """

    def __init__(self, path: str, key: keys.Key, files: Files, lock: Lock) -> None:
        """Take over `lock`; use `open`."""
        self.path = path
        self._key = key
        self._files = files
        self._lock = lock
        self._mutex = threading.Lock()
        self._chain = Chain()
        self._handle = -1

    @classmethod
    def open(
        cls, path: str | Path, key: keys.Key, *, wait: float = 0.0, files: Files = FILES
    ) -> Ledger:
        """Lock the ledger at `path`, verify it and mend a torn last line.

        key: the key in force. wait: seconds to wait for another writer.
        In one process, opening again verifies only what was added since; that the file did not
        become shorter, and that its last line is the same, is checked each time.

        A missing file is no error: see `exists`; its directory is made.
        Raises LedgerBusy, LedgerPoisoned, LedgerError.
        """
        path = os.path.realpath(path)
        ledger = cls(path, key, files, Lock(path, wait))
        try:
            with located(path):
                ledger._load()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def __enter__(self) -> Ledger:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Release the file and the lock; a second call does nothing."""
        handle, self._handle = self._handle, -1
        try:
            if handle >= 0:
                self._files.close(handle)
        finally:
            self._lock.release()

    @property
    def exists(self) -> bool:
        """Whether it has its genesis row."""
        return bool(self._chain.rows)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All durable rows."""
        return tuple(self._chain.rows)

    @property
    def id(self) -> str:
        """The hash of the genesis row, 64 hex digits."""
        return self.head.ledger

    @property
    def key(self) -> str:
        """The public half, 64 hex digits, of the key that it was opened with."""
        return keys.public_hex(self._key)

    @property
    def head(self) -> Head:
        """The last durable row. Raises LedgerError "no-ledger" before `create`."""
        if not self.exists:
            raise LedgerError("no-ledger", "has no rows yet; call create", path=self.path)
        return self._chain.head

    def create(self, body: Mapping[str, Any]) -> Row:
        """Write the genesis row; the file appears with it, durably, or not at all.

        Raises LedgerError where the ledger exists, or `body` is not that of a genesis row or names
        another key; LedgerPoisoned where the disk fails.
        """
        with self._mutex, located(self.path):
            self._lock.check()
            disk.check_poison(self.path)
            if self.exists or os.path.lexists(self.path):
                raise LedgerError("already-exists", "a ledger is created once; append to it")
            trial = Chain()
            line = self._next(trial, "genesis", body)
            if trial.key != keys.public_hex(self._key):
                raise LedgerError("genesis", "body.key must be the key that it is opened with")
            with disk.poisoning(self._files, self.path):
                disk.replace_durably(self._files, self.path, line)
                # The directory may be new as well; the one above it may be somebody else's.
                with contextlib.suppress(PermissionError):
                    disk.flush_directory(self._files, os.path.dirname(self.path))
                self._handle = self._files.open(self.path, _APPEND)
            self._accept(trial)
            return trial.rows[0]

    def append(self, *entries: tuple[str, Mapping[str, Any]]) -> tuple[Row, ...]:
        """Add a row for each (kind, body), in one write and one flush: all are durable on return.

        Raises LedgerError, with nothing written, where a row would not verify; LedgerPoisoned
        where the disk fails, and from then on.
        """
        for kind, _ in entries:
            if kind in ("genesis", "key-rotate"):
                method = "create" if kind == "genesis" else "rotate"
                raise LedgerError("own-method", f"{kind}: call {method}", path=self.path)
        with self._mutex, located(self.path):
            return self._append(entries)

    def rotate(self, key: keys.Key) -> Row:
        """Add the row that hands over to `key`, which signs every later row.

        Write the new key to a file of its own before, and put that in the old one's place after.
        """
        with self._mutex, located(self.path):
            self._check_ready()
            proof = keys.sign(key, rotate_message(self._chain.id, self._chain.rows[-1].hash))
            (row,) = self._append([("key-rotate", {"key": keys.public_hex(key), "proof": proof})])
            self._key = key
            return row

    def _append(self, entries: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[Row, ...]:
        self._check_ready()
        # A copy: whatever is raised, by a signal too, the chain stays what is durable.
        trial = self._chain.copy()
        data = b"".join(self._next(trial, kind, body) for kind, body in entries)
        if data:
            with disk.poisoning(self._files, self.path):
                disk.write_all(self._files, self._handle, data)
                self._files.fsync(self._handle)
        rows = tuple(trial.rows[len(self._chain.rows) :])
        self._accept(trial)
        return rows

    def _next(self, chain: Chain, kind: str, body: Mapping[str, Any]) -> bytes:
        """Add the next row, signed, to `chain` and judge it as a reader will; return its line."""
        seq, prev = len(chain.rows), chain.rows[-1].hash if chain.rows else NO_HASH
        time = datetime.fromtimestamp(self._files.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            hash = row_hash(seq, prev, kind, time, body)
        except (ValueError, TypeError, RecursionError):
            check_body(kind, body)
            raise
        row = Row(seq, prev, kind, time, body, hash, keys.sign(self._key, row_message(hash)))
        # Parsed back, so that the row kept here shares nothing with the caller.
        line = row.line
        chain.take(line, own=True)
        return line

    def _accept(self, chain: Chain) -> None:
        self._chain = _VERIFIED[self.path] = chain

    def _check_ready(self) -> None:
        self._lock.check()
        disk.check_poison(self.path)
        if not self.exists:
            raise LedgerError("no-ledger", "has no rows yet; call create")
        size = self._files.stat(self._handle).st_size
        if size != self._chain.offset:
            raise LedgerError(
                "changed",
                f"must have {self._chain.offset} bytes, got {size}: it was changed, or a write was "
                "interrupted; open it again",
            )

    def _load(self) -> None:
        disk.check_poison(self.path)
        known = _VERIFIED.get(self.path)
        if not os.path.lexists(self.path):
            if known is not None:
                raise known.rolled_back()
            return
        self._handle = disk.open_file(self._files, self.path, _APPEND)
        chain = Chain() if known is None else self._resume(known)
        start = chain.offset
        torn = chain.take_all(disk.lines_of(self._files, self._handle, start))
        chain.check_key(keys.public_hex(self._key))
        with disk.poisoning(self._files, self.path):
            if torn:
                self._files.truncate(self._handle, chain.offset)
            # A killed writer may have left rows that were never flushed: nothing may rely on them
            # before they are.
            if torn or chain.offset > start:
                self._files.fsync(self._handle)
            if known is None:
                disk.flush_directory(self._files, self.path)
        self._accept(chain)

    def _resume(self, known: Chain) -> Chain:
        """Return a copy of what was verified here, if the file still says so where it ended."""
        if self._files.stat(self._handle).st_size < known.offset:
            raise known.rolled_back()
        at = known.offset - len(known.last)
        if self._files.read(self._handle, len(known.last), at) != known.last:
            raise LedgerError(
                "changed",
                "is not what this process has verified; restore the file from a copy",
                known.rows[-1].seq,
            )
        return known.copy()
