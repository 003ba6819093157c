"""What of a site must stay closed to approved code, and whether its place opens it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from clients.runtime import seats
from fedlite.data import cache_folder
from fedlite.deployment.readable import opened_by, python_paths
from fedlite.guard.policy import DataSet


def closed(home: Path, data: Iterable[DataSet] = ()) -> list[Path]:
    """Return the site's folder, what lies in it, and the files of its data sets.

    By their names and not only by the folder's: each may be a link to elsewhere.
    """
    own = [home, *(home / "keys" / name for name in ("", "node.pem", "ledger.pem", "data.secret"))]
    further = [seat / "keys" / "node.pem" for seat in seats.every(home) if seat != home]
    return [*own, *further, home / "ledgers", *(one.file(home) for one in data if one.path)]


def problem(home: Path, data: Iterable[DataSet] = ()) -> str:
    """Return why approved code could read what is the site's own, with the mend; "" if it cannot.

    The interpreter, its packages, the system's libraries and the cache of public data have to be
    readable. So nothing of the site may be among them, and they may not be in its folder.
    """
    home, python = home.absolute(), python_paths()
    found = opened_by(closed(home, data), [*python, cache_folder().absolute()])
    if found is not None:
        path, opening = found
        return (
            f"{path}: must lie outside of what approved code can read, and {opening} is readable, "
            "as Python and its packages need it; move it, for example below /srv or into a folder "
            "of its own in your home directory"
        )
    if inside := opened_by(python, [home]):
        return (
            f"{home}: must hold nothing that Python needs, and {inside[0]} lies in it; make the "
            "site in a folder of its own"
        )
    for path in closed(home):
        if path.is_file() and path.stat().st_nlink > 1:
            return (
                f"{path}: must have one name, and has {path.stat().st_nlink} (hard links), under "
                "another of which approved code might read it; remove the others, or replace the "
                "file by a copy"
            )
    return ""
