"""What a run has read, in words: a few lines before it starts, and a section of its report.

It is of the form that `fedlite.data.overview` gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlite.reporting import wording
from fedlite.reporting.many import span

_LISTED = 10


def read_section(read: Mapping[str, Any] | None) -> list[tuple[str, object]]:
    """Return names and values of what was read; nothing where the record does not hold it."""
    if not read:
        return []
    shape, missing = read["shape"], read.get("missing", 0.0)
    size = " x ".join(map(str, shape)) + (" columns" if len(shape) == 1 else " values")
    if read.get("texts"):
        size = f"up to {shape[-1]} tokens"
    records = f"{wording.count(read['records'], 'record')} of {size}"
    if missing:
        records += f", {wording.share(missing)} of their cells missing"
    test = read.get("test_records")
    return [
        ("data", f"{read['name']}, {records}"),
        ("test set", f"{wording.count(test, 'record')} more, held by no site" if test else None),
        ("classes", _classes(read["classes"], read["records"]) if read["classes"] else None),
        ("targets", ", ".join(read.get("targets", ())) or None),
        ("sites", _sites(read["sites"])),
        ("calibration", _calibration(read.get("calibration", 0))),
        ("beware", " ".join(read.get("warnings", ()))),
    ]


def _classes(counts: Mapping[str, int], records: int) -> str:
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    shares = {name: wording.share(counts[name] / max(1, records)) for name in ranked}
    common, rare = ranked[0], ranked[-1]
    if len(counts) <= _LISTED:
        told = ", ".join(f"{name} is {shares[name]}" for name in ranked)
    else:
        told = f"{len(counts):,}, the rarest, {rare}, is {shares[rare]}"
    return f"{told}; always answering {common} would be right for {shares[common]}"


def _calibration(records: int) -> str | None:
    if not records:
        return None
    return f"{wording.count(records, 'record')} of all sites, neither trained on nor scored"


def _sites(sizes: Mapping[str, tuple[int, int]]) -> str:
    if len(sizes) <= _LISTED:
        return ", ".join(f"{n} {train:,} + {held:,} held out" for n, (train, held) in sizes.items())
    train, held = (list(column) for column in zip(*sizes.values(), strict=True))
    told, bare = f"{len(sizes):,}, training on {span(train)} records and holding out", held.count(0)
    if bare == len(held):
        return f"{told} none"
    return f"{told} {span(held)}" + (f"; without any held out: {bare:,}" if bare else "")
