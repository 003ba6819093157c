"""The last thing a run prints: one table, where the files are, and what to try next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fedlite.reporting import chance, kinds, markup, measures, routes, terminal, virtual, wording
from fedlite.reporting.formats import number_of
from fedlite.reporting.many import LEVELS, numbers, quantile

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

NAME = 24  # characters of a site's name that a terminal shows
SHOWN = 20  # of more sites than this a terminal shows the distribution
_LEVELS = ("lowest", "1/4 at most", "median", "3/4 at most", "highest")
FILES = {
    "report.html": "the report, for a browser",
    "figures": "the figures, PNG",
    "model.safetensors": "the model",
    "summary.json": "every figure of this table",
    "rounds.jsonl": "every round",
    "ledgers": "the privacy ledgers",
}


def as_json(summary: Mapping[str, Any]) -> str:
    """Return the summary as one JSON object; raises ValueError when a figure is not finite."""
    return json.dumps(summary, indent=2, sort_keys=True, allow_nan=False)


def render(summary: Mapping[str, Any]) -> list[RenderableType]:
    """Return the table (a row per site and a total) and the line about bytes, as rich objects."""
    from rich.text import Text

    sent = summary["bytes"]
    up = wording.times(sent["up_ratio"])
    line = f"sent {up} {'as' if up.endswith('as much') else 'than'} dense float32"
    if sent["up_ratio"] <= 0:
        line = "sent nothing"
    if sent["down_ratio"] > 0:
        line += f", received {wording.times(sent['down_ratio'])}"
    parts: list[RenderableType] = [_table(summary), Text(line)]
    if why := wording.unmeasured(summary):
        parts.append(Text(why))
    else:
        told = [*_right(summary), *wording.measured_on(summary)]
        parts.append(Text(wording.plain(" ".join(told))))
    if no_better := chance.told(summary):
        parts.append(Text(no_better, style="bold"))
    parts += [Text(line) for line in (*kinds.told(summary), *virtual.told(summary))]
    if chosen := wording.selected(summary):
        parts.append(Text(" ".join(chosen)))
    if summary.get("inference"):
        parts.append(Text(wording.plain(routes.verdict(summary["inference"]))))
    privacy = summary["privacy"]
    if privacy.get("unit", "none") != "none" and not wording.claimed(privacy):
        parts.append(Text("no privacy is claimed: noise was seeded", style="bold"))
    if rests := wording.rests_on(privacy):
        parts.append(Text(f"epsilon holds {rests}", style="bold"))
    if text := " ".join(filter(None, (wording.spent(summary), wording.prefix(privacy)))):
        parts.append(Text(text))
    if text := wording.spoilt(summary):
        parts.append(Text(text, style="bold red"))
    over = wording.overspent(privacy) if wording.claimed(privacy) else []
    if over:
        names = ", ".join(map(wording.plain, over))
        parts.append(Text(f"the privacy budget is exceeded at {names}", style="bold red"))
    return parts


def _right(summary: Mapping[str, Any]) -> list[str]:
    """Return the accuracy where the table's columns are those of another score."""
    first, quality = measures.part_of(summary)[0], summary["accuracy"]
    branches = [b for b in measures.BRANCHES if number_of(quality.get(b)) is not None]
    if first.key == "accuracy" or not branches:
        return []
    found = [wording.share(quality[b]) + (f" {b}" if len(branches) > 1 else "") for b in branches]
    return [f"The accuracy is {', '.join(found)}."]


def print_summary(
    summary: Mapping[str, Any],
    directory: Path,
    file: TextIO | None = None,
    next_command: str | None = None,
) -> None:
    """Print the table, the files that `directory` holds, and the next command to try.

    `file` is stdout unless given.
    """
    from rich.text import Text

    console = terminal.console(file)
    for part in render(summary):
        console.print(part)
    console.print()
    there = [name for name in FILES if (directory / name).exists()]
    width = max((len(str(directory / name)) for name in there), default=0)
    for name in there:
        shown = wording.plain(directory / name).ljust(width)
        console.print(Text.assemble(shown, (f"  {FILES[name]}", "dim")), soft_wrap=True)
    if next_command:
        console.print()
        console.print(Text.assemble(("Next: ", "bold"), next_command), soft_wrap=True)


def _table(summary: Mapping[str, Any]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    first, quality = measures.part_of(summary)
    branches = measures.branches(summary)
    privacy, sites, sent = summary["privacy"], summary["sites"], summary["bytes"]
    private, claimed = privacy.get("unit", "none") != "none", wording.claimed(privacy)
    table = Table(
        title=wording.plain(f"{summary['scenario']}, seed {summary['seed']}"),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    # Only this column may shrink on a narrow terminal: a cut figure would be a wrong figure.
    table.add_column("site", overflow="fold")
    table.add_column("held\nout", justify="right", no_wrap=True)
    for branch in branches:
        name = f"{first.name}\n{branch}" if len(branches) > 1 else first.name.replace(" ", "\n", 1)
        table.add_column(name, justify="right", no_wrap=True)
    if private:
        table.add_column("epsilon\nof budget", justify="right", no_wrap=True)
    table.add_column("sent\nup", justify="right", no_wrap=True)
    table.add_column("sent\ndown", justify="right", no_wrap=True)

    held, by_site = summary["accuracy"].get("by_site"), quality.get("by_site")
    columns = [(held, "records", markup.integer), *((by_site, b, first.say) for b in branches)]
    # Sites that hold nothing out and spend no budget have no row of their own to fill.
    shown = sites if by_site or private else []
    if len(shown) > SHOWN:
        for level in _LEVELS:
            row = [_cell(level)]
            for part, key, put in columns:
                values = numbers(wording.branch(part, site, key) for site in sites)
                row.append(_cell(put(quantile(values, LEVELS[level]))))
            table.add_row(*row, style="dim")
        shown = []
    for site in shown:
        row = [_cell(_short(site))]
        row += [_cell(put(wording.branch(part, site, key))) for part, key, put in columns]
        if private:
            row.append(_cell(_spent(privacy.get("sites", {}).get(site), claimed)))
        table.add_row(*row)
    table.add_section()
    total = [
        _cell("all" if shown else f"all {len(sites):,} sites"),
        _cell(markup.integer(summary["accuracy"].get("records"))),
        *(_cell(first.say(quality.get(branch))) for branch in branches),
    ]
    if private:
        total.append(_cell(_highest(privacy) if claimed else "not claimed"))
    total += [_cell(wording.megabytes(sent[way])) for way in ("up", "down")]
    table.add_row(*total, style="bold")
    saved = [_cell(wording.factor(sent[f"{way}_ratio"])) for way in ("up", "down")]
    blank = [_cell("")] * (len(total) - 1 - len(saved))
    table.add_row(_cell("dense / sent"), *blank, *saved)
    return table


def _spent(row: Mapping[str, Any] | None, claimed: bool) -> str:
    if row is None:
        return wording.ABSENT
    if not claimed:
        return "not claimed"
    loss = wording.epsilon(row.get("epsilon", {}).get("pld"))
    return f"{loss} / {wording.budget(row.get('budget'))}"


def _highest(privacy: Mapping[str, Any]) -> str:
    return f"at most {wording.epsilon(wording.worst(privacy))}"


def _short(name: str) -> str:
    return name if len(name) <= NAME else name[: NAME - 1] + "…"


def _cell(text: object) -> Text:
    from rich.text import Text

    # A Text and not a string: brackets in a site's name must not be read as rich markup.
    return Text(wording.plain(text))
