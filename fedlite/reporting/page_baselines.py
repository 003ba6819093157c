"""The report's section that sets a run beside other ways to train on the same sites."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlite.reporting import markup, measures, wording
from fedlite.reporting.figures import BASELINES_PNG
from fedlite.reporting.many import MANY


def baselines_section(summary: Mapping[str, Any], figures: Path) -> Mapping[str, object] | None:
    """Return what the template shows of them; None when the run has no baselines.

    `figures` is the folder that holds the figure. Of many sites only the mean is shown.
    """
    baselines = summary.get("baselines")
    if not baselines:
        return None
    metric = measures.measure(str(baselines["metric"])).name
    found = dict.fromkeys(site for row in baselines["rows"] for site in row["by_site"])
    places = wording.in_order(found, summary["sites"]) if len(found) <= MANY else []
    rows = [
        [
            row["name"],
            *(wording.score(row["by_site"].get(p)) for p in places),
            wording.score(row.get("mean")),
        ]
        for row in baselines["rows"]
    ]
    folds, repeats = baselines.get("folds"), baselines.get("repeats")
    how = f"{metric} on each site's own held-out records"
    if folds and repeats:
        how += f", {folds}-fold cross-validation, {wording.count(repeats, 'repeat')}"
    return {
        "figure": markup.figure(
            figures / BASELINES_PNG,
            f"{metric} of every way to train, site by site; the figures are in the table below",
            f"{how}. Blue: federated. Bold: the best of a column.",
        ),
        "table": markup.Table(["trained", *places, "mean"], rows, caption=how),
        "exchange": _exchange(baselines.get("exchange") or {}, summary["sites"], metric),
        "note": str(baselines.get("note") or ""),
    }


def _exchange(
    exchange: Mapping[str, Mapping[str, float | None]], order: list[str], metric: str
) -> markup.Matrix | None:
    columns = dict.fromkeys(to for row in exchange.values() for to in row)
    if not exchange or len(columns) > MANY:
        return None
    values = {
        (source, to): value
        for source, row in exchange.items()
        for to, value in row.items()
        if value is not None
    }
    caption = f"A model trained at one site alone (row), tested at another (column): {metric}"
    rows, tested = wording.in_order(exchange, order), wording.in_order(columns, order)
    return markup.matrix("trained at", rows, tested, values, caption)
