"""A program that must always run, and the log that it writes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

log = logging.getLogger("fedlite.coordinator")

_LONGEST_PAUSE = 60.0
_LOG_BYTES = 50_000_000


def open_log(path: Path, limit: int = _LOG_BYTES) -> IO[bytes]:
    """Open a log to append to; one of more than `limit` bytes is put aside first."""
    if path.exists() and path.stat().st_size > limit:
        path.replace(path.with_name(path.name + ".1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


@dataclass
class Service:
    """A program that must always run; it pauses the longer, the more often it dies young.

    patience: seconds in which it may end when it is told to; then it is killed.
    """

    name: str
    command: list[str]
    log: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    failures: int = 0
    patience: float = 10.0

    @property
    def dead(self) -> bool:
        """Whether it was started and has ended by itself."""
        return self.process is not None and self.process.poll() is not None

    def watch(self) -> None:
        """Start the program where it does not run and is due."""
        now = time.monotonic()
        if self.process is not None and self.dead:
            self.failures = 0 if now - self.started > _LONGEST_PAUSE else self.failures + 1
            pause = min(_LONGEST_PAUSE, 0.25 * 2**self.failures)
            code = self.process.returncode
            log.warning("%s ended (%s); it starts again in %.1f s", self.name, code, pause)
            self.end()
            self.due = now + pause
        if self.process is not None or now < self.due:
            return
        with open_log(self.log) as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(self.environment),
                start_new_session=True,
                umask=0o077,
            )
        self.started = now

    def end(self) -> None:
        """End the program and what is left of its process group."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(self.patience)
        except subprocess.TimeoutExpired:
            log.warning("%s does not end; it is killed", self.name)
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            log.debug("nothing is left of %s", self.name)
        self.process.wait()
        self.process = None
