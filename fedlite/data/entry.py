"""One line of the catalogue: what a data source is, and how to fetch and load it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fedlite.data.dataset import Source
from fedlite.data.rows import Opener


@dataclass(frozen=True)
class Entry:
    """A named data source, as `fedlite data list` shows it.

    `records` counts all records (0 where it depends on the user's file), `size` is in bytes as
    fetched, `licence` and `how` are text for people. `available` is cheap: the files are there,
    though not yet verified; `load` and `fetch` verify them. `takes` names the keyword arguments of
    `load`. `own`: the records are the user's, in a file or folder that `path` names, and nothing
    about them is public. `table`: a record is a row of columns that mean different things.
    `rows`, of a table: opens its file or folder to give its rows as text (`fedlite.data.rows`).
    `survey`, of what is one's own or needs more settings to be loaded: from path and target to how
    many records and classes there are, and whose they are; with `lenient=True` what does not fit is
    passed over (`table.survey`).
    """

    name: str
    what: str
    records: int
    licence: str
    size: int
    how: str
    load: Callable[..., Source] = field(repr=False, compare=False)
    fetch: Callable[[], Path] = field(repr=False, compare=False)
    available: Callable[[], bool] = field(repr=False, compare=False)
    takes: tuple[str, ...] = ()
    survey: Callable[..., tuple[int, int, tuple[str, ...]]] | None = field(
        default=None, repr=False, compare=False
    )
    own: bool = False
    table: bool = False
    rows: Opener | None = field(default=None, repr=False, compare=False)


def nothing_to_fetch(name: str) -> Callable[[], Path]:
    """Return the `fetch` of a source that is the user's own."""

    def fetch() -> Path:
        raise ValueError(f"{name}: is your own, so there is nothing to fetch; give its `path`")

    return fetch
