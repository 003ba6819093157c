"""What approved code may read beside its own files, and whether that opens something else.

The interpreter and its packages have to be read, and where they stand is for whoever installed
them: a site's folder that was made among them would be open to approved code, with its keys.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

# Of /sys what torch and a GPU's driver look at; not the kernel's own affairs.
_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt/cuda", "/proc"),
    *("/sys/devices", "/sys/bus", "/sys/class", "/sys/module", "/sys/fs/cgroup"),
)
# Of /etc only what loaders and clocks read.
_SETTINGS = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "timezone"),
    *("passwd", "group", "nsswitch.conf", "hosts", "ssl/openssl.cnf", "ssl/certs"),
)
# What a package may offer by an entry point (`fedlite.registry`).
_OFFERED = ("models", "strategies", "compressors", "data")
_PACKAGES = ("site-packages", "dist-packages")


def python_paths() -> list[Path]:
    """Return what an interpreter with torch has to read, to be given to `sandbox.restrict`.

    The interpreter's own folders and those of installed packages; of any other folder in
    `sys.path`, such as the checkout of an editable install, only the packages that are imported by
    now and those that offer fedlite a model, a compressor or a data source; the system's libraries.
    """
    own = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, sys.executable]
    prefixes = [Path(path).resolve() for path in own[:4]]
    paths = [Path(path) for path in own]
    for entry in (Path(entry) for entry in sys.path if entry):
        if any(entry.resolve().is_relative_to(prefix) for prefix in prefixes):
            continue
        paths += [entry] if entry.name in _PACKAGES else _imported(entry)
    paths += [Path(path) for path in _SYSTEM] + [Path("/etc") / name for name in _SETTINGS]
    return [path for path in dict.fromkeys(paths) if path.exists()]


def opened_by(closed: Iterable[Path], readable: Iterable[Path]) -> tuple[Path, Path] | None:
    """Return the first of `closed` that is one of `readable` or lies below, and that one.

    None: nothing is opened. Links are followed, and folders that are mounted at two places are the
    same one. What does not exist yet is taken to be made where its name says.
    """
    mounts = _mounts()
    open_places = [(path, place) for path in readable for place in _places(path, mounts)]
    for path in closed:
        for device, where in _places(path, mounts, below=False):
            for opening, (opened, top) in open_places:
                if device == opened and where.is_relative_to(top):
                    return path, opening
    return None


def refuse_open(paths: Iterable[Path]) -> None:
    """Raise PermissionError when one of these files or folders can be opened from here.

    Called once the sandbox is closed: whatever was reckoned before, this is the kernel's answer.
    """
    for path in paths:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            continue
        raise PermissionError(
            f"sandbox: {path} must be closed to approved code, and is open; nothing of the bundle "
            "was run; move it away from what Python reads (`fedlite site doctor` tells what)"
        )


def _imported(entry: Path) -> list[Path]:
    """Return the packages in a folder of `sys.path` that are imported, or offer something."""
    offered = {
        point.module.partition(".")[0]
        for kind in _OFFERED
        for point in entry_points(group=f"fedlite.{kind}")
    }
    found = []
    for name in sorted({name.partition(".")[0] for name in tuple(sys.modules)} | offered):
        try:
            spec = find_spec(name)
        except (ImportError, ValueError):  # `__main__`, and modules that were made by hand
            continue
        places = list(spec.submodule_search_locations or ()) if spec else []
        if spec and not places and spec.origin:
            places = [spec.origin]
        found += [Path(place) for place in places if Path(place).parent == entry]
    return found


# A place: the device, and the path on that device.
_Place = tuple[str, Path]


def _places(
    path: Path, mounts: list[tuple[Path, _Place]], *, below: bool = True
) -> Iterator[_Place]:
    """Yield where a path's files are; `below`: also those that are mounted somewhere below it."""
    real = Path(os.path.realpath(path))
    holding = [(top, place) for top, place in mounts if real.is_relative_to(top)]
    # The longest is the one that is in force, of two at one place the later.
    top, (device, root) = max(holding, key=lambda mount: len(mount[0].parts), default=_NOWHERE)
    yield device, root / real.relative_to(top)
    if below:
        yield from (place for top, place in mounts if top != real and top.is_relative_to(real))


_NOWHERE: tuple[Path, _Place] = (Path("/"), ("", Path("/")))


def _mounts() -> list[tuple[Path, _Place]]:
    """Return every mount point that this process sees, and what is mounted there; last first."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:  # without a list of mounts the names alone count
        return []
    found = []
    for line in reversed(lines):
        _, _, device, root, top, *_ = line.split(" ")
        found.append((Path(_plain(top)), (device, Path(_plain(root)))))
    return found


def _plain(escaped: str) -> str:
    r"""Return a name in which the kernel has written a blank as `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), escaped)
