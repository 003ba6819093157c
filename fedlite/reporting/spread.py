"""How records are spread over sites, as a picture and as a table for the terminal.

It takes what `fedlite.data.overview.division` gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlite.reporting import wording
from fedlite.reporting.drawing import BLUE, GREY, WIDTH, drawn, save
from fedlite.reporting.many import span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

# Of more sites or classes a picture has no room for circles, and a terminal none for rows.
_CIRCLES = 30
_ROWS = 20


def draw(division: Mapping[str, Any], path: Path) -> Path:
    """Write a PNG: a circle for each site and class, its area as the number of records.

    Of many sites or classes it is a map of colours instead, and without classes a bar for each
    site. Returns the path.
    """
    return save(drawn(partial(_figure, division)), path)


def _figure(division: Mapping[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    counts, sites = np.array(division["counts"]), division["sites"]
    tall = min(12.0, max(2.4, 0.34 * len(sites) + 1.5))
    figure = Figure(figsize=(WIDTH, tall), layout="constrained")
    axes = figure.subplots()
    if counts.shape[1] == 1:
        _bars(axes, counts[:, 0])
    elif max(counts.shape) <= _CIRCLES:
        _circles(axes, counts)
    else:
        _map(axes, counts)
    _name(axes, sites, division["columns"] if counts.shape[1] > 1 else [])
    axes.set_title(f"Records at each site: {wording.plain(division['name'])}")
    return figure


def _circles(axes: Axes, counts: np.ndarray) -> None:
    rows, columns = np.indices(counts.shape)
    # The largest circle just touches its neighbours.
    room = 8.0 * 72 * 0.8 / max(counts.shape[1], 4)
    largest = min(room, 24.0) ** 2
    area = largest * counts / max(1, counts.max())
    axes.scatter(columns.ravel(), rows.ravel(), s=area.ravel(), color=BLUE, linewidths=0)
    for row, mine in enumerate(counts):
        text = f"{mine.sum():,}"
        axes.text(counts.shape[1] - 0.35, row, text, va="center", color=GREY)
    axes.set_xlim(-0.6, counts.shape[1] - 0.4)
    axes.grid(visible=True, axis="both")


def _map(axes: Axes, counts: np.ndarray) -> None:
    image = axes.imshow(counts, aspect="auto", cmap="Blues", interpolation="nearest", vmin=0)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label("records")
    bar.outline.set_visible(False)
    axes.grid(visible=False)


def _bars(axes: Axes, sizes: np.ndarray) -> None:
    axes.barh(range(len(sizes)), sizes, color=BLUE, height=0.7)
    axes.set_xlabel("records")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")


def _name(axes: Axes, sites: list[str], columns: list[str]) -> None:
    axes.set_ylim(len(sites) - 0.4, -0.6)
    step = max(1, -(-len(sites) // 40))
    shown = range(0, len(sites), step)
    axes.set_yticks(shown, [wording.plain(sites[at])[:24] for at in shown])
    axes.tick_params(axis="both", length=0)
    if columns:
        step = max(1, -(-len(columns) // 40))
        shown = range(0, len(columns), step)
        names = [wording.plain(columns[at])[:18] for at in shown]
        turn = 90 if sum(map(len, names)) > 80 else 0
        axes.set_xticks(shown, names, rotation=turn)


def table(division: Mapping[str, Any], width: int) -> Table | None:
    """Return a table of sites and classes; None where so many characters have no room for it."""
    from rich.table import Table

    sites, columns = division["sites"], division["columns"]
    largest = max(sum(row) for row in division["counts"])
    widest, digits = max(map(len, sites)), max(3, len(f"{largest:,}"))
    if len(sites) > _ROWS or widest + (len(columns) + 1) * (digits + 2) > width:
        return None
    made = Table(box=None, header_style="bold", pad_edge=False)
    made.add_column("site", min_width=widest, no_wrap=True)
    # Names are cut where there is no room, and numbers never are.
    for name in columns:
        made.add_column(wording.plain(name), justify="right", min_width=digits, no_wrap=True)
    if len(columns) > 1:
        made.add_column("all", justify="right", min_width=digits, no_wrap=True)
    for name, row in zip(sites, division["counts"], strict=True):
        cells = [f"{count:,}" if count else "·" for count in row]
        made.add_row(name, *cells, *([f"{sum(row):,}"] if len(columns) > 1 else []))
    return made


def lines(division: Mapping[str, Any]) -> list[str]:
    """Return the division in a sentence or two."""
    sizes = [sum(row) for row in division["counts"]]
    told = [f"{wording.count(len(sizes), 'site')} with {span(sizes)} records"]
    if division["skew"] is not None:
        held = [sum(count > 0 for count in row) for row in division["counts"]]
        told.append(
            f"{span(held)} of {len(division['columns'])} classes a site; a site's mix of classes "
            f"is {division['skew']:.2f} from that of all (0: the same, 1: nothing in common)"
        )
    return told
