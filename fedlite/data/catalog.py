"""The named data sources: what there is, and how to fetch and load each.

A new source is one module with an `ENTRY`, and one line in `_ENTRIES`.
"""

from __future__ import annotations

from pathlib import Path

from fedlite.data.dataset import Source
from fedlite.data.entry import Entry
from fedlite.data.sources import digits, fashion, heart
from fedlite.data.sources.table import load_csv


def _needs_path() -> Source:
    raise ValueError("path: csv needs the path of your file and its label column `target`")


def _nothing_to_fetch() -> Path:
    raise ValueError("csv: is your own file, so there is nothing to fetch; give its `path`")


_CSV = Entry(
    name="csv",
    what="your own table: numeric columns, a label column, optionally a column `site`",
    records=0,
    licence="yours",
    size=0,
    how="give `path` and `target`",
    load=_needs_path,
    fetch=_nothing_to_fetch,
    available=lambda: True,
)
_ENTRIES = {entry.name: entry for entry in (digits.ENTRY, fashion.ENTRY, heart.ENTRY, _CSV)}


def entries() -> tuple[Entry, ...]:
    """Return the whole catalogue, in its order.

    >>> [entry.name for entry in entries()]
    ['digits', 'fashion-mnist', 'heart-disease', 'csv']
    """
    return tuple(_ENTRIES.values())


def _entry(name: str) -> Entry:
    if name not in _ENTRIES:
        raise ValueError(
            f"data: must be one of {', '.join(_ENTRIES)}, got {name!r}; "
            "`fedlite data list` describes them"
        )
    return _ENTRIES[name]


def load(
    name: str,
    *,
    path: str = "",
    target: str = "",
    shape: tuple[int, ...] = (),
    labels: tuple[str, ...] = (),
    skip_wrong: bool = False,
) -> Source:
    """Return the source called `name`, verified; never touches the network.

    `path`, `target`, `shape`, `labels` and `skip_wrong` are for `csv` only, see `load_csv`.

    Raises ValueError on an unknown name, on settings that the source does not take, and when a
    file is missing or corrupt (the message then names `fedlite data fetch`).
    """
    entry = _entry(name)
    if name == _CSV.name:
        if not path:
            return entry.load()
        return load_csv(path, target=target, shape=shape, labels=labels, skip_wrong=skip_wrong)
    for key, value in (("path", path), ("target", target), ("shape", shape), ("labels", labels)):
        if value:
            raise ValueError(
                f"{key}: is only for data 'csv', got {value!r} with {name!r}; remove it"
            )
    return entry.load()


def fetch(name: str) -> Path:
    """Return the path of the verified files of `name`, fetching them into the cache where needed.

    Raises ConnectionError when no way led to them, ValueError on an unknown name, for `csv`, or
    when what came is not what is pinned.
    """
    return _entry(name).fetch()


def available(name: str) -> bool:
    """Say whether `name` can be loaded without fetching; does not verify. True for `csv`."""
    return _entry(name).available()
