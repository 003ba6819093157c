"""Whether a data set is what its operator says, before a site is made of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from fedlite import data
from fedlite.data.sources import table
from fedlite.guard.policy import DataSet
from fedlite.settings import did_you_mean

# What a scenario calls the shares that it makes of a source by lot.
_SHARE = re.compile(r"site-[0-9]{2,}")


def check(chosen: DataSet) -> Iterator[str]:
    """Yield what cannot be checked yet, a line each.

    Raises ValueError when there is no such source, label column or part; the text names the parts
    there are.
    """
    sources = [entry.name for entry in data.entries()]
    if chosen.source not in sources:
        raise ValueError(
            f"--data: must be one of {', '.join(sources)}, or --path must name your own file, got "
            f"{chosen.source!r}{did_you_mean(chosen.source, sources)}"
        )
    if data.find(chosen.source).own:
        if not Path(chosen.path).expanduser().exists():
            yield (
                f"--path: {chosen.path} is not there yet, so neither label column nor part was "
                "checked; put it there, then run `fedlite site doctor`"
            )
            return
        known = table.parts(chosen.path, chosen.target)
    elif not chosen.part:
        return
    elif not data.available(chosen.source):
        yield (
            f"--part: {chosen.source} is not here yet, so the part was not checked; get it with "
            f"`fedlite data fetch {chosen.source}`, then run `fedlite site doctor`"
        )
        return
    else:
        known = data.load(chosen.source).group_names
    if not may_be(chosen.part, known):
        rule = f"must be one of {', '.join(known)}" if known else "must be left out, as it has none"
        raise ValueError(f"--part: {rule}, got {chosen.part!r}")


def may_be(part: str, known: tuple[str, ...]) -> bool:
    """Return whether a part is one of those `known`, all of it, or a share that a scenario makes.

    >>> may_be("north", ("north",)), may_be("", ()), may_be("site-01", ()), may_be("nroth", ())
    (True, True, True, False)
    """
    return not part or part in known or _SHARE.fullmatch(part) is not None
