"""Whether a worker may begin as a copy of this process, which shares what has been read already.

A copied process has one thread, the one that copied it. A lock that another thread held is held in
the copy for ever, and so are the threads of a numerical library gone; so a copy is made of a
process with a single thread alone, counted by the kernel, which sees those of libraries, too.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from functools import cache
from pathlib import Path

import torch

_THREADS = Path("/proc/self/task")


def possible() -> bool:
    """Say whether this process may be copied: on Linux, with one thread, on a machine without GPU.

    Elsewhere a system's own libraries may have threads that nobody counts. A driver that has been
    asked whether there is a GPU does not work in a copy.
    """
    if sys.platform != "linux" or torch.cuda.is_available():
        return False
    try:
        return len(os.listdir(_THREADS)) == 1
    except OSError:
        return False


def settle() -> None:
    """Make what is there stay as it is, until `gc.unfreeze`, for copies that are made of it.

    A collection writes to every object that it looks at, and what is written to is shared no more.
    """
    gc.collect()
    gc.freeze()
    give_back()


def give_back() -> None:
    """Give memory that was freed back to the system, which glibc keeps for later; others do so."""
    if (trim := getattr(_library(), "malloc_trim", None)) is not None:
        trim(0)


@cache
def _library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
