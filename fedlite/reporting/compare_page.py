"""A comparison as a table on a terminal, as CSV, and as one self-contained page."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fedlite.reporting import compare_figures, markup, scores, terminal, wording
from fedlite.reporting.compare import Comparison, Group, Measure, Spread
from fedlite.storage import write_atomic

if TYPE_CHECKING:
    from rich.table import Table

PAGE, TABLE = "compare.html", "compare.csv"
_SCORES = ("score", "held_out")
_ON_TERMINAL = (*_SCORES, "bytes_up", "simulated", "to_target", "epsilon")
_LEAST = 16


def write(comparison: Comparison, directory: Path) -> dict[str, Any]:
    """Write the pictures, `compare.csv` and `compare.html`; return what was made, for JSON."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = compare_figures.draw(comparison, directory)
    write_atomic(directory / TABLE, as_csv(comparison).encode())
    write_atomic(directory / PAGE, build(comparison, directory).encode())
    return comparison.as_dict() | {
        "page": str(directory / PAGE),
        "csv": str(directory / TABLE),
        "figures": [str(path) for path in figures],
    }


def flat_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a row a setting, each figure's mean and `_sd` in a column of its own."""
    found = []
    for group in comparison.groups:
        row: dict[str, Any] = {"setting": group.name, "seeds": len(group.members)}
        for measure in comparison.shown:
            spread = group.spread(measure)
            row[measure.name] = spread.mean if spread else None
            row[f"{measure.name}_sd"] = spread.sd if spread else None
        beyond = group.beyond(comparison.groups[0], comparison.shown[0])
        row["to_first"] = beyond.mean if beyond else None
        row["to_first_sd"] = beyond.sd if beyond else None
        row["to_first_n"] = beyond.n if beyond else 0
        found.append(row)
    return found


def as_csv(comparison: Comparison) -> str:
    """Return one row a run: its setting, its seed, its directory's name, and every figure."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["setting", "seed", "run", *(m.name for m in comparison.shown)])
    for group in comparison.groups:
        for member in group.members.values():
            figures = (measure.read(member) for measure in comparison.shown)
            table.writerow([group.name, member.seed, member.directory.name, *figures])
    return text.getvalue()


def build(comparison: Comparison, directory: Path) -> str:
    """Return the page's HTML, with the pictures that `directory` holds; every text is escaped."""
    title = scores.title(comparison.score)
    runs = sum(len(group.members) for group in comparison.groups)
    return markup.render(
        "compare.html.j2",
        about=f"{wording.count(len(comparison.groups), 'setting')}, {wording.count(runs, 'run')}",
        verdict=verdict(comparison),
        table=markup.Table(head(comparison), rows(comparison)),
        on=_on(comparison),
        held=any(measure.name == "held_out" for measure in comparison.measures),
        cost=comparison.cost.told() if comparison.cost else "",
        notes=notes(comparison),
        curves=markup.figure(
            directory / compare_figures.CURVES_PNG,
            f"{title} by round, a line a setting; the table has its last values",
            "Mean of the seeds; the band is one standard deviation either way."
            if compare_figures.repeated(comparison)
            else "Each line is one run: of a single seed no spread is known.",
        ),
        pareto=markup.figure(
            directory / compare_figures.PARETO_PNG,
            f"{title} against bytes sent up, a point a setting; the figures are in the table",
            "Small points are runs, large ones means; a dotted line joins the settings that no "
            "other beats in both, where there are several.",
        ),
        runs=markup.Table(
            ["run", "setting", "seed"],
            [
                [member.directory.name, group.name, member.seed]
                for group in comparison.groups
                for member in group.members.values()
            ],
        ),
    )


def _on(comparison: Comparison) -> str:
    title = scores.title(comparison.score)
    on = comparison.on if comparison.shown == comparison.measures else "sites' held-out records"
    return f"{title[0].upper()}{title[1:]} of the released model, on the {on}."


def head(comparison: Comparison) -> list[str]:
    """Return the headings of the table."""
    titles = [measure.title for measure in comparison.shown]
    return ["setting", "seeds", *titles, "to the first"]


def rows(comparison: Comparison) -> list[list[str]]:
    """Return the table: a row a setting, with mean and standard deviation of each figure."""
    first = comparison.groups[0]
    found = []
    for group in comparison.groups:
        cells = [said(measure, group.spread(measure)) for measure in comparison.shown]
        found.append([group.name, str(len(group.members)), *cells, _to_first(comparison, group)])
    return found if first.members else []


def said(measure: Measure, spread: Spread | None) -> str:
    """Return a mean and its deviation as text; a dash where nothing is known."""
    if spread is None:
        return wording.ABSENT
    text = measure.say(spread.mean)
    if measure.name not in (*_SCORES, "seconds") or spread.sd is None:
        return text
    return f"{text.removesuffix(' %')} ± {measure.say(spread.sd)}"


def _to_first(comparison: Comparison, group: Group) -> str:
    """Return how far a group's score is from the first's, seed by seed."""
    measure = comparison.shown[0]
    if group is comparison.groups[0] or measure.name not in _SCORES:
        return ""
    return difference(comparison.score, group.beyond(comparison.groups[0], measure))


def difference(score: str, spread: Spread | None) -> str:
    """Return a difference of scores with its deviation and number of pairs.

    >>> difference("accuracy.deep", Spread(-0.0123, 0.002, 3))
    '-1.2 ± 0.2 points, n 3'
    >>> difference("auc.deep", None)
    'no seed in common'
    """
    if spread is None:
        return "no seed in common"
    share, unbounded = scores.kind(score).share, scores.kind(score).low is None
    scale, places = (100, ".1f") if share else (1, ".3g" if unbounded else ".3f")
    sd = "" if spread.sd is None else f" ± {scale * spread.sd:{places}}"
    return f"{scale * spread.mean:+{places}}{sd}{' points' if share else ''}, n {spread.n}"


def verdict(comparison: Comparison) -> str:
    """Return which setting has the best mean and how far the next is from it, or who share it.

    Judged by the sites' held-out records where there are any: a global test set that chooses is a
    test set no more.
    """
    by_name = {measure.name: measure for measure in comparison.measures}
    measure, ranked = comparison.judge, comparison.ranked
    if measure is None or len(ranked) < 2:
        return "There is nothing to set side by side: one setting, or none that was scored."
    (top, spread), (next_best, other) = ranked[:2]
    many = sum(one.mean == spread.mean for _, one in ranked)
    who = f"{top.name} has the best mean"
    if many > 1:
        who = f"{many:,} settings share the best mean, {top.name} the first"
    text = f"{who}: {said(measure, spread)}"
    if measure.name == "held_out":
        whole = said(by_name["score"], top.spread(by_name["score"])) if "score" in by_name else "-"
        text += f" on the sites' held-out records, {whole} on the {comparison.on}"
    if many == 1:
        gap = difference(comparison.score, top.beyond(next_best, measure))
        text += f". To the next, {next_best.name}, it is {gap}"
    text += "."
    if min(spread.n, other.n) < 2:
        text += " Of a single seed no spread is known: it may be chance."
    return text


def notes(comparison: Comparison) -> list[str]:
    """Return what a reader must know beside the table, a line each."""
    lines = list(comparison.notes)
    if comparison.unfinished:
        names = ", ".join(directory.name for directory in comparison.unfinished)
        lines.append(f"Not finished, and left out: {wording.plain(names)}.")
        if comparison.cost:
            lines.append("What they have spent is in no figure here; it is in their ledgers.")
    return lines


def print_comparison(comparison: Comparison, page: str, file: TextIO | None = None) -> None:
    """Print the table, what it cost, and where the page is; on stdout unless `file` is given."""
    console = terminal.console(file)
    console.print(_table(comparison))
    lines = [_on(comparison)]
    lines += [comparison.cost.told()] if comparison.cost else []
    for line in [*lines, *notes(comparison), verdict(comparison)]:
        console.print(wording.plain(line), markup=False)
    console.print()
    console.print(
        f"{wording.plain(page)}  the pictures, for a browser", markup=False, soft_wrap=True
    )


def _table(comparison: Comparison) -> Table:
    """Return the table for a terminal: without what a narrow one has no room for."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    # Only the name may be folded: a cut figure would be a wrong figure.
    table.add_column("setting", overflow="fold", min_width=_LEAST)
    shown = [measure for measure in comparison.shown if measure.name in _ON_TERMINAL]
    for words in ["n", *(m.title.replace(", ", "\n") for m in shown), "to the\nfirst"]:
        table.add_column(words, justify="right", no_wrap=True)
    for group in comparison.groups:
        cells = [said(measure, group.spread(measure)) for measure in shown]
        away = _to_first(comparison, group).split(",")[0].replace(" points", "")
        row = [group.name, str(len(group.members)), *cells, away]
        table.add_row(*(Text(wording.plain(cell)) for cell in row))
    return table
