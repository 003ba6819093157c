"""What a site may throw away: states of runs that are over, bundles, old logs.

Never a ledger, a key, the journal or the policy: only the four folders named below are looked at.
A site may run meanwhile.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from clients.runtime import lock, masking, seats, setup
from clients.runtime.status import current
from fedlite.deployment.journal import Journal
from fedlite.deployment.retention import (
    KEEP_DAYS,
    InUse,
    Leftover,
    check_days,
    days,
    leftover,
    remove,
)
from fedlite.guard import policy as site_policy

# Where runs leave things behind: bundles below the site's folder, the others below each seat.
STATE, BUNDLES, WAITING, LOGS = "state", "bundles", "bundles/waiting", "logs"
SUMS = masking.FOLDER


def clean(
    home: Path, keep_days: int = KEEP_DAYS, *, dry_run: bool = False
) -> tuple[list[Leftover], list[str]]:
    """Remove what nothing needs any more; return it, and a line for each that could not be.

    keep_days: whole days for which nothing was written there. With dry_run nothing is changed.
    Raises ValueError when the number is too small or the policy cannot be read: nobody then knows
    what is approved.
    """
    check_days(keep_days)
    found = list(leftovers(home, keep_days))
    if dry_run or not found:
        return found, []
    removed, kept = remove(found)
    if removed:
        Journal(home / "audit").write(
            "clean",
            keep_days=keep_days,
            removed=len(removed),
            bytes=sum(one.bytes for one in removed),
            what=" ".join(str(one.path.relative_to(home)) for one in removed)[:2000],
        )
    return removed, kept


def leftovers(home: Path, keep_days: int) -> Iterator[Leftover]:
    """Yield what may go; nothing is changed."""
    approved = {one.sha256 for one in site_policy.load(home / setup.POLICY).bundles}
    for seat in seats.folders(home):
        yield from _states(seat, keep_days)
        for path in sorted((seat / LOGS).glob("*")):
            if path.suffix != ".log" and (old := days(path)) >= keep_days:
                yield leftover(path, f"a log that was put aside {old} days ago")
    for path in sorted((home / BUNDLES).iterdir() if (home / BUNDLES).is_dir() else ()):
        old = days(path)
        if path == home / WAITING or not path.is_dir():
            continue
        if path.name.startswith("."):
            if old >= 1:  # unpacking takes seconds
                yield leftover(path, "was never unpacked to its end")
        elif path.name not in approved:
            yield leftover(path, "is not approved any more")
        elif old >= keep_days:
            why = f"was unpacked {old} days ago; it is again when its run asks"
            yield leftover(path, why, partial(_stopped, home))
    for path in sorted((home / WAITING).glob("*.fab")):
        if (old := days(path)) >= keep_days:
            yield leftover(path, f"has waited for {old} days; a run that goes on sends it again")


def _states(seat: Path, keep_days: int) -> Iterator[Leftover]:
    now = current(seat)
    for path in sorted((seat / SUMS).rglob("*.json")):
        if (old := days(path)) >= keep_days and path.stem != now:
            yield leftover(path, f"keys of a run that has not asked for {old} days")
    for path in sorted(entry for entry in (seat / STATE).glob("*") if entry.is_dir()):
        old = days(path)
        if old >= keep_days and path.name != now:
            why = f"the run has not asked for {old} days"
            yield leftover(path, why, partial(_idle, path, keep_days))


@contextmanager
def _idle(state: Path, keep_days: int) -> Iterator[None]:
    """Hold the state of a run as its worker would; raises InUse where one has come meanwhile."""
    with ExitStack() as stack:
        if (state / "state.lock").exists():
            file = stack.enter_context((state / "state.lock").open("r+b"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InUse("a worker uses it now") from None
        if 0 <= days(state) < keep_days:
            raise InUse("its run has asked meanwhile")
        yield


@contextmanager
def _stopped(home: Path) -> Iterator[None]:
    """Hold the site's folders: a worker reads its bundle for as long as it lives."""
    with ExitStack() as stack:
        try:
            for seat in seats.folders(home):
                stack.enter_context(lock.hold(seat))
        except lock.Held:
            raise InUse("the site runs, and may use it; clean it while it is stopped") from None
        yield
