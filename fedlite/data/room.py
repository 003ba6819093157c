"""Whether there is room for what is about to come: on the disk, and in memory."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Raise ValueError, naming both numbers, where the disk of `folder` has less than `needed`.

    needed: bytes. what: that will be written, for people. `folder` need not be there yet.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise ValueError(
            f"{folder}: must have {_size(needed)} free for {what} (rule: nothing is begun that "
            f"does not fit), has {_size(free)}; free {_size(needed - free)}, or set FEDLITE_CACHE "
            "to a folder on a larger disk"
        )


def check_memory(needed: int, what: str) -> None:
    """Raise ValueError, naming both numbers, where less memory than `needed` bytes is available.

    what: that will be held, for people.
    """
    free = available_memory()
    if free < needed:
        raise ValueError(
            f"{what}: must fit into the memory that is available (rule: nothing is begun that does "
            f"not fit), takes {_size(needed)} as float32, and there are {_size(free)}; end other "
            "programs, or take a smaller base"
        )


def available_memory() -> int:
    """Return the bytes of memory that programs can still have; all there is where nobody says."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMINFO.read_text("ascii"), re.MULTILINE)
    except OSError:  # approved code cannot read it
        found = None
    if found is not None:
        return int(found[1]) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"
