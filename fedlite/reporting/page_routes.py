"""The report's section on which inputs leave early, and what that comes to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlite.reporting import markup, routes, wording
from fedlite.reporting.figures import ROUTES_PNG
from fedlite.reporting.many import MANY


def routes_section(summary: Mapping[str, Any], figures: Path) -> Mapping[str, object] | None:
    """Return what the template shows of it; None when the run calibrated nothing.

    `figures` is the folder that holds the figure.
    """
    told = summary.get("inference")
    if not told:
        return None
    said = {"verdict": routes.verdict(told), "told": _heard(told), "facts": _facts(told)}
    if "tested" not in told:
        return {**said, "figure": None, "sites": None, "classes": None}
    return {
        **said,
        "figure": markup.figure(
            figures / ROUTES_PNG,
            "accuracy against work at each threshold, and the one that was chosen",
            f"Every threshold of the grid on {told['on']}; the chosen one was found on others.",
        ),
        "sites": _sites(told["by_site"]),
        "classes": _classes(told["by_class"]),
    }


def _facts(told: Mapping[str, Any]) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = [("router", told["router"])]
    if "threshold" in told:
        found.append(("threshold", threshold(told["threshold"])))
        found.append(("calibration records", markup.integer(told["records"])))
    if "harm_at_most" in told:
        bounds = f"{told['harm_at_most']:,} harmed at most of {told['records_at_least']:,} at least"
        found.append(("tested under noise", bounds))
    if "auroc" not in told:
        return found
    areas = ", ".join(
        f"{name} {wording.score(area)}" for name, area in sorted(told["auroc"].items())
    )
    return [*found, ("AUROC of a right shallow answer", areas)]


def _heard(told: Mapping[str, Any]) -> str:
    """Return whose counts are missing, for a person; empty where none are."""
    said = told.get("told", {})
    parts = [f"{name} ({code})" for name, code in said.get("dropped", {}).items()]
    parts += [f"{name} (no answer)" for name in said.get("missing", [])]
    more = len(parts) - MANY
    shown = [*parts[:MANY], *([f"{more} more"] if more > 0 else [])]
    return f"Not among the counts: {', '.join(map(wording.plain, shown))}." if parts else ""


def threshold(value: float | None) -> str:
    """Return a threshold for a person."""
    return "all go deep" if value is None else f"{value:g}"


def _sites(sites: Mapping[str, Any]) -> markup.Table | None:
    measured = {name: row for name, row in sites.items() if "tested" in row}
    if not measured:
        return None
    broken = [name for name, row in measured.items() if row["violated"]]
    note = f"The promise is broken at {len(broken)} of {len(measured)} sites"
    caption = f"{note}; of a few records, one is much"
    shown = broken[:MANY] if len(measured) > MANY else measured
    rows = [
        [
            name,
            threshold(row["threshold"]),
            markup.integer(row["tested"]),
            wording.share(row["share_shallow"]),
            wording.share(row["harm"]),
            "yes" if row["violated"] else "no",
        ]
        for name, row in ((name, measured[name]) for name in shown)
    ]
    head = ["site", "threshold", "records", "leave early", "harmed", "above the promise"]
    return markup.Table(head, rows, caption=caption)


def _classes(classes: Mapping[str, Any]) -> markup.Table:
    ranked = sorted(classes.items(), key=lambda one: -one[1]["harm"])[:MANY]
    rows = [[name, markup.integer(c["records"]), wording.share(c["harm"])] for name, c in ranked]
    caption = "Harm by class, the most first: the promise is about all classes together"
    return markup.Table(["class", "records", "harmed"], rows, caption=caption)
