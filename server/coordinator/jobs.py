"""The runs that were submitted, one file each, and what keeps them going.

Flower ends a run with the process that ran it, and has no resume. So a run that is over without a
result or a reason was interrupted: the same bundle is started again under the same `run.id`, and
goes on from its checkpoint. That holds for a crash of the run, of the SuperLink and of the machine.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from fedlite.reporting.record import FAILURE, ROUNDS, SUMMARY
from fedlite.settings import Value
from fedlite.storage import write_atomic
from server.coordinator.folder import Coordinator

log = logging.getLogger("fedlite.coordinator")

RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"
MAX_RESTARTS = 3
# In the journal: a run that Flower had and nobody has submitted here.
UNKNOWN_RUN = "unknown-run"
# A run is started again only with so much room, and twice its checkpoint, on the disk.
_ROOM_BYTES = 16 << 20


class Runs(Protocol):
    """What is needed of Flower's Control API (`server.coordinator.control.Control`)."""

    def start_run(self, fab: bytes, run_config: Mapping[str, Value], /) -> int:
        """Start a bundle; return Flower's number of the run."""

    def runs(self) -> dict[int, str]:
        """Return the status of every run."""

    def stop_run(self, run_id: int, /) -> None:
        """End a run."""


@dataclass(frozen=True)
class Job:
    """One submitted run.

    run_id: fedlite's, 16 hex digits, kept over restarts. bundle, directory: relative to the
    coordinator's folder, which may move. flower_run: Flower's number, None before it is started.
    wait: seconds for which its first round waits for all sites, 0 for a round's deadline.
    restarts: how often it was started again without a new round; rounds_at_restart: how many
    rounds it had then.
    """

    name: str
    run_id: str
    bundle: str
    directory: str
    flower_run: int | None = None
    state: str = RUNNING
    reason: str = ""
    restarts: int = 0
    rounds_at_restart: int = 0
    wait: float = 0.0


def load(coordinator: Coordinator, name: str) -> Job:
    """Return a run by name; raises ValueError when there is none, or its file is damaged."""
    path = coordinator.jobs / f"{name}.json"
    try:
        if Path(name).name != name:
            raise FileNotFoundError
        return Job(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in coordinator.jobs.glob("*.json"))) or "none yet"
        raise ValueError(f"run: there is none called {name!r}; those here: {known}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: must be a run's file ({error}); restore it from a copy"
        ) from None


def load_all(coordinator: Coordinator) -> list[Job]:
    """Return every run whose file can be read, the last that changed first."""
    paths = sorted(coordinator.jobs.glob("*.json"), key=lambda p: (-_born(p), p.name))
    found = []
    for path in paths:
        try:
            found.append(load(coordinator, path.stem))
        except ValueError as error:
            log.error("%s", error)
    return found


def save(coordinator: Coordinator, job: Job) -> None:
    """Write a run's file; call it under `locked`."""
    data = json.dumps(asdict(job), indent=2, sort_keys=True).encode()
    write_atomic(coordinator.jobs / f"{job.name}.json", data + b"\n")


@contextmanager
def locked(coordinator: Coordinator) -> Iterator[None]:
    """Let one process at a time change the runs' files; the lock ends with the process."""
    handle = os.open(coordinator.jobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def stop(coordinator: Coordinator, name: str, control: Runs | None) -> Job:
    """End a run for good, whether or not the coordinator runs (`control` None).

    Raises ValueError when it is over already.
    """
    with locked(coordinator):
        job = load(coordinator, name)
        if job.state != RUNNING:
            raise ValueError(f"run {name}: must be running to be stopped, but it is {job.state}")
        job = replace(job, state=STOPPED, reason="stopped by the operator")
        save(coordinator, job)
        coordinator.journal.write("run-end", run=name, state=job.state, reason=job.reason)
        if control is not None and job.flower_run is not None:
            control.stop_run(job.flower_run)
    return job


def resume(coordinator: Coordinator, name: str, wait: float | None = None) -> Job:
    """Let a run that has failed or was stopped go on from its last checkpoint.

    wait: seconds for which its first round waits for all sites from now on; None: as it was
    submitted. Raises ValueError when it is running or finished.
    """
    with locked(coordinator):
        job = load(coordinator, name)
        if job.state not in (FAILED, STOPPED):
            raise ValueError(
                f"run {name}: must have failed or been stopped to be resumed, but it is {job.state}"
            )
        if not (coordinator.path / job.bundle).is_file():
            raise ValueError(
                f"run {name}: its bundle and its checkpoint were cleaned away; submit the scenario "
                "anew"
            )
        (coordinator.path / job.directory / FAILURE).unlink(missing_ok=True)
        waits = job.wait if wait is None else wait
        job = replace(job, state=RUNNING, reason="", flower_run=None, restarts=0, wait=waits)
        save(coordinator, job)
        coordinator.journal.write("resume", run=name, why="asked for by the operator")
    return job


def rounds(coordinator: Coordinator, job: Job) -> int:
    """Return how many rounds are in a run's record."""
    try:
        return (coordinator.path / job.directory / ROUNDS).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


class Keeper:
    """Starts what was submitted, notes what is over, and starts again what was interrupted."""

    def __init__(self, coordinator: Coordinator, control: Runs) -> None:
        """Take over the runs; whatever an earlier SuperLink ran, has ended with it."""
        self._coordinator, self._control = coordinator, control
        # How many SuperLinks there have been, and how many of them `tick` knows of.
        self._started, self._known = 1, 0
        self._waiting: set[str] = set()
        # Flower's numbers of all runs that were looked at, whosever they are.
        self._seen: set[int] = set()

    def superlink_died(self) -> None:
        """Say that the SuperLink had to be started again: the processes of its runs are gone."""
        self._started += 1

    def tick(self) -> None:
        """Look once at every run; raises ConnectionError when the SuperLink does not answer."""
        started = self._started
        status = self._control.runs()
        found = load_all(self._coordinator)
        self._strangers(status, {job.flower_run for job in found})
        if started != self._known:
            self._forget(status)
        for name in [job.name for job in found if job.state == RUNNING]:
            with locked(self._coordinator):
                self._look(load(self._coordinator, name), status, fresh=started != self._known)
        self._known = started

    def _strangers(self, status: Mapping[int, str], ours: set[int | None]) -> None:
        """End the runs that nobody has submitted here, and write each down once.

        What was over before the coordinator started may be a run of its own that was begun again.
        """
        for number, text in status.items():
            if number in ours or number in self._seen or (not self._known and _over(text)):
                continue
            log.error("run %d of Flower was not submitted here; it is ended", number)
            self._coordinator.journal.write(UNKNOWN_RUN, flower_run=number, status=text)
            if not _over(text):
                self._control.stop_run(number)
        self._seen |= status.keys()

    def _forget(self, status: Mapping[int, str]) -> None:
        """End what Flower still takes for running: a run may never go on twice at a time."""
        for number, text in status.items():
            if not _over(text):
                try:
                    self._control.stop_run(number)
                except RuntimeError as error:
                    log.warning("%s", error)

    def _look(self, job: Job, status: Mapping[int, str], *, fresh: bool) -> None:
        if job.state != RUNNING:
            return
        if job.flower_run is None:
            if self._room(job):
                self._start(job)
            return
        if not fresh and not _over(status.get(job.flower_run, "finished")):
            return
        directory = self._coordinator.path / job.directory
        if (directory / SUMMARY).is_file():
            self._end(job, FINISHED, "")
        elif (directory / FAILURE).is_file():
            self._end(job, FAILED, _reason(directory / FAILURE))
        elif self._room(job):
            self._again(job)

    def _room(self, job: Job) -> bool:
        """Whether the disk has room for the run; one without it would crash again, and waits."""
        folder = self._coordinator.path / job.directory
        kept = sum(path.stat().st_size for path in (folder / "checkpoint").glob("*.safetensors"))
        places = [self._coordinator.path, folder if folder.is_dir() else folder.parent]
        free = min(shutil.disk_usage(place).free for place in places if place.is_dir())
        needed = _ROOM_BYTES + 2 * kept
        if free < needed and job.name not in self._waiting:
            log.error(
                "run %s waits for room on the disk: %d bytes are free, %d are needed; free some",
                job.name,
                free,
                needed,
            )
        (self._waiting.add if free < needed else self._waiting.discard)(job.name)
        return free >= needed

    def _again(self, job: Job) -> None:
        done = rounds(self._coordinator, job)
        restarts = 0 if done > job.rounds_at_restart else job.restarts
        # A reboot, or a coordinator that was stopped, is not the run's fault.
        if self._known:
            if restarts >= MAX_RESTARTS:
                why = (
                    f"crashed {restarts + 1} times without a new round; see "
                    f"{self._coordinator.logs}, then resume it with fedlite server submit --resume "
                    f"{job.name}"
                )
                self._end(job, FAILED, why)
                return
            restarts += 1
        self._coordinator.journal.write("resume", run=job.name, rounds=done, restarts=restarts)
        self._start(replace(job, restarts=restarts, rounds_at_restart=done))

    def _start(self, job: Job) -> None:
        folder = self._coordinator.path
        try:
            content = (folder / job.bundle).read_bytes()
        except OSError as error:
            self._end(job, FAILED, f"{folder / job.bundle}: cannot be read ({error.strerror})")
            return
        beside: dict[str, Value] = {
            "run.id": job.run_id,
            "run.directory": str(folder / job.directory),
            "run.wait": job.wait,
        }
        try:
            number = self._control.start_run(content, beside)
        except RuntimeError as error:
            if job.restarts >= MAX_RESTARTS:
                self._end(job, FAILED, str(error))
            else:
                save(self._coordinator, replace(job, flower_run=None, restarts=job.restarts + 1))
            return
        self._seen.add(number)
        try:
            save(self._coordinator, replace(job, flower_run=number))
        except OSError:
            # Nobody would know of it, and the next look would start the run a second time.
            self._control.stop_run(number)
            raise

    def _end(self, job: Job, state: str, reason: str) -> None:
        save(self._coordinator, replace(job, state=state, reason=reason))
        self._coordinator.journal.write("run-end", run=job.name, state=state, reason=reason[:500])


def _over(status: str) -> bool:
    return status.startswith("finished")


def _reason(path: Path) -> str:
    try:
        return str(json.loads(path.read_bytes())["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path}: cannot be read"


def _born(path: Path) -> float:
    # Written again at every change, so the time in the file system is that of the last one.
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
