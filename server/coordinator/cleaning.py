"""What a coordinator may throw away: what runs that are over have left behind, never their record.

What it keeps for ever: `runs/NAME/` but for its checkpoint, `jobs/`, `witness/`, keys, the journal.
A coordinator may run meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from fedlite.deployment.retention import (
    KEEP_DAYS,
    InUse,
    Leftover,
    check_days,
    days,
    leftover,
    remove,
)
from server.coordinator import jobs
from server.coordinator.folder import Coordinator
from server.coordinator.jobs import Job

# Flower unpacks a bundle to publisher.name.version.HASH, the first eight digits of its SHA-256,
# which also end the name of our bundle.
_APP = re.compile(r".*\.([0-9a-f]{8})")
_BUNDLE = re.compile(r".*-([0-9a-f]{8})")


def clean(
    coordinator: Coordinator, keep_days: int = KEEP_DAYS, *, dry_run: bool = False
) -> tuple[list[Leftover], list[str]]:
    """Remove what nothing needs any more; return it, and a line for each that could not be.

    keep_days: whole days since a run was over. With dry_run nothing is changed. A run that failed
    or was stopped before that cannot be resumed afterwards, and says so. Raises ValueError when the
    number is too small, or when a run's file cannot be read: nobody then knows what it needs.
    """
    check_days(keep_days)
    found = list(leftovers(coordinator, keep_days))
    if dry_run or not found:
        return found, []
    removed, kept = remove(found)
    if removed:
        coordinator.journal.write(
            "clean",
            keep_days=keep_days,
            removed=len(removed),
            bytes=sum(one.bytes for one in removed),
            what=" ".join(str(one.path.relative_to(coordinator.path)) for one in removed)[:2000],
        )
    return removed, kept


def leftovers(coordinator: Coordinator, keep_days: int) -> Iterator[Leftover]:
    """Yield what may go; nothing is changed."""
    known = [jobs.load(coordinator, path.stem) for path in coordinator.jobs.glob("*.json")]
    over = {job.name: age for job in known if (age := _over(coordinator, job)) >= keep_days}
    needed = {Path(job.bundle).name for job in known if job.name not in over}
    short = {found[1] for name in needed if (found := _BUNDLE.fullmatch(Path(name).stem))}
    # The bundle before the checkpoint: a run without its bundle cannot be resumed, one without its
    # checkpoint would begin anew.
    for path in sorted(coordinator.bundles.glob("*.fab")):
        if path.name not in needed and days(path) >= keep_days:
            why = f"its run is over, and it was built {days(path)} days ago"
            yield leftover(path, why, partial(_unneeded, coordinator, path))
    for job in sorted(known, key=lambda job: job.name):
        path = coordinator.path / job.directory / "checkpoint"
        if job.name in over and path.is_dir():
            why = f"the run {job.state} {over[job.name]} days ago"
            yield leftover(path, why, partial(_ended, coordinator, job.name))
    for path in sorted((coordinator.flwr_home / "apps").glob("*")):
        named = _APP.fullmatch(path.name)
        if path.is_dir() and not (named and named[1] in short) and days(path) >= keep_days:
            yield leftover(path, f"Flower unpacked it {days(path)} days ago for runs that are over")
    for path in sorted(coordinator.logs.glob("*")):
        if path.suffix not in (".log", ".jsonl") and (old := days(path)) >= keep_days:
            yield leftover(path, f"a log that was put aside {old} days ago")


def _over(coordinator: Coordinator, job: Job) -> int:
    """Return for how many days a run has been over; -1 for one that is not."""
    if job.state == jobs.RUNNING:
        return -1
    return days(coordinator.jobs / f"{job.name}.json")


@contextmanager
def _ended(coordinator: Coordinator, name: str) -> Iterator[None]:
    """Keep a run from being resumed while its checkpoint goes."""
    with jobs.locked(coordinator):
        if jobs.load(coordinator, name).state == jobs.RUNNING:
            raise InUse("its run goes on again")
        yield


@contextmanager
def _unneeded(coordinator: Coordinator, bundle: Path) -> Iterator[None]:
    """Keep every run of a bundle from being resumed while it goes."""
    with jobs.locked(coordinator):
        for job in jobs.load_all(coordinator):
            if job.state == jobs.RUNNING and Path(job.bundle).name == bundle.name:
                raise InUse("its run goes on again")
        yield
