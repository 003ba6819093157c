"""What a notebook shows of a run and of a comparison: words, a table, and a picture inside it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from fedlite.reporting import compare_figures, compare_page, drawing, figures, markup, wording
from fedlite.reporting.report import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedlite.reporting.compare import Comparison


def of_run(directory: Path) -> str:
    """Return the HTML of a finished run; raises ValueError as `load` does."""
    rounds, summary = load(directory)
    return markup.render(
        "cell.html.j2",
        title=f"{summary['scenario']}, seed {summary['seed']}",
        lines=wording.verdict(summary),
        table=None,
        image=_image(drawing.drawn(lambda: figures.rounds_figure(rounds, summary))),
    )


def of_comparison(comparison: Comparison) -> str:
    """Return the HTML of runs beside each other."""
    curves = any(compare_figures.curve_of(g, comparison.score) for g in comparison.groups)
    picture = drawing.drawn(lambda: compare_figures.curves(comparison)) if curves else None
    lines = [compare_page.verdict(comparison), *compare_page.notes(comparison)]
    return markup.render(
        "cell.html.j2",
        title="Runs compared",
        lines=[*lines, comparison.cost.told()] if comparison.cost else lines,
        table=markup.Table(compare_page.head(comparison), compare_page.rows(comparison)),
        image=_image(picture) if picture and comparison.shown == comparison.measures else "",
    )


def _image(figure: Figure) -> str:
    data = base64.b64encode(drawing.png(figure)).decode("ascii")
    return f"data:image/png;base64,{data}"
