"""Worker processes from outside: started early, given one bundle, asked, and ended in time.

A site has one that answers, and before its first run one that only has torch loaded.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from clients.runtime import setup
from clients.runtime.gate import ApprovedRun
from fedlite.data import cache_folder
from fedlite.deployment import bundle as bundles
from fedlite.deployment.worker import Task
from fedlite.guard.policy import SitePolicy

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


class Workers:
    """The workers of the site whose folder is `home`."""

    def __init__(self, home: Path, policy: SitePolicy) -> None:
        """Start one, which loads torch while nobody waits."""
        self._home = home
        self._worker: Worker | None = None
        self._spare: Worker | None = self._start(policy)
        self._stamp = _stamp(home, policy)

    def get(self, approved: ApprovedRun, run: int, node: int) -> Worker:
        """Return the worker of this bundle and run; changed policy or data mean a fresh one.

        run, node: Flower's numbers of the run and of this site. Raises WorkerFailed, and ValueError
        or OSError when the bundle cannot be unpacked.
        """
        for name in ("ledgers", "state"):
            (self._home / name).mkdir(exist_ok=True, mode=0o700)
        task = _task(self._home, approved, run, node)
        stamp = _stamp(self._home, approved.policy)
        worker = self._worker
        if worker is not None and worker.alive and worker.task == task and stamp == self._stamp:
            return worker
        if worker is not None:
            worker.close()
        self._worker = None
        bundles.unpack(approved.bundle, Path(task.folder))
        worker = self._spare if self._spare is not None and self._spare.alive else None
        if worker is None or stamp != self._stamp:
            if worker is not None:
                worker.close()
            worker = self._start(approved.policy)
        self._spare, self._stamp = None, stamp
        worker.assign(task)
        self._worker = worker
        return worker

    def close(self) -> None:
        """End them, at once."""
        for worker in (self._worker, self._spare):
            if worker is not None:
                worker.close()

    def _start(self, policy: SitePolicy) -> Worker:
        return Worker(self._home / "logs" / "worker.log", gpu=policy.limits.device != "cpu")


def _stamp(home: Path, policy: SitePolicy) -> list[tuple[int, int] | None]:
    """Return what tells whether policy and data are the files that they were.

    A worker may read those that were there when it was shut in, not ones put in their place.
    """
    found: list[tuple[int, int] | None] = []
    for path in (home / setup.POLICY, *(data.file(home) for data in policy.data if data.path)):
        try:
            seen = path.stat()
            found.append((seen.st_ino, seen.st_mtime_ns))
        except OSError:
            found.append(None)  # not there, or not to be read; the worker says so itself
    return found


def _task(home: Path, approved: ApprovedRun, run: int, node: int) -> Task:
    limits = approved.policy.limits
    # The site's own files, without the node key: what runs may act for the site, not be it.
    read = [
        *(home / name for name in (setup.POLICY, setup.LEDGER, setup.SECRET)),
        cache_folder(),
        *(data.file(home) for data in approved.policy.data if data.path),
    ]
    return Task(
        folder=str(home / "bundles" / approved.bundle.sha256),
        app="clients.app:app",
        run_id=run,
        node_id=node,
        node_config={"home": str(home), "threads": limits.threads},
        run_config=approved.config,
        read=[str(path.absolute()) for path in read],
        write=[str(home / "ledgers"), str(home / "state")],
        threads=limits.threads,
        sandbox=limits.sandbox,
    )


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
