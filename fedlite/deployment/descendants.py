"""Ended means ended: nothing that a worker has started outlives it.

In the sandbox a worker cannot start a process at all (`fedlite.deployment.seccomp`). This is the
net below it, for sites that have turned the sandbox off: a process whose parent has ended becomes a
child of the site's process, which finds it there, however often it was forked.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SUBREAPER = 36
_QUICK = 200


@dataclass(frozen=True)
class _Process:
    """A line of the process list. started: ticks since the machine's start."""

    pid: int
    parent: int
    session: int
    started: int
    zombie: bool


def adopt() -> None:
    """Become the parent of every descendant that loses its own; for good, and not inherited."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "adopt: the kernel has no subreapers (Linux 3.4)")


def end_all(pid: int, keep: Collection[int] = (), seconds: float = 5.0) -> bool:
    """End a worker, its descendants, and those that it has left to this process; none is asked.

    pid: a child of this process that was started with a session of its own. keep: its other
    children of that kind, which stay. Whatever else is a child of this process in another session,
    and was started after `pid`, was forked by a worker: nobody can enter another's session. Call
    `adopt` before the first worker is started. Whoever waits for `pid` does so afterwards.

    Returns whether all have ended within `seconds`; they are killed as they are found, until none
    is left, so that forking on does not save them.
    """
    until = time.monotonic() + seconds
    own, known = os.getpid(), _of(pid)
    since = known.started if known and known.parent == own else 0
    while True:
        found = False
        # One that forks and ends, again and again, has gone before a whole list is read.
        for _ in range(_QUICK):
            newest = _of(int(Path("/proc/loadavg").read_bytes().split()[-1]))
            if not (newest and newest.pid != pid and _forked(newest, own, since, keep)):
                break
            found = True
            _kill(newest.pid)
        for one in list(_below(own, pid, since, keep)):
            if one.pid == pid and one.zombie:
                continue
            # One that has ended counts, too: it may have forked since the list was read.
            found = True
            _kill(one.pid)
            if one.zombie and one.parent == own:
                # Nobody else knows this child: its line in the list is ours to remove.
                with suppress(ChildProcessError):
                    os.waitpid(one.pid, os.WNOHANG)
        if not found:
            return True
        if time.monotonic() > until:
            return False


def _below(own: int, pid: int, since: int, keep: Collection[int]) -> Iterator[_Process]:
    """Yield the worker, what descends from it, and the orphans of workers with what is theirs."""
    children: dict[int, list[_Process]] = {}
    for one in _processes():
        children.setdefault(one.parent, []).append(one)
    waiting = [
        one for one in children.get(own, []) if one.pid == pid or _forked(one, own, since, keep)
    ]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += children.get(one.pid, [])


def _forked(one: _Process, own: int, since: int, keep: Collection[int]) -> bool:
    """Return whether a child of this process has come to it from a worker."""
    foreign = one.parent == own and one.session != os.getsid(0)
    return foreign and one.started >= since and one.pid not in keep


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _processes() -> Iterator[_Process]:
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and (one := _of(int(entry))):
            yield one


def _of(pid: int) -> _Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:  # it has ended meanwhile
        return None
    # The name before the bracket may hold anything.
    fields = text.rpartition(b")")[2].split()
    return _Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in b"ZX")
