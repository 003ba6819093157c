"""The report's section on how good the model is at each site, or, of many, how they are spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedlite.reporting import markup, measures, wording
from fedlite.reporting.figures import SITES_PNG
from fedlite.reporting.many import LEVELS, MANY, numbers, quantile

# A column: its heading, what it holds of each site, what of all, and how a figure is put.
Column = tuple[str, Callable[[str], object], object, Callable[[object], str]]


def sites_section(summary: Mapping[str, Any], figures: Path) -> dict[str, object]:
    """Return what the template shows of the sites; `figures` is the folder of the figures."""
    names, columns = summary["sites"], _columns(summary)
    if summary.get("data", {}).get("at_sites"):
        told = ", ".join(map(str, names)) if len(names) <= MANY else f"{len(names):,} sites"
        why = wording.unmeasured(summary).capitalize()
        return {"title": "Site by site", "unmeasured": f"{why}. Took part: {told}."}
    held = wording.holding_out(summary)
    if not held:
        rows, caption = [], "No site holds records out"
    elif len(names) > MANY:
        rows = [
            [level, *(say(quantile(numbers(map(of, names)), at)) for _, of, _, say in columns)]
            for level, at in LEVELS.items()
        ]
        caption = f"Held-out records of {len(names):,} sites, never training data; each column by "
        caption += "itself"
    else:
        rows = [[site, *(say(of(site)) for _, of, _, say in columns)] for site in names]
        caption = "Held-out records, never training data"
    total = ["all", *("" if of is None else say(of) for _, _, of, say in columns)]
    head = ["" if len(names) > MANY or not held else "site", *(heading for heading, *_ in columns)]
    notes = wording.measured_on(summary)
    if summary.get("home_head"):
        notes.append("A home head is fitted at the site after training and is never sent.")
    return {
        "title": "Site by site" if held else "Scores",
        "unmeasured": "",
        "table": markup.Table(head, rows, total, caption),
        "notes": " ".join(notes),
        "figure": held
        and markup.figure(
            figures / SITES_PNG,
            "how many sites have which score",
            "Sites by their score. One that holds out few records is far from the rest by chance.",
        ),
    }


def _columns(summary: Mapping[str, Any]) -> list[Column]:
    parts, branches = measures.measured(summary), measures.branches(summary)
    found = [_column("records", summary["accuracy"], "records", markup.integer)]
    for one in reversed(measures.ranked(parts)):
        for branch in branches:
            heading = f"{one.name}, {branch}" if len(branches) > 1 else one.name
            found.append(_column(heading, parts[one.key], branch, one.say))
    for metric, values in (summary.get("home_head") or {}).items():
        if isinstance(values, Mapping):
            one, of = measures.measure(str(metric)), values.get("by_site", values).get
            found.append((f"{one.name}, home head", of, None, one.say))
    return found


def _column(
    heading: str, part: Mapping[str, Any], key: str, say: Callable[[object], str]
) -> Column:
    by_site = part.get("by_site") or {}
    return heading, lambda site: wording.branch(by_site, site, key), part.get(key), say
