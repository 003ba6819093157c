"""The figures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlite.evaluation.evaluate import Evaluation
from fedlite.reporting import measures, wording
from fedlite.reporting.drawing import (
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    STYLE,
    VERMILLION,
    WIDTH,
    Label,
    label_ends,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CALIBRATION, RESIDUALS, CORRUPTIONS = "calibration.png", "residuals.png", "corruptions.png"
_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, "#56B4E9", "#8C6D00")
_LINES = ("-", "--", "-.", ":")
# More targets are in the table.
_TARGETS = 4
# More points are one black cloud, and take long.
_POINTS = 3000


def groups_png(number: int) -> str:
    """Return the name of the figure of the group column of that number, from 0."""
    return f"groups-{number + 1}.png"


def spoilt(told: Mapping[str, Any]) -> measures.Measure:
    """Return the score that corruptions are judged by.

    Of classes it is the accuracy: an AUC does not see that all records move the same way.
    """
    if told.get("confusion"):
        return measures.measure("accuracy")
    return measures.main(told["scores"][told["branch"]])


def draw(found: Evaluation, folder: Path) -> list[Path]:
    """Write what there is to draw of an evaluation into a folder, and return the paths."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    told, paths = found.told, []
    with matplotlib.rc_context(STYLE):
        if told.get("calibration"):
            paths.append(save(_calibration(told["calibration"]), folder / CALIBRATION))
        if found.values is not None and found.truth is not None:
            drawn = _residuals(told["labels"], found.values, found.truth)
            paths.append(save(drawn, folder / RESIDUALS))
        for number, rows in enumerate(told.get("groups", {}).values()):
            if rows:
                paths.append(save(_groups(rows), folder / groups_png(number)))
        if told.get("corruptions"):
            paths.append(save(_corruptions(told), folder / CORRUPTIONS))
    return paths


def _calibration(told: Mapping[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    kept, counted = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = told["bins"]
    confidence = [one["confidence"] for one in bins]
    kept.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.5)
    kept.plot(confidence, [one["hits"] for one in bins], "o-", color=BLUE)
    for one in bins:
        kept.plot([one["confidence"]] * 2, [one["confidence"], one["hits"]], color=VERMILLION, lw=1)
    kept.annotate("told = true", (0.03, 0.08), color=GREY, rotation=40)
    kept.set_title("Share that is right, by what the model told")
    kept.set_ylabel("share that is right")
    kept.set_ylim(-0.02, 1.02)
    counted.bar(confidence, [one["records"] for one in bins], width=0.03, color=BLUE)
    counted.set_ylabel("answers")
    counted.set_xlabel("probability told")
    counted.set_xlim(-0.02, 1.02)
    return figure


def _residuals(
    names: Sequence[str], values: NDArray[np.float64], truth: NDArray[np.float64]
) -> Figure:
    from matplotlib.figure import Figure

    count = min(len(names), _TARGETS)
    picked = np.random.default_rng(0).permutation(len(values))[:_POINTS]
    figure = Figure(figsize=(WIDTH, 3.0 * count + 0.2), layout="constrained")
    grid = figure.subplots(count, 2, squeeze=False)
    for (left, right), at in zip(grid, range(count), strict=True):
        told, true = values[picked, at], truth[picked, at]
        name, size = wording.plain(names[at]), 14 if len(told) < 300 else 5
        ends = [min(told.min(), true.min()), max(told.max(), true.max())]
        left.plot(ends, ends, color=GREY, linestyle=":", linewidth=1.5)
        left.scatter(true, told, s=size, color=BLUE, alpha=0.6, linewidths=0)
        left.set_title(f"{name}: told against true")
        left.set_xlabel("true")
        left.set_ylabel("told")
        right.axhline(0, color=GREY, linestyle=":", linewidth=1.5)
        right.scatter(told, told - true, s=size, color=VERMILLION, alpha=0.6, linewidths=0)
        right.set_title("told less true")
        right.set_xlabel("told")
        right.set_ylabel("error")
    return figure


def _groups(rows: Sequence[Mapping[str, Any]]) -> Figure:
    from matplotlib.figure import Figure

    heights = [max(1, len(row["groups"])) for row in rows]
    figure = Figure(
        figsize=(WIDTH, 0.34 * sum(heights) + 0.75 * len(rows) + 0.2), layout="constrained"
    )
    panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    shares = all(value["high"] <= 1 for row in rows for value in row["groups"].values())
    for axes, row in zip(panels, rows, strict=True):
        _group_panel(axes, row)
        if shares:
            axes.set_xlim(-0.01, 1.01)
    return figure


def _group_panel(axes: Axes, row: Mapping[str, Any]) -> None:
    found = row["groups"]
    gap = row["gap"] or {}
    ends = (gap.get("from"), gap.get("to")) if gap.get("beyond_chance") else ()
    for at, (group, value) in enumerate(found.items()):
        colour = VERMILLION if group in ends else BLUE
        axes.plot([value["low"], value["high"]], [at, at], color=colour, linewidth=2)
        axes.plot([value["value"]], [at], "o", color=colour, markersize=6)
    axes.set_title(wording.plain(row["rate"]))
    names = [
        f"{wording.plain(group)[:24]} ({value['records']:,})" for group, value in found.items()
    ]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _corruptions(told: Mapping[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    branch = told["branch"]
    clean = told["scores"][branch]
    first = spoilt(told)
    scale = 100.0 if first.share else 1.0
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    labels: list[Label] = []
    for at, (name, found) in enumerate(told["corruptions"].items()):
        colour = _COLOURS[at % len(_COLOURS)]
        heights = [clean.get(first.key)]
        heights += [found[severity][branch].get(first.key) for severity in "123"]
        points = [(x, scale * y) for x, y in enumerate(heights) if y is not None]
        axes.plot(*zip(*points, strict=True), "o", color=colour, linestyle=_LINES[at % len(_LINES)])
        labels.append((points[-1][1], name, colour))
    axes.set_title(f"{first.title} by severity")
    axes.set_ylabel(first.axis)
    axes.set_xticks(range(4), ["as it is", "1", "2", "3"])
    axes.set_xlabel("severity")
    label_ends(axes, labels, gap=0.075)
    return figure
