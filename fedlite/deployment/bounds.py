"""Bounds of a worker process that it sets before approved code runs, and can never lift again.

They hold because the allow list of system calls (`fedlite.deployment.seccomp`) has no way to change
them; without the sandbox approved code may lift those that are soft.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal

_PDEATHSIG = 1
# The largest file that a worker may write; what a site keeps of a model of a billion parameters is
# a few times 4 GB.
FILE_BYTES = 16 * 2**30
OPEN_FILES = 1024


def bound_process() -> None:
    """Bound files that are written (FILE_BYTES each) and open (OPEN_FILES); leave no core dump.

    A dump would hold records. Memory is not bounded here: torch and a GPU's driver reserve far more
    addresses than they use. A bound that is lower already stays.
    """
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def die_with(parent: int) -> None:
    """Let the kernel end this process, by SIGKILL, when the process `parent` ends, however.

    To be called before anything else by a process that `parent` has started; raises
    ProcessLookupError where that has ended meanwhile. Linux means the *thread* that started it:
    start a worker from one that lives as long as the worker may.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "die_with: the kernel does not watch the parent")
    # From here on its death is seen; before, it could only be seen by who came in its place.
    if os.getppid() != parent:
        raise ProcessLookupError(f"die_with: the parent must be process {parent}; it has ended")
