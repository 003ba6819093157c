"""A picture of the compressors: points lost against how many times fewer bytes went up.

`python -m simulations.benchmarks.pareto A.json B.json --figure FILE.png` draws the rows that
`simulations.benchmarks.fashion --json` has written: a colour for each compressor, a
marker for each study. The lower right is better.
"""

from __future__ import annotations

import argparse
import json
from itertools import cycle
from pathlib import Path
from typing import Any

BRANCHES = (("deep", "deep branch"), ("shallow", "early exit"))


def read(files: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the figures of every study, by what the study was.

    Those with a dense way down, and the scenario's own step of the server.
    """
    studies: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        for row in json.loads(file.read_text(encoding="utf-8")):
            told, figures = row["parameters"], row["figures"]
            name = f"{told['rounds']} rounds, {100 * told['participation']:g} % of the sites"
            name = ", ".join([name, *told.get("set", [])])
            usual = figures["down"] == "dense" and not figures.get("step")
            if usual and figures["up"] != "dense":
                studies.setdefault(name, []).append(figures)
    return studies


def draw(studies: dict[str, list[dict[str, Any]]], figure: Path) -> None:
    """Draw one panel for each branch into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(canvas)
    panels = canvas.subplots(1, 2, sharex=True, sharey=True)
    compressors = dict.fromkeys(row["up"] for rows in studies.values() for row in rows)
    colors = {name: f"C{number}" for number, name in enumerate(compressors)}
    for panel, (key, title) in zip(panels, BRANCHES, strict=True):
        for marker, rows in zip(cycle("os^D"), studies.values(), strict=False):
            for row in rows:
                panel.errorbar(
                    row["up_ratio"],
                    row[f"{key}_lost"],
                    yerr=row[f"{key}_lost_sd"],
                    fmt=marker,
                    color=colors[row["up"]],
                    markersize=6,
                    linewidth=1,
                    alpha=0.8,
                )
        panel.axhline(0.0, color="0.6", linewidth=0.8)
        panel.set_xscale("log")
        panel.set_xticks([10, 30, 100, 300], ["10", "30", "100", "300"])
        panel.set_xlim(7, 700)
        panel.set_title(title)
        panel.set_xlabel("dense float32 / sent, on the way up")
    panels[0].set_ylabel("points of accuracy lost to dense")
    for marker, name in zip(cycle("os^D"), studies, strict=False):
        panels[0].plot([], [], marker, color="0.4", label=name)
    for name, color in colors.items():
        panels[1].plot([], [], "o", color=color, label=name)
    for panel in panels:
        panel.legend(fontsize=8)
    canvas.savefig(figure, dpi=140)


def main() -> None:
    """Read the studies and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("files", nargs="+", type=Path, help="what fashion --json has written")
    parser.add_argument("--figure", type=Path, required=True, metavar="FILE.png")
    arguments = parser.parse_args()
    draw(read(arguments.files), arguments.figure)
    print(arguments.figure)


if __name__ == "__main__":
    main()
