"""One writer at a time: the lock of a ledger."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import time

from fedlite.privacy.ledger.rules import LedgerBusy, LedgerError

_POLL = 0.01


class Lock:
    """The one writer of a ledger: `flock` on PATH.lock, and one holder in this process.

    The second is needed where NFS turns `flock` into a lock of whole processes.
    """

    _held: dict[str, int] = {}  # noqa: RUF012  real path -> process that holds it
    _guard = threading.Lock()

    def __init__(self, path: str, wait: float) -> None:
        """Lock the ledger at the real path `path`, waiting at most `wait` seconds.

        Raises LedgerBusy "second-writer", LedgerError "no-lock", "not-a-file" or "unreadable".
        """
        self.path = path
        self._name = f"{path}.lock"
        self._handle = -1
        self._process = os.getpid()
        deadline = time.monotonic() + wait
        while not self._try():
            left = deadline - time.monotonic()
            if left <= 0:
                raise LedgerBusy(
                    "second-writer",
                    f"is in use by another process or thread (waited {wait:g} s for {self._name}); "
                    "let it finish, and never copy a ledger to run two sites from it",
                    path=path,
                )
            time.sleep(min(_POLL, left))

    def _try(self) -> bool:
        with self._guard:
            if self._held.get(self.path) == self._process:
                return False
            self._held[self.path] = self._process
        try:
            self._handle = self._flock()
        finally:
            if self._handle < 0:
                self._forget()
        return self._handle >= 0

    def _flock(self) -> int:
        """Return the locked handle, or -1 where another process holds the lock."""
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            handle = os.open(self._name, flags, 0o600)
        except OSError as error:
            rule = "not-a-file" if os.path.isdir(self._name) else "unreadable"
            raise LedgerError(
                rule,
                f"cannot open {self._name} ({error}); mend its place or permissions",
                path=self.path,
            ) from error
        kept = False
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise LedgerError("not-a-file", f"{self._name} must be a file", path=self.path)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been replaced between opening and locking it.
            kept = self._same(handle)
        except BlockingIOError:
            return -1
        except OSError as error:
            raise LedgerError(
                "no-lock",
                f"cannot lock {self._name} ({error}); keep ledgers on a disk that has locks",
                path=self.path,
            ) from error
        finally:
            if not kept:
                os.close(handle)
        return handle if kept else -1

    def _same(self, handle: int) -> bool:
        try:
            there = os.stat(self._name, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(handle), there)

    def check(self) -> None:
        """Raise LedgerError unless this process still holds the lock."""
        if self._handle < 0:
            raise LedgerError("closed", "is closed; open it again", path=self.path)
        if os.getpid() != self._process:
            raise LedgerError(
                "closed", "was opened before a fork; open it in this process", path=self.path
            )
        if not self._same(self._handle):
            raise LedgerBusy(
                "second-writer",
                f"{self._name} was removed while in use, so another writer may have begun; open "
                "the ledger again, and never remove its lock",
                path=self.path,
            )

    def release(self) -> None:
        """Let the next writer in; a second call does nothing."""
        handle, self._handle = self._handle, -1
        if handle < 0:
            return
        try:
            # Unlocked by name: a forked child may still have the file open. In the child itself
            # the lock is the parent's.
            if os.getpid() == self._process:
                fcntl.flock(handle, fcntl.LOCK_UN)
        finally:
            os.close(handle)
            self._forget()

    def _forget(self) -> None:
        with self._guard:
            if self._held.get(self.path) == self._process:
                del self._held[self.path]
