"""The report's section that sets a run beside other ways to train on the same sites."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlite.reporting import markup, wording
from fedlite.reporting.figures import BASELINES_PNG


def baselines_section(summary: Mapping[str, Any], figures: Path) -> list[str]:
    """Return the section; nothing when the run has no baselines.

    `figures` is the folder that holds the figure.
    """
    baselines = summary.get("baselines")
    if not baselines:
        return []
    metric = wording.METRICS.get(baselines["metric"], str(baselines["metric"]))
    found = dict.fromkeys(site for row in baselines["rows"] for site in row["by_site"])
    places = wording.in_order(found, summary["sites"])
    rows = [
        [
            row["name"],
            *(wording.score(row["by_site"].get(p)) for p in places),
            wording.score(row.get("mean")),
        ]
        for row in baselines["rows"]
    ]
    parts = [markup.heading("Beside other ways to train")]
    folds, repeats = baselines.get("folds"), baselines.get("repeats")
    how = f"{metric} on each site's own held-out records"
    if folds and repeats:
        how += f", {folds}-fold cross-validation, {wording.count(repeats, 'repeat')}"
    parts.append(
        markup.figure(
            figures / BASELINES_PNG,
            f"{metric} of every way to train, site by site; the figures are in the table below",
            f"{how}. Blue: federated. Bold: the best of a column.",
        )
    )
    parts.append(markup.table(["trained", *places, "mean"], rows, caption=how))
    exchange = baselines.get("exchange") or {}
    if exchange:
        rows_of = wording.in_order(exchange, summary["sites"])
        columns = dict.fromkeys(to for row in exchange.values() for to in row)
        tested = wording.in_order(columns, summary["sites"])
        values = {
            (source, to): value
            for source, row in exchange.items()
            for to, value in row.items()
            if value is not None
        }
        caption = f"A model trained at one site alone (row), tested at another (column): {metric}"
        parts.append(markup.matrix("trained at", rows_of, tested, values, caption))
    if baselines.get("note"):
        parts.append(markup.paragraph(str(baselines["note"]), "soft"))
    return parts
