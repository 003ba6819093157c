"""What a run has read, in figures: for its first lines and, in a simulation, for its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedlite.data.dataset import SiteData, Source


def overview(source: Source, sites: Sequence[SiteData]) -> dict[str, Any]:
    """Return plain values: how many records of which shape, the classes, what each site holds.

    `missing` is the share of the training records' cells that are missing, `classes` counts their
    labels, `targets` names the numbers that are answered instead, `sites` maps a name to how many
    records it trains on and how many it holds out.

    These are exact counts of records: they are for whoever may see the records themselves.
    """
    classes, counts = source.train.classes, np.zeros(0, np.int64)
    if classes is not None:
        counts = np.bincount(classes, minlength=source.classes)
    return {
        "name": source.name,
        "records": len(source.train),
        "test_records": 0 if source.test is None else len(source.test),
        "shape": list(source.shape),
        "missing": float(np.isnan(source.train.x).mean()) if len(source.train) else 0.0,
        "classes": dict(zip(source.labels, counts.tolist(), strict=False)),
        "targets": list(source.labels) if classes is None else [],
        "sites": {site.name: [len(site.train), len(site.test)] for site in sites},
        "warnings": [] if classes is None else look_alikes(source.labels),
    }


def look_alikes(labels: Sequence[str]) -> list[str]:
    """Return a warning for each set of labels that a person would take for one.

    >>> look_alikes(["NO", "Yes", "yes"])
    ["The labels 'Yes' and 'yes' differ in case only and are 2 classes."]
    """
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(" ".join(label.casefold().split()), []).append(label)
    return [
        f"The labels {', '.join(map(repr, found[:-1]))} and {found[-1]!r} differ in case only and "
        f"are {len(found)} classes."
        for found in alike.values()
        if len(found) > 1
    ]
