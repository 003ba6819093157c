"""Processes of this machine, as /proc tells: found by what they are, and ended."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

log = logging.getLogger("fedlite.coordinator")

TERM_SECONDS = 10.0


def others() -> list[int]:
    """Return the numbers of all living processes but this one."""
    found = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [pid for pid in found if pid != os.getpid() and alive(pid)]


def read(pid: int, name: str) -> bytes:
    """Return a file of /proc/PID, empty where there is none or it is another user's."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def open_files(pid: int) -> list[str]:
    """Return the paths that a process has open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            found.append(os.readlink(link))
        except OSError:
            continue  # closed meanwhile
    return found


def kill(pids: list[int]) -> None:
    """Kill processes; wait until they are gone, for up to ten seconds."""
    for pid in pids:
        _signal(pid, signal.SIGKILL)
    until = time.monotonic() + TERM_SECONDS
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)


def end(pid: int) -> None:
    """End a process, with time for it to end its children; kill it when that is over."""
    _signal(pid, signal.SIGTERM)
    until = time.monotonic() + 3 * TERM_SECONDS
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    if alive(pid):
        kill([pid])


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        log.debug("process %d has ended already", pid)


def alive(pid: int) -> bool:
    """Tell whether there is such a process; one that nobody has waited for yet is dead."""
    # The name in brackets may hold anything, the fields after it do not.
    fields = read(pid, "stat").rpartition(b")")[2].split()
    return bool(fields) and fields[0] != b"Z"
