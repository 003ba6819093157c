"""The named data sources: what there is, and how to fetch and load each.

A new source is one module with an `ENTRY`, and one name in `_MODULES`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fedlite.data.bases import BASES
from fedlite.data.cache import cache_folder
from fedlite.data.dataset import Source
from fedlite.data.entry import Entry
from fedlite.data.own import source_of
from fedlite.data.shelf import fetch as fetch_base, is_hub
from fedlite.data.sources import (
    csv_file,
    digits,
    fashion,
    heart,
    images,
    jsonl,
    npz,
    parquet,
    saved_pictures,
    sentiment,
)
from fedlite.registry import Registry, is_own
from fedlite.scenario import NUMERIC, Data
from fedlite.scenario.tabular import Columns
from fedlite.scenario.texts import Texts
from fedlite.settings import did_you_mean, read_options

_MODULES = (
    *(digits, fashion, heart, sentiment),
    *(csv_file, parquet, jsonl, saved_pictures, npz, images),
)
_ENTRIES: dict[str, Entry] = {module.ENTRY.name: module.ENTRY for module in _MODULES}
_SOURCES: Registry[Any] = Registry(
    "data.name", "fedlite.data", _ENTRIES, "data.options", "(**options) and returns records"
)


def entries() -> tuple[Entry, ...]:
    """Return the whole catalogue, in its order; what packages offer comes last.

    >>> [entry.name for entry in entries()][:4]
    ['digits', 'fashion-mnist', 'heart-disease', 'sentiment']
    """
    others = [name for name in _SOURCES.names() if name not in _ENTRIES]
    return (*_ENTRIES.values(), *map(find, others))


def find(name: str) -> Entry:
    """Return the entry of a source; raises ValueError on an unknown name.

    A function of one's own is called when its entry loads, and not before.
    """
    if is_own(name):
        return _own(name)
    found = _SOURCES.get(name)
    if not isinstance(found, Entry) or found.name != name:
        raise ValueError(
            f"data.name: what is offered as {name!r} must be a fedlite.data.Entry of that name, "
            f"got {found!r}"
        )
    return found


def _own(name: str) -> Entry:
    """Return the entry of a function of one's own, or the one that is called so."""
    made = _SOURCES.get(name)
    if isinstance(made, Entry):
        return replace(made, own=True)
    return Entry(
        name=name,
        what="your own",
        records=0,
        licence="yours",
        size=0,
        how="your function makes it",
        load=partial(_call, name, made),
        fetch=lambda: Path(),
        available=lambda: True,
        takes=("labels", "options", "task"),
        own=True,
    )


def _call(
    name: str, builder: Any, labels: tuple[str, ...], task: str, options: Mapping[str, Any]
) -> Source:
    made = _SOURCES.call(name, builder, options=options)
    try:
        return source_of(name, made, labels, numeric=task in NUMERIC)
    except ValueError as error:
        raise _SOURCES.wrong(name, builder, str(error)) from None


def load(
    name: str,
    *,
    options: str = "",
    path: str = "",
    target: str = "",
    shape: tuple[int, ...] = (),
    labels: tuple[str, ...] = (),
    columns: Columns = Columns(),  # noqa: B008 - frozen
    texts: Texts = Texts(),  # noqa: B008 - frozen
    task: str = "classification",
    target_ranges: tuple[tuple[str, float, float], ...] = (),
    settled: bool = False,
    skip_wrong: bool = False,
    answered: bool = True,
) -> Source:
    """Return the source called `name`, verified; never touches the network.

    options: of the source, as JSON text. All others are for records of one's own only, see
    `sources.table.load_table`; a function of one's own takes `labels`, too.

    Raises ValueError on an unknown name, on settings that the source does not take, and when a
    file is missing or corrupt (the message then names `fedlite data fetch`).
    """
    source = find(name)
    settings: dict[str, Any] = {"path": path, "target": target, "shape": shape, "labels": labels}
    for key, value in settings.items():
        if value and key not in source.takes:
            takers = " or ".join(repr(one.name) for one in entries() if key in one.takes)
            raise ValueError(
                f"{key}: is only for data {takers}, got {value!r} with {name!r}; remove it"
            )
    if columns != Columns() and "columns" not in source.takes:
        raise ValueError(
            f"columns: {name!r} has columns of its own; take away the keys that say how to read "
            f"a table ({columns})"
        )
    if texts.tokenizer and "texts" not in source.takes:
        takers = ", ".join(one.name for one in entries() if "texts" in one.takes)
        raise ValueError(
            f"data.tokenizer: is for data whose records are texts ({takers}), got "
            f"{texts.tokenizer!r} with {name!r}; leave it out"
        )
    settings |= {"texts": texts, "columns": columns, "settled": settled, "skip_wrong": skip_wrong}
    settings |= {"task": task, "target_ranges": target_ranges, "answered": answered}
    given = read_options(options)
    known = {key: settings[key] for key in source.takes if key in settings}
    found: Source
    if "options" in source.takes:
        found = source.load(**known, options=given)
    else:
        found = _SOURCES.call(name, source.load, options=given, **known)
    found.check_finite()
    numbers = found.train.classes is None
    if answered and numbers != (task in NUMERIC):
        raise ValueError(
            f"task.name: must be {'one of numbers' if numbers else 'classification'} "
            f"for {name}, whose records have {'numbers' if numbers else 'classes'} to be answered, "
            f"got {task!r}"
        )
    return found


def missing(settings: Data) -> list[str]:
    """Return the names of what the settings need and `fetch` brings: records, and a tokenizer."""
    found = []
    if settings.name in {entry.name for entry in entries()} and not available(settings.name):
        found.append(settings.name)
    bases = [settings.tokenizer, settings.texts.perplexity_base if settings.perplexity else ""]
    found += [
        name for name in dict.fromkeys(bases) if name in BASES and not BASES[name].available()
    ]
    return found


def fetch_missing(settings: Data, *, quiet: bool) -> None:
    """Fetch what the settings need and the cache has not; say so on stderr unless `quiet`.

    Raises as `fetch` does.
    """
    for name in missing(settings):
        if not quiet:
            print(f"fetching {name} into {cache_folder()}", file=sys.stderr)
        fetch(name)


def fetch(name: str) -> Path:
    """Return the path of the verified files of `name`, fetching them into the cache where needed.

    name: of a source or of a base model; ORG/NAME is one of the Hugging Face hub. Raises
    ConnectionError when no way led to them, ValueError on an unknown name, for `csv`, or when what
    came is not what is pinned.
    """
    if is_hub(name):
        return fetch_base(name).folder()
    if name in BASES:
        return BASES[name].fetch()
    if not is_own(name) and name not in _SOURCES.names():
        fetched = [*(entry.name for entry in entries() if not entry.own), *BASES]
        raise ValueError(f"NAME: no such source or base model{did_you_mean(name, fetched)}")
    return find(name).fetch()


def available(name: str) -> bool:
    """Say whether `name` can be loaded without fetching; does not verify. True for `csv`."""
    return find(name).available()
