"""The figures of a run, drawn from its record: rounds, sites, attendance, and baselines if any."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlite.reporting import attendance, measures, routes, wording
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
from fedlite.reporting.many import MANY, numbers, quantile
from fedlite.reporting.record import RoundRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES = "figures"
ROUNDS_PNG = "rounds.png"
ATTENDANCE_PNG = "attendance.png"
SITES_PNG = "sites.png"
BASELINES_PNG = "baselines.png"
ROUTES_PNG = "routes.png"
_PANELS_A_ROW = 5


def draw(rounds: Sequence[RoundRecord], summary: Mapping[str, Any], directory: Path) -> list[Path]:
    """Write `rounds.png`, of many sites `sites.png`, `attendance.png`, and two that not all have.

    All into `figures/`; `attendance.png` where a site was not used in some round, `baselines.png`
    and `routes.png` only when the summary has baselines, or says which inputs leave early.

    Returns the paths written. Raises ValueError when there is no round to draw.
    """
    import matplotlib

    if not rounds:
        raise ValueError(f"{directory}: rounds.jsonl holds no round; run at least one round first")
    folder = directory / FIGURES
    folder.mkdir(exist_ok=True)
    paths = []
    with matplotlib.rc_context(STYLE):
        paths.append(save(rounds_figure(rounds, summary), folder / ROUNDS_PNG))
        if attendance.worth_drawing(rounds):
            paths.append(save(attendance.draw(rounds), folder / ATTENDANCE_PNG))
        many = len(summary["sites"]) > MANY and not wording.unmeasured(summary)
        if many and wording.holding_out(summary):
            paths.append(save(_sites(summary), folder / SITES_PNG))
        if summary.get("baselines"):
            paths.append(
                save(_baselines(summary["baselines"], summary["sites"]), folder / BASELINES_PNG)
            )
        if "curve" in summary.get("inference", {}):
            paths.append(save(routes.draw(summary["inference"]), folder / ROUTES_PNG))
    return paths


def rounds_figure(rounds: Sequence[RoundRecord], summary: Mapping[str, Any]) -> Figure:
    """Draw quality, bytes and privacy loss, round by round."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    private = any(record.epsilon is not None for record in rounds)
    panels = 3 if private else 2
    figure = Figure(figsize=(WIDTH, 2.25 * panels + 0.4), layout="constrained")
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    _quality_panel(axes[0], rounds, wording.unmeasured(summary) or "not measured")
    _bytes_panel(axes[1], rounds)
    if private:
        _epsilon_panel(axes[2], rounds, summary["privacy"])
    axes[-1].set_xlabel("round")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    first, last = rounds[0].round, rounds[-1].round
    margin = max(0.5, 0.015 * (last - first))
    axes[-1].set_xlim(first - margin, last + margin)
    figure.align_ylabels(list(axes))
    return figure


def _quality_panel(axes: Axes, rounds: Sequence[RoundRecord], without: str) -> None:
    first = measures.main({key: record for record in rounds for key in record.measured})
    known = any(record.measured for record in rounds)
    axes.set_title(f"{first.title if known else 'scores'} on held-out data")
    axes.set_ylabel(first.axis if known else "score")
    scale, labels = (100.0 if first.share else 1.0), []
    scored = [(r.round, r.measured.get(first.key, {})) for r in rounds]
    branched = any("shallow" in found for _, found in scored)
    for name, colour, line in (("shallow", VERMILLION, "--"), ("deep", BLUE, "-")):
        rows = [(at, found.get(name)) for at, found in scored]
        points = [(at, scale * v) for at, v in rows if v is not None and math.isfinite(v)]
        if points:
            _line(axes, points, colour, line)
            final = points[-1][1]
            said = first.say(final / scale)
            labels.append((final, f"{name} {said}" if branched else said, colour))
    if labels and first.low is not None:
        # No score of this kind is above 1: an axis that goes on would say that there may be one.
        low, high = axes.get_ylim()
        axes.set_ylim(low, min(high, scale + 0.05 * (scale - low)))
    if not labels:
        axes.set_yticks([])
        axes.text(0.5, 0.5, without, transform=axes.transAxes, ha="center", color=GREY)
    label_ends(axes, labels)


def _bytes_panel(axes: Axes, rounds: Sequence[RoundRecord]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.set_title("Sent so far, all sites together")
    axes.set_ylabel("MB (log scale)")
    axes.set_yscale("log")
    at = [record.round for record in rounds]
    columns = {
        "up": _running([r.bytes_up for r in rounds]),
        "down": _running([r.bytes_down for r in rounds]),
        "dense_up": _running([r.dense_up for r in rounds]),
        "dense_down": _running([r.dense_down for r in rounds]),
    }
    dense = [("dense_up", "float32 up\n", ":"), ("dense_down", "float32 down\n", ":")]
    ends = columns["dense_up"][-1], columns["dense_down"][-1]
    if min(ends) > 0 and max(ends) / min(ends) < 1.1:
        dense = [("dense_up", "dense float32,\neither way", ":")]
    lines = [(key, words, GREY, style) for key, words, style in dense]
    lines += [("down", "down", PURPLE, "--"), ("up", "up", GREEN, "-")]
    labels: list[Label] = []
    for key, words, colour, style in lines:
        points = [(x, y) for x, y in zip(at, columns[key], strict=True) if y > 0]
        if points:
            _line(axes, points, colour, style)
            said = wording.megabytes(1e6 * points[-1][1])
            labels.append((points[-1][1], f"{words} {said}", colour))
    low, high = axes.get_ylim()
    if high < 100 * low:
        # Fewer than two powers of ten lie on the axis, and one tick is no scale.
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    label_ends(axes, labels)


def _running(sizes: Sequence[int]) -> list[float]:
    total, sums = 0, []
    for size in sizes:
        total += size
        sums.append(total / 1e6)
    return sums


def _epsilon_panel(axes: Axes, rounds: Sequence[RoundRecord], privacy: Mapping[str, Any]) -> None:
    delta = privacy.get("delta")
    at = "" if delta is None else f", at delta {delta:g}"
    axes.set_title(f"Privacy loss, the largest of any site{at}")
    axes.set_ylabel("epsilon")
    points = [(r.round, r.epsilon) for r in rounds if r.epsilon is not None]
    # No bound, and drawn as none: where a run stops may depend on what it has released.
    _line(axes, points, GREY, ":")
    labels: list[Label] = [(points[-1][1], f"so far {wording.epsilon(points[-1][1])}", GREY)]
    bound = wording.worst(privacy)
    if bound is not None:
        axes.axhline(bound, color=BLUE, linewidth=2.0)
        labels.append((bound, f"whole plan {wording.epsilon(bound)}", BLUE))
    budgets = {row.get("budget") for row in privacy.get("sites", {}).values()} - {None}
    for limit in sorted({min(budgets), max(budgets)} if budgets else ()):
        axes.axhline(limit, color=VERMILLION, linestyle="--", linewidth=1.5)
        name = "budget" if len(budgets) == 1 else "a budget"
        labels.append((limit, f"{name} {wording.budget(limit)}", VERMILLION))
    axes.set_ylim(0, 1.12 * max(height for height, _, _ in labels))
    label_ends(axes, labels)


def _sites(summary: Mapping[str, Any]) -> Figure:
    """Draw how many sites have which score, one branch above the other."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    first, part = measures.part_of(summary)
    by_site, branches = part.get("by_site") or {}, measures.branches(summary)
    figure = Figure(figsize=(WIDTH, 0.6 + 1.5 * len(branches)), layout="constrained")
    panels = figure.subplots(len(branches), 1, sharex=True, squeeze=False)[:, 0]
    colours = {"shallow": VERMILLION, "deep": BLUE}
    for axes, name in zip(panels, branches, strict=True):
        values = numbers(wording.branch(by_site, site, name) for site in by_site)
        axes.hist(values, bins=25, range=_span(first, values), color=colours[name])
        axes.set_ylabel("sites")
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        middle = quantile(values, 0.5)
        if middle is not None:
            axes.axvline(middle, color="black", linestyle="--", linewidth=1.5)
        axes.set_title(f"{name}, median {first.say(middle)}")
    panels[-1].set_xlabel(f"{first.name} on a site's own held-out records")
    return figure


def _span(first: measures.Measure, values: Sequence[float]) -> tuple[float, float]:
    """Return what the axis of a score spans: from 0 to 1, unless some sites lie elsewhere."""
    if first.low is None:
        return (0.0, max([*values, 1e-9]))
    return (max(-1.0, min([0.0, *values])), 1.0)


def _line(axes: Axes, points: Sequence[tuple[float, float]], colour: str, style: str) -> None:
    x, y = zip(*points, strict=True)
    marker = {"marker": "o", "markersize": 3.5 if len(points) <= 40 else 0}
    axes.plot(x, y, color=colour, linestyle=style, **marker)  # type: ignore[arg-type]


def _baselines(baselines: Mapping[str, Any], order: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    rows = baselines["rows"]
    metric = wording.plain(measures.measure(str(baselines["metric"])).name)
    found = dict.fromkeys(site for row in rows for site in row["by_site"])
    places = wording.in_order(found, order)
    if len(places) > MANY:
        places = []
    columns = [(wording.plain(p), [row["by_site"].get(p) for row in rows]) for p in places]
    columns.insert(0, ("mean", [row.get("mean") for row in rows]))
    across = min(_PANELS_A_ROW, len(columns))
    down = math.ceil(len(columns) / across)
    height = (0.46 * len(rows) + 0.9) * down + 0.4
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    known = [v for _, values in columns for v in values if v is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    pad = max(0.02, 0.2 * (high - low))  # the outermost numbers are wider than their dots
    for axes, (title, values) in zip(grid, columns, strict=False):
        _dots(axes, title, values, [str(row["name"]) for row in rows])
        axes.set_xlim(low - pad, high + pad)
    for axes in grid[len(columns) :]:
        axes.set_visible(False)
    figure.supxlabel(f"{metric} on a site's own held-out records", fontsize=10.5)
    return figure


def _dots(axes: Axes, title: str, values: Sequence[float | None], names: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title)
    best = max((v for v in values if v is not None), default=None)
    for index, (value, name) in enumerate(zip(values, names, strict=True)):
        if value is None:
            continue
        ours = name.lower().startswith("federated")
        colour = BLUE if ours else GREY
        axes.plot([value], [index], "o" if ours else "D", color=colour, markersize=7 if ours else 5)
        axes.annotate(
            f"{value:.2f}",
            (value, index),
            (0, 5),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=9.5,
            color=colour,
            fontweight="bold" if value == best else "normal",
        )
    axes.set_yticks(range(len(names)), [_wrapped(name) for name in names])
    axes.set_ylim(len(names) - 0.6, -0.75)
    axes.xaxis.set_major_locator(MaxNLocator(2))
    axes.tick_params(axis="y", length=0)


def _wrapped(name: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(wording.plain(name), 26)[:2]) or "-"
