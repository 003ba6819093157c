"""Whether a data set is what its operator says, before a site is made of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from fedlite import data
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
    entry = data.find(chosen.source)
    if entry.own:
        if not Path(chosen.path).expanduser().exists():
            yield (
                f"--path: {chosen.path} is not there yet, so neither label column nor part was "
                "checked; put it there, then run `fedlite site doctor`"
            )
            return
        if entry.table and not chosen.target:
            yield (
                "--target: no label column is named, so that only texts without one are learnt "
                "here (the task causal-lm); name it for all else"
            )
        known = survey(chosen, chosen.path, lenient=True)[2]
    elif not chosen.part:
        return
    elif not data.available(chosen.source):
        yield (
            f"--part: {chosen.source} is not here yet, so the part was not checked; get it with "
            f"`fedlite data fetch {chosen.source}`, then run `fedlite site doctor`"
        )
        return
    elif entry.survey is not None:
        known = entry.survey("", "")[2]
    else:
        known = data.load(chosen.source).group_names
    if not may_be(chosen.part, known):
        rule = f"must be one of {', '.join(known)}" if known else "must be left out, as it has none"
        raise ValueError(f"--part: {rule}, got {chosen.part!r}")


def source_of(path: str) -> str:
    """Return which source of one's own reads a file or folder, by its name and what it holds.

    >>> source_of("a/patients.csv"), source_of("b/scans.parquet"), source_of("notes")
    ('csv', 'parquet', 'csv')
    """
    place = Path(path).expanduser()
    if place.is_dir():
        saved = any((place / name).exists() for name in ("state.json", "dataset_dict.json"))
        return "hf" if saved else "images"
    suffix = place.suffix.lower().removeprefix(".")
    return suffix if suffix in ("parquet", "jsonl", "npz") else "csv"


def survey(
    chosen: DataSet, path: str, *, lenient: bool = False
) -> tuple[int, int, tuple[str, ...]]:
    """Return how many records of one's own there are at `path`, of how many classes, and whose.

    Raises ValueError where they cannot be read; lenient: what does not fit is passed over.
    """
    entry = data.find(chosen.source)
    if entry.survey is not None:
        return entry.survey(path, chosen.target, lenient=lenient)
    given = {"path": path, "target": chosen.target}
    source = entry.load(**{key: value for key, value in given.items() if key in entry.takes})
    return len(source.train), source.classes, source.group_names


def may_be(part: str, known: tuple[str, ...]) -> bool:
    """Return whether a part is one of those `known`, all of it, or a share that a scenario makes.

    >>> may_be("north", ("north",)), may_be("", ()), may_be("site-01", ()), may_be("nroth", ())
    (True, True, True, False)
    """
    return not part or part in known or _SHARE.fullmatch(part) is not None
