"""What a run has read, in figures: for its first lines and, in a simulation, for its record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedlite.data.dataset import SiteData, Source
from fedlite.data.shares import Shares, lengths
from fedlite.scenario.texts import NLL

# So many columns are named.
_TOLD = 10


def overview(source: Source, sites: Sequence[SiteData]) -> dict[str, Any]:
    """Return plain values: how many records of which shape, the classes, what each site holds.

    `missing` is the share of the training records' cells that are missing, `classes` counts their
    labels, `targets` names the numbers that are answered instead, `sites` maps a name to how many
    records it trains on and how many it holds out. `calibration`, where there are such, is the
    number of records, of all sites, with which neither is done.

    These are exact counts of records: they are for whoever may see the records themselves.
    """
    classes, counts = source.train.classes, np.zeros(0, np.int64)
    if classes is not None:
        counts = np.bincount(classes, minlength=source.classes)
    found = lengths(sites)
    kept = sum(calibration for _, _, calibration in found.values())
    told = {"calibration": kept} if kept else {}
    return told | {
        "name": source.name,
        "records": len(source.train),
        "test_records": 0 if source.test is None else len(source.test),
        "shape": list(source.shape),
        "texts": source.train.x.dtype == np.int64 and source.shape[:1] == (2,),
        "missing": float(np.isnan(source.train.x).mean()) if len(source.train) else 0.0,
        "classes": dict(zip(source.labels, counts.tolist(), strict=False)),
        "targets": list(source.labels) if classes is None else [],
        "sites": {name: [train, test] for name, (train, test, _) in found.items()},
        "warnings": [] if classes is None else look_alikes(source.labels),
    }


def idle(source: Source, sites: Shares) -> str:
    """Return which named columns hold one value, or none, in what all sites train on; "" for none.

    No model learns from them. One record may decide it: for whoever may see the records themselves.
    """
    width = math.prod(source.shape)
    if len(source.features) != width:
        return ""
    places = np.concatenate([train for train, _, _ in sites.places])
    if not len(places):
        return ""
    x = source.train.x.reshape(-1, width)
    empty, constant = [], []
    for at, name in enumerate(source.features):
        values = x[places, at]
        seen = values[~np.isnan(values)]
        if not len(seen):
            empty.append(name)
        elif (seen == seen[0]).all():
            constant.append(name)
    told = [
        f"{what} in all that the sites train on: {', '.join(map(repr, found[:_TOLD]))}"
        + f" and {len(found) - _TOLD:,} more" * (len(found) > _TOLD)
        for what, found in (("empty", empty), ("of one value", constant))
        if found
    ]
    return "; ".join(told) + "; no model learns from that" * bool(told)


def division(source: Source, sites: Sequence[SiteData]) -> dict[str, Any]:
    """Return plain values: how many records of each class each site holds, held out ones included.

    `sites` and `columns` name rows and columns of `counts`. Where labels are several, a record
    counts for each that it has; where numbers are answered, there is one column, of all records.
    `skew`, 0 to 1, is how far the mix of classes at a site is from that of all together (total
    variation distance, the mean over records); None where there are no classes.
    """
    parts = ((site.train, site.test, site.calibration) for site in sites)
    held = [np.concatenate([part.y for part in each if part is not None]) for each in parts]
    columns, skew = list(source.labels), None
    if source.train.classes is not None:
        counts = np.array([np.bincount(y, minlength=source.classes) for y in held])
        sizes, whole = counts.sum(axis=1), counts.sum(axis=0) / max(1, counts.sum())
        apart = np.abs(counts / np.maximum(1, sizes)[:, None] - whole).sum(axis=1) / 2
        skew = float((apart * sizes).sum() / max(1, sizes.sum()))
    elif source.scale is None and source.labels != (NLL,):
        counts = np.array([(y > 0).sum(axis=0) for y in held])
    else:
        columns, counts = ["records"], np.array([[len(y)] for y in held])
    return {
        "name": source.name,
        "sites": [site.name for site in sites],
        "columns": columns,
        "counts": counts.tolist(),
        "skew": skew,
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
