"""What all figures share: colours, style, how they are saved, and names at the ends of lines.

Colours are told apart by every common kind of colour vision: blue, vermillion and green are those
of Okabe and Ito ("Color Universal Design", 2008), the purple is Paul Tol's, whose name is readable
on white. Line style says the same once more. Figures are 8 inches wide, so that their text is
readable when a page shows them 800 pixels wide.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlite.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#666666"
WIDTH, _DPI = 8.0, 160
STYLE = {
    "font.size": 10.5,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "text.parse_math": False,
}
Label = tuple[float, str, str]  # height in data units, text, colour


def drawn(make: Callable[[], Figure]) -> Figure:
    """Return a figure made in our style, which a notebook shows by itself."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = make()
    # Without pyplot no notebook knows how to show it.
    figure._repr_png_ = partial(png, figure)  # type: ignore[attr-defined]
    return figure


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # No pyplot: a library must not touch the global figure list or the user's chosen backend.
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    told: dict[str, Any] = {"dpi": _DPI, "facecolor": "white", "metadata": {"Software": None}}
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", **told)
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, atomically, and return the path."""
    write_atomic(path, png(figure))
    return path


def label_ends(axes: Axes, labels: Sequence[Label], gap: float = 0.13) -> None:
    """Write each line's name at its right end, moved apart where they would overlap.

    gap: a line of text as a share of the panel's height.
    """
    if not labels:
        return
    low, high = axes.get_ylim()
    change = math.log if axes.get_yscale() == "log" else float
    span = change(high) - change(low)
    places = [((change(y) - change(low)) / span, text, colour) for y, text, colour in labels]
    places.sort()
    heights: list[float] = []
    above = 0.0
    for height, text, _ in places:
        half = gap * (text.count("\n") + 1) / 2
        heights.append(max(height, heights[-1] + above + half) if heights else height)
        above = half
    # Half of what the stack grew goes down again, so that it stays centred on the lines it names.
    shift = max(0.0, heights[-1] - places[-1][0]) / 2
    for height, (_, text, colour) in zip(heights, places, strict=True):
        axes.annotate(
            text,
            (1.01, height - shift),
            xycoords="axes fraction",
            color=colour,
            va="center",
            fontsize=10,
        )
