"""Worker processes from outside: started early, given one bundle, asked, and ended in time.

A site has one that answers, and before its first run one that only has torch loaded. Approved code
runs while it is asked, and watched, and is stopped at all other times: also while the site writes
to its ledger, so that nothing fills the disk meanwhile.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from clients.runtime import closed, setup
from clients.runtime.gate import ApprovedRun
from clients.runtime.quota import Quota
from fedlite.data import cache_folder
from fedlite.deployment import bundle as bundles, sandbox
from fedlite.deployment.descendants import adopt, end_all
from fedlite.deployment.worklog import WorkLog
from fedlite.guard import remote
from fedlite.guard.code import installation
from fedlite.guard.pipe import Pipe, TooLong
from fedlite.guard.policy import DataSet, Limits, SitePolicy
from fedlite.guard.worker import Task
from fedlite.messages import Code
from fedlite.storage import stamp

log = logging.getLogger("fedlite.site")

_START_SECONDS = 180.0
_STOP_SECONDS = 5.0
_LONGEST_WORD = 8192
# What a message adds to the blob that it carries.
_ENVELOPE = 65_536
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
# How it says that it declines.
_CODES = {remote.DECLINED + code.value.encode(): code for code in Code}
# The workers of this process, and the right to start or end one: what is neither of them nor
# started by somebody else was left by a worker, and is ended.
_LIVE: set[int] = set()
_FAMILY = threading.Lock()


class WorkerFailed(RuntimeError):
    """The worker died, did not answer in time, or could not load the bundle."""


class AnswerTooLong(WorkerFailed):
    """It answered more than may leave."""


class Worker:
    """One worker process; `output` gets what it prints."""

    def __init__(self, output: WorkLog, *, gpu: bool) -> None:
        """Start it; it loads torch while nobody waits. It ends with the thread that starts it.

        Raises WorkerFailed when it does not start, or runs another fedlite than this process:
        what protects a site would then be of two releases.
        """
        self._log = output.path
        self.task: Task | None = None
        self._pipe, there = Pipe.pair()
        numbers = [str(there.fileno()), str(os.getpid())]
        with _FAMILY, output.pipe() as descriptor:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedlite.guard.worker", *numbers],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=subprocess.STDOUT,
                env=_environment(gpu),
                cwd="/",
                # Its own session: a signal to the runtime's terminal is not one to the worker.
                start_new_session=True,
            )
            _LIVE.add(self._process.pid)
        there.close()
        self._ready = False
        self._check_installation()

    def assign(self, task: Task, limits: Limits) -> None:
        """Give it its bundle; raises WorkerFailed when that cannot be loaded within `limits`."""
        if not self._ready:
            self._expect(b"ready", "did not start")
            self._ready = True
        self.task = task
        with self._watched(task, limits):
            try:
                self._pipe.send(task.encode(), _START_SECONDS)
            except OSError as error:
                raise self._failed(f"could not be told its task ({error})") from None
            self._expect(b"loaded", "could not load the approved bundle")

    def ask(
        self,
        message: bytes,
        limits: Limits,
        reserve: Callable[[], Code | None],
    ) -> bytes | Code:
        """Return its answer to a message, within what `limits` say of time, bytes and disk.

        reserve: called when it is about to train, which it may ask once; None lets it, a code does
        not. It is stopped meanwhile, and when this returns. Raises WorkerFailed when it dies, takes
        longer, answers or keeps more, or asks again; it is ended then.
        """
        if self.task is None:
            raise self._failed("has no bundle")
        with self._watched(self.task, limits):
            return self._answer(message, limits.seconds, limits.up + _ENVELOPE, reserve)

    def _answer(
        self, message: bytes, seconds: float, limit: int, reserve: Callable[[], Code | None]
    ) -> bytes | Code:
        until, asked = time.monotonic() + seconds, False
        try:
            self._pipe.send(remote.MESSAGE + message, seconds)
            while True:
                frame = self._pipe.receive(limit + 1, until - time.monotonic())
                if frame[:1] == remote.ANSWER:
                    return frame[1:]
                if (code := _CODES.get(frame)) is not None:
                    return code
                if frame != remote.RESERVE or asked:
                    raise self._failed("asked for what it may not")
                self._stop()
                asked, code = True, reserve()
                self._continue()
                told = remote.GRANTED if code is None else remote.DECLINED + code.value.encode()
                self._pipe.send(told, until - time.monotonic())
        except TimeoutError:
            raise self._failed("took longer than limits.seconds") from None
        except TooLong as error:
            raise AnswerTooLong(self._failed(f"answered too much: {error}")) from None
        except (OSError, EOFError):
            raise self._failed("died") from None
        except BaseException:
            # Whatever it is that went wrong here, its next answer would not be to the next message.
            self.close()
            raise

    @contextmanager
    def _watched(self, task: Task, limits: Limits) -> Iterator[None]:
        """Let it run for as long as this lasts, and keep no more on the disk than `limits` say."""
        quota = Quota(Path(task.write[0]), limits.state, self._process)
        try:
            with quota:
                self._continue()
                yield
                self._stop()
        except WorkerFailed:
            if not quota.exceeded:
                raise
        if quota.exceeded:
            failed = self._failed(quota.exceeded)
            quota.clear()
            raise failed

    def _continue(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def _stop(self) -> None:
        """Stop it where it is, all threads of it; raises WorkerFailed when it does not stop."""
        self._process.send_signal(signal.SIGSTOP)
        until = time.monotonic() + _STOP_SECONDS
        how = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
        try:
            while os.waitid(os.P_PID, self._process.pid, how) is None:
                if time.monotonic() > until:
                    raise self._failed("did not stop")
                time.sleep(0.0005)
        except ChildProcessError:
            return  # it has ended, and somebody has seen it

    def close(self) -> None:
        """End it, at once, and whatever it has left; a second call does nothing."""
        self._pipe.close()
        pid = self._process.pid
        with _FAMILY:
            if pid not in _LIVE:
                return
            _LIVE.remove(pid)
            if not end_all(pid, keep=_LIVE):
                log.error("a worker has left processes that could not be ended")
        self._process.wait()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def _check_installation(self) -> None:
        try:
            said = self._pipe.receive(_LONGEST_WORD, _START_SECONDS).decode(errors="replace")
        except (OSError, EOFError, TooLong):
            raise self._failed("did not start") from None
        if said != installation():
            raise self._failed(
                f"runs another fedlite ({said}) than the site ({installation()}): take away "
                "PYTHONPATH, start from another folder, or install only one, and start again"
            )

    def _expect(self, word: bytes, problem: str) -> None:
        try:
            answer = self._pipe.receive(len(word), _START_SECONDS)
        except (OSError, EOFError, TooLong):
            answer = b""
        if answer != word:
            raise self._failed(problem)

    def _failed(self, problem: str) -> WorkerFailed:
        """End it, and return what to raise."""
        self.close()
        return WorkerFailed(f"a worker {problem}; it was ended; see {self._log}")


class Workers:
    """The workers of the site whose folder is `home`; what they write is in `seat`."""

    def __init__(self, home: Path, seat: Path, policy: SitePolicy) -> None:
        """Start one, which loads torch while nobody waits.

        Raises OSError, with the mend, where this machine cannot shut it in, or where the place of
        the site's folder opens that, and WorkerFailed.
        """
        why = sandbox.problem() or closed.problem(home, policy.data)
        if why and policy.limits.sandbox:
            raise OSError(why)
        self._home, self._seat = home, seat
        adopt()
        self._log = WorkLog(seat / "logs" / "worker.log")
        self._worker: Worker | None = None
        self._spare: Worker | None = self._start(policy)
        self._stamp = _stamp(home, policy)

    def get(self, approved: ApprovedRun, chosen: DataSet, run: int, node: int) -> Worker:
        """Return the worker of this bundle and run; changed policy or data mean a fresh one.

        chosen: the data set that the run trains on, and the only one that it sees. run, node:
        Flower's numbers of the run and of this site. Raises WorkerFailed, and ValueError or OSError
        when the bundle cannot be unpacked.
        """
        task = _task(self._home, self._seat, approved, chosen, run, node)
        files = _stamp(self._home, approved.policy)
        worker = self._worker
        here = all(Path(path).is_dir() for path in task.write)
        same = worker is not None and worker.task == task and files == self._stamp
        if worker is not None and worker.alive and same and here:
            return worker
        if worker is not None:
            worker.close()
        self._worker = None
        bundles.unpack(approved.bundle, Path(task.folder))
        for path in task.write:
            Path(path).mkdir(parents=True, exist_ok=True, mode=0o700)
        worker = self._spare if self._spare is not None and self._spare.alive else None
        if worker is None or files != self._stamp:
            if worker is not None:
                worker.close()
            worker = self._start(approved.policy)
        self._spare, self._stamp = None, files
        worker.assign(task, approved.policy.limits)
        self._worker = worker
        return worker

    def stale(self, policy: SitePolicy) -> bool:
        """Return whether a file of records is another than the worker was started with."""
        return _stamp(self._home, policy)[1:] != self._stamp[1:]

    def close(self) -> None:
        """End them, at once."""
        for worker in (self._worker, self._spare):
            if worker is not None:
                worker.close()
        self._log.close()

    def _start(self, policy: SitePolicy) -> Worker:
        return Worker(self._log, gpu=policy.limits.device != "cpu")


def _stamp(home: Path, policy: SitePolicy) -> list[tuple[int, int, int] | None]:
    """Return what tells whether policy and data are the files that they were.

    A worker may read those that were there when it was shut in, not ones put in their place.
    """
    own = (data.file(home) for data in policy.data if data.path)
    return [stamp(path) for path in (home / setup.POLICY, *own)]


def _task(
    home: Path, seat: Path, approved: ApprovedRun, chosen: DataSet, run: int, node: int
) -> Task:
    """Return what a worker is told: its run's own folder and data set, and no other's; no key."""
    limits, own = approved.policy.limits, chosen.file(home).absolute() if chosen.path else None
    folder = seat / "state" / str(approved.config["run.id"])
    others = [
        data
        for data in approved.policy.data
        if data.path and (own is None or data.file(home).resolve() != own.resolve())
    ]
    return Task(
        folder=str(home / "bundles" / approved.bundle.sha256),
        app="clients.app:app",
        run_id=run,
        node_id=node,
        node_config={
            "site": approved.policy.site,
            "data": json.dumps(asdict(replace(chosen, path=str(own or "")))),
            "folder": str(folder),
            "threads": limits.threads,
        },
        run_config=approved.config,
        read=[str(path) for path in (cache_folder().absolute(), own) if path],
        write=[str(folder)],
        closed=[str(path) for path in closed.closed(home, others)],
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
