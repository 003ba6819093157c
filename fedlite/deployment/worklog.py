"""What workers print, in a file that stays small while they run.

Approved code may print as much and whatever it likes. A thread of the site's process reads it, so
the worker never waits for long; what comes faster than a person could read is left out and counted,
so neither the disk nor earlier lines suffer; and what a terminal would obey is written as text.
"""

from __future__ import annotations

import codecs
import logging
import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("fedlite.site")

FILE_BYTES = 5_000_000
# At once, and then per second: a traceback a second, or a week to fill a file by printing always.
BURST_BYTES = 1_000_000
RATE_BYTES = 10_000
_CHUNK = 65_536
# While too much comes: the worker then waits for the log, not the site for the worker.
_BRAKE_SECONDS = 0.05


class WorkLog:
    """A log of two files: `path`, and beside it the one before, `.old`; each FILE_BYTES at most.

    A full disk costs lines, never a worker. Use `pipe` once for each worker, and `close` at last.
    """

    def __init__(self, path: Path) -> None:
        """Go on with the file that is there; raises OSError when it cannot be made."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._left, self._seen = float(BURST_BYTES), time.monotonic()
        self._dropped = 0
        self._threads: list[threading.Thread] = []

    @contextmanager
    def pipe(self) -> Iterator[int]:
        """Give the descriptor that a worker is started with, as its standard output and error.

        This process keeps none of it: when the worker has ended, and whatever it has started, the
        thread that reads ends, too.
        """
        reader, writer = os.pipe()
        try:
            thread = threading.Thread(
                target=self._drain, args=(reader,), name="worker log", daemon=True
            )
            self._threads = [one for one in self._threads if one.is_alive()] + [thread]
            thread.start()
            yield writer
        finally:
            os.close(writer)

    def close(self) -> None:
        """Write what has come, and end; the workers should have ended before. Again: nothing."""
        for thread in self._threads:
            thread.join(timeout=1.0)
        self._stop.set()
        for thread in self._threads:
            thread.join()
        with self._lock:
            if self._file >= 0:
                self._tell_dropped()
                os.close(self._file)
            self._file = -1

    def _drain(self, reader: int) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        try:
            while not self._stop.is_set():
                if not select.select([reader], [], [], 1.0)[0]:
                    continue
                chunk = os.read(reader, _CHUNK)
                if not self._take(plain(decoder.decode(chunk, final=not chunk)).encode()):
                    self._stop.wait(_BRAKE_SECONDS)
                if not chunk:
                    return
        finally:
            os.close(reader)

    def _take(self, data: bytes) -> bool:
        """Write what the rate allows; return whether that was all."""
        with self._lock:
            now = time.monotonic()
            gained = (now - self._seen) * RATE_BYTES
            self._left, self._seen = min(float(BURST_BYTES), self._left + gained), now
            if self._dropped and self._left < BURST_BYTES / 10:
                # Once too much has come, not every line that fits again is worth a gap before it.
                self._dropped += len(data)
                return not data
            self._tell_dropped()
            kept = data[: int(self._left)]
            self._left -= len(kept)
            self._dropped += len(data) - len(kept)
            self._write(kept)
            return len(kept) == len(data)

    def _tell_dropped(self) -> None:
        if self._dropped:
            left_out, self._dropped = self._dropped, 0
            self._write(f"\n[{left_out} bytes were left out: they came too fast]\n".encode())

    def _write(self, data: bytes) -> None:
        try:
            if self._size + len(data) > FILE_BYTES:
                self.path.replace(self.path.with_suffix(".old"))
                fresh = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
                os.dup2(fresh, self._file, inheritable=False)
                os.close(fresh)
                self._size = 0
            self._size += os.write(self._file, data)
        except OSError as error:
            self._dropped += len(data)
            log.error("%s could not be written: %s", self.path, error)


def plain(text: str) -> str:
    r"""Return text with every character that a terminal would obey, or hide, written as `\x..`.

    Lines and tabs stay.

    >>> plain("a\x1b[2Jb\n")
    'a\\x1b[2Jb\n'
    """
    return "".join(
        one if one in "\n\t" or one.isprintable() else one.encode("unicode_escape").decode()
        for one in text
    )
