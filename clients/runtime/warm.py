"""Worker processes from outside: started early, given one bundle, asked, and ended in time."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from fedlite.deployment.worker import Task

_START_SECONDS = 180.0
_LOG_BYTES = 5_000_000
# What a worker inherits. Whatever else is in the environment (credentials, proxies) stays outside.
_KEPT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "XDG_CACHE_HOME",
    "FEDLITE_CACHE",
    "LD_LIBRARY_PATH",
)


class WorkerFailed(RuntimeError):
    """The worker died, did not answer in time, or could not load the bundle."""


class Worker:
    """One worker process; `log` gets what it prints."""

    def __init__(self, log: Path, *, gpu: bool) -> None:
        """Start it; it loads torch while nobody waits."""
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".old"))
        self._log = log
        self.task: Task | None = None
        here, there = multiprocessing.Pipe()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedlite.deployment.worker", str(there.fileno())],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(gpu),
                cwd="/",
                # Its own session: a signal to the runtime's terminal is not one to the worker.
                start_new_session=True,
            )
        there.close()
        self._pipe: Connection = here
        self._ready = False

    def assign(self, task: Task) -> None:
        """Give it its bundle; raises WorkerFailed when that cannot be loaded."""
        if not self._ready:
            self._expect(b"ready", "did not start")
            self._ready = True
        self._pipe.send_bytes(task.encode())
        self._expect(b"loaded", "could not load the approved bundle")
        self.task = task

    def ask(self, message: bytes, seconds: float) -> bytes:
        """Return its answer; raises WorkerFailed when it dies or takes longer than `seconds`."""
        try:
            self._pipe.send_bytes(message)
            return self._answer(seconds, "took longer than limits.seconds")
        except OSError:
            self.close()
            raise WorkerFailed(f"a worker died; see {self._log}") from None

    def close(self) -> None:
        """End it, at once."""
        self._pipe.close()
        self._process.kill()
        self._process.wait()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def _expect(self, word: bytes, problem: str) -> None:
        try:
            answer = self._answer(_START_SECONDS, problem)
        except OSError:
            answer = b""
        if answer != word:
            self.close()
            raise WorkerFailed(f"a worker {problem}; see {self._log}")

    def _answer(self, seconds: float, problem: str) -> bytes:
        until = time.monotonic() + seconds
        try:
            while not self._pipe.poll(min(1.0, max(0.0, until - time.monotonic()))):
                if time.monotonic() > until:
                    self.close()
                    raise WorkerFailed(f"a worker {problem}; it was ended")
            return self._pipe.recv_bytes()
        except EOFError:
            self.close()
            raise WorkerFailed(f"a worker {problem} or died; see {self._log}") from None


def _environment(gpu: bool) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    kept |= {
        # One thread until the process is shut in; torch is told of the others afterwards.
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": "",
    }
    if not gpu:
        kept["CUDA_VISIBLE_DEVICES"] = ""
    return kept
