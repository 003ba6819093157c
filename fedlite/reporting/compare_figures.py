"""The pictures of a comparison: scores round by round, and score against bytes sent up."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedlite.reporting import scores, wording
from fedlite.reporting.compare import Comparison, Group, Spread
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

CURVES_PNG, PARETO_PNG = "curves.png", "pareto.png"
# Orange, sky blue and black are Okabe and Ito's, too. More groups than colours are grey.
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_NAME = 26
_HEIGHT = 4.6
# A line of text as a share of so high a panel.
_GAP = 0.052
# The axis of bytes spans this factor at least.
_SPAN = 1.5


def draw(comparison: Comparison, directory: Path) -> list[Path]:
    """Write `curves.png` and `pareto.png`, and return the paths; none where no run was scored.

    The second only of two groups or more. The first not where a global test set is to be kept.
    """
    import matplotlib

    directory.mkdir(parents=True, exist_ok=True)
    if not any(curve_of(group, comparison.score) for group in comparison.groups):
        return []
    with matplotlib.rc_context(STYLE):
        kept = comparison.shown != comparison.measures
        paths = [] if kept else [save(curves(comparison), directory / CURVES_PNG)]
        if len(comparison.groups) > 1:
            paths.append(save(pareto(comparison), directory / PARETO_PNG))
    return paths


def curve_of(group: Group, score: str) -> list[tuple[int, Spread]]:
    """Return a group's score by round, where at least one of its runs was scored."""
    by_round: dict[int, list[float]] = defaultdict(list)
    for member in group.members.values():
        for record in member.rounds:
            value = scores.of_round(record, score)
            if value is not None:
                by_round[record.round].append(value)
    spreads = ((number, Spread.of(values)) for number, values in sorted(by_round.items()))
    return [(number, spread) for number, spread in spreads if spread is not None]


def curves(comparison: Comparison) -> Figure:
    """Draw each group's mean score by round, with a band of one standard deviation."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH, _HEIGHT), layout="constrained")
    told = "mean, and one sd of the seeds" if repeated(comparison) else "one run a setting"
    axes, scale = _axes(figure, comparison, told)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    labels: list[Label] = []
    for number, group in enumerate(comparison.groups):
        points = curve_of(group, comparison.score)
        if not points:
            continue
        x = [at for at, _ in points]
        y = [scale * spread.mean for _, spread in points]
        half = [scale * (spread.sd or 0.0) for _, spread in points]
        colour = _colour(number)
        axes.plot(x, y, color=colour, linestyle=_STYLES[number // 2 % len(_STYLES)])
        low, high = ([m + sign * h for m, h in zip(y, half, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if number < len(COLOURS):
            labels.append((y[-1], _wrapped(group.name), colour))
    label_ends(axes, labels, _GAP)
    return figure


def repeated(comparison: Comparison) -> bool:
    """Return whether any setting was run with several seeds."""
    return any(len(group.members) > 1 for group in comparison.groups)


def pareto(comparison: Comparison) -> Figure:
    """Draw each run and each group's mean, by the bytes that all sites sent up."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    figure = Figure(figsize=(WIDTH, _HEIGHT), layout="constrained")
    axes, scale = _axes(figure, comparison, "against bytes")
    axes.set_xlabel("MB sent up by all sites (log scale)")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    bytes_up = next(m for m in comparison.measures if m.name == "bytes_up")
    means: list[tuple[float, float]] = []
    for number, group in enumerate(comparison.groups):
        ups, values = group.values(bytes_up), group.values(comparison.shown[0])
        pairs = [(ups[repeat], values[repeat]) for repeat in values]
        known = [(up / 1e6, scale * v) for up, v in pairs if up and v is not None]
        if not known:
            continue
        x, y = zip(*known, strict=True)
        colour, mean = _colour(number), (sum(x) / len(x), sum(y) / len(y))
        axes.plot(x, y, "o", color=colour, markersize=4, alpha=0.5, linewidth=0)
        name = _wrapped(group.name) if number < len(COLOURS) else None
        axes.plot(*mean, "o", color=colour, markersize=9, linewidth=0, label=name)
        means.append(mean)
    low, high = axes.get_xlim()
    if high < _SPAN * low:
        # A narrower axis would make a trend of a few bytes, and its ticks would not fit.
        middle = math.sqrt(low * high)
        axes.set_xlim(middle / math.sqrt(_SPAN), middle * math.sqrt(_SPAN))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    front = best(means, less=scores.less_is_better(comparison.score))
    axes.plot(*zip(*front, strict=True), color=GREY, linestyle=":", linewidth=1.5, zorder=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=10)
    return figure


def best(points: Sequence[tuple[float, float]], *, less: bool = False) -> list[tuple[float, float]]:
    """Return the points to which no other is at least as good in both, by ascending cost.

    points: (cost, score). less: whether a small score is good.

    >>> best([(1.0, 0.5), (2.0, 0.4), (3.0, 0.9)])
    [(1.0, 0.5), (3.0, 0.9)]
    """
    sign, found = (-1 if less else 1), []
    highest = float("-inf")
    for cost, score in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if sign * score > highest:
            highest = sign * score
            found.append((cost, score))
    return found


def _axes(figure: Figure, comparison: Comparison, how: str) -> tuple[Axes, float]:
    axes = figure.subplots()
    share, title = scores.kind(comparison.score).share, scores.title(comparison.score)
    axes.set_title(f"{title[0].upper()}{title[1:]}: {how}")
    axes.set_ylabel(f"{title} (%)" if share else title)
    return axes, 100.0 if share else 1.0


def _colour(number: int) -> str:
    return COLOURS[number] if number < len(COLOURS) else GREY


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(wording.plain(name), _NAME)[:3]) or "-"
