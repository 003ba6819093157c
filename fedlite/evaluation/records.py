"""The records that a trained model is to answer: of a file, or those that its run held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite import data, plan as plans
from fedlite.data import Dataset, SiteData, Source
from fedlite.data.cells import SITE_COLUMN
from fedlite.data.rows import Reader
from fedlite.data.spread import filled, share_out
from fedlite.data.standardization import standardize
from fedlite.evaluation.arrays import read_arrays
from fedlite.evaluation.trained import Trained
from fedlite.scenario.records import OWN
from fedlite.scenario.tabular import Columns, Ranges, names

_WHOLE = "all"
# The sources whose readers read a file, by its ending; every other file is a CSV file.
_ENDINGS = {".npz": "npz", ".parquet": "parquet", ".pq": "parquet"}
_ENDINGS |= dict.fromkeys((".jsonl", ".ndjson"), "jsonl")
_SAVED = ("state.json", "dataset_dict.json")


@dataclass(frozen=True)
class Records:
    """Records as the model reads them, and what tells them apart.

    answered: whether `data.y` is right; else it is 0. sites: whose each is, an index into
    `site_names`, int64 [n], or None. columns: further columns by name, a text a record. notes: what
    there is to say of them, a line each. where: what they are, for a person.
    """

    data: Dataset
    answered: bool
    sites: NDArray[np.int64] | None
    site_names: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    where: str

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.data)


def read(
    trained: Trained,
    path: Path,
    *,
    answered: bool = True,
    columns: Sequence[str] = (),
    target: str = "",
    text: str = "",
    scale_by: Path | None = None,
) -> Records:
    """Return the records of a file or folder, scaled as a site of the run would scale them.

    It may be what any source of one's own reads: a CSV, Parquet or JSON Lines file, arrays in a
    `.npz`, a data set as the Hugging Face library saves it, or a folder of pictures.

    Texts may be in a `.jsonl` or `.parquet` file, too; each of them is answered, in their order.

    answered: whether the file has what the model should answer. columns: further columns to keep.
    target, text: the columns that have it, and the texts, where they are not called as in training.
    scale_by: records by
    whose statistics each site scales, where the run's sites used their own; None: by those of the
    file itself.

    A `.npz` holds `x` [n, *shape], `y` [n] (class numbers or names; numbers [n, width]) where it is
    answered, and perhaps `site` and further columns of text or numbers, [n] each.

    Raises ValueError naming file, column, rule, value and mend.
    """
    if not path.exists():
        raise ValueError(
            f"{path}: no such file; name a CSV file, or another that `data.name` reads"
        )
    if target:
        trained = replace(trained, target=target)
    if text:
        if trained.texts is None:
            raise ValueError(
                f"--text: must be left out for a model that reads no texts, got {text!r}; leave it "
                "out"
            )
        trained = replace(trained, texts=replace(trained.texts, column=text))
    load = _of_texts if trained.texts else _load
    source, kept = load(trained, path, answered, columns)
    notes = [note for note in source.notes if "target_ranges" not in note]
    own = trained.scenario.data.path
    if answered and own and path.resolve() == Path(own).resolve():
        notes.append(
            "these are the records of the run itself, most of which it has trained on: it does "
            "better on them than on others (without FILE those that it held out are taken)"
        )
    if not len(source.train):
        raise ValueError(f"{path}: must hold at least one record, holds none; name another file")
    other = None
    if trained.scaling == "site" and source.train.raw:
        if scale_by is not None:
            other = _load(trained, scale_by, False, ())[0]
        notes.append(_scaled_by(path, source, other))
    elif scale_by is not None:
        raise ValueError(
            "--scale-by: must be left out for a model whose features are scaled by "
            f"{_rule(trained)} and not by each site's own records, got {scale_by}; leave it out"
        )
    found = _scaled(trained, source, other)
    return Records(
        found, answered, source.groups, source.group_names, kept, tuple(notes), str(path)
    )


def held_out(trained: Trained, columns: Sequence[str] = ()) -> Records:
    """Return the records that the run's own scenario holds out: those that its summary scores.

    columns: further columns of a table of one's own to keep.

    Raises ValueError where they are not on this machine, or have no such column.
    """
    if trained.scenario.data.at_sites:
        raise ValueError(
            "FILE: must be given for a run whose records are at the sites only; name a CSV file "
            "with the columns that model.json lists"
        )
    scenario = trained.scenario
    _, source, sites = plans.simulated(scenario)
    if columns and source.reading is not None:
        more = _texts(_open(scenario.data.name, scenario.data.path), columns)
        train = replace(source.train, more={name: np.array(of) for name, of in more.items()})
        federation, source = scenario.federation, replace(source, train=train)
        # Where a record goes is settled by itself: with further columns it goes there, too.
        sites = share_out(
            source,
            scenario.data,
            federation.sites,
            federation.seed,
            private=scenario.private,
            calibration=scenario.inference.calibration,
        )
    if source.test is not None:
        where = f"the test set of {source.name}"
        return Records(source.test, True, None, (), {}, (), where)
    parts = [(at, site.test) for at, site in enumerate(sites) if len(site.test)]
    kept = {
        name: np.concatenate([part.columns[name] for _, part in parts])
        for name in parts[0][1].columns
    }
    named = {name: tuple(map(str, kept.pop(name))) for name in columns if name in kept}
    return Records(
        Dataset(kept.pop("x"), kept.pop("y"), more=kept),
        True,
        np.concatenate([np.full(len(part), at) for at, part in parts]),
        tuple(site.name for site in sites),
        named,
        (),
        f"the sites' held-out records of {source.name}",
    )


def _load(
    trained: Trained, path: Path, answered: bool, columns: Sequence[str]
) -> tuple[Source, dict[str, tuple[str, ...]]]:
    """Return the records of a file or folder, not scaled yet, and these further columns as text."""
    if path.is_dir():
        kind = "hf" if any((path / name).is_file() for name in _SAVED) else "images"
    else:
        kind = _ENDINGS.get(path.suffix.lower(), "csv")
    if kind == "npz":
        return read_arrays(trained, path, answered, columns)
    return (_pictures if kind == "images" else _table)(trained, path, kind, answered, columns)


def _pictures(
    trained: Trained, path: Path, kind: str, answered: bool, columns: Sequence[str]
) -> tuple[Source, dict[str, tuple[str, ...]]]:
    if columns:
        raise ValueError(
            f"{path}: must have the column {columns[0]!r}, and pictures have none; name another "
            "file, or leave it out"
        )
    shape = tuple(trained.model.shape)
    source = data.load(
        kind, path=str(path), shape=shape, labels=trained.labels, settled=True, answered=answered
    )
    return _as_read(trained, path, source), {}


def _as_read(trained: Trained, path: Path, source: Source) -> Source:
    """Return pictures; raises ValueError where the model reads other numbers than from 0 to 1."""
    if trained.scaling != "source" or not trained.scenario.classifies:
        raise ValueError(
            f"{path}: must hold numbers as the run's own records did, which were no pictures, got "
            "pictures; name another file"
        )
    return source


def _open(kind: str, path: str) -> Reader:
    """Return what gives the rows of a table, all columns of it."""
    rows = data.find(kind).rows
    if rows is None:
        raise ValueError(f"{path}: must be a table, got {kind}; name another file")
    return rows(path, Columns(), (), False)


def _table(
    trained: Trained, path: Path, kind: str, answered: bool, columns: Sequence[str]
) -> tuple[Source, dict[str, tuple[str, ...]]]:
    file = _open(kind, str(path))
    there = file.header
    reading = trained.reading or Columns()
    if not reading.names:
        if len(trained.model.shape) > 1 and trained.scenario.data.name not in OWN and kind != "hf":
            raise ValueError(
                f"{path}: must be a .npz file for a model of records of shape "
                f"{list(trained.model.shape)}, whose columns have no names; write the arrays x and "
                "y into one with numpy.savez"
            )
        left = [trained.target, *columns] if not answered else list(columns)
        reading = replace(reading, drop=tuple(name for name in left if name in there))
    for name in reading.names:
        if name not in there:
            raise ValueError(
                f"{path}: must have the column {name!r}, which the model reads, has "
                f"{', '.join(there) or 'none'}; add it, or leave it empty where it is missing"
            )
    if answered and not trained.target:
        raise ValueError(
            f"--target: must name the column of {path} that has the label, which the run does not "
            f"say; it is one of {', '.join(there)}"
        )
    for name in names(trained.target) if answered else ():
        if name not in there:
            raise ValueError(
                f"{path}: must have the column {name!r}, which the model answers, has "
                f"{', '.join(there) or 'none'}; add it, or name another by --target"
            )
    owner = trained.scenario.data.partition_column
    reading = replace(reading, owner=owner if owner in there else SITE_COLUMN)
    if kind == "jsonl":
        # Its records say which columns there are, as nobody else does.
        others = {*reading.drop, *names(trained.target), SITE_COLUMN, reading.owner}
        features = reading.names or tuple(name for name in there if name not in others)
        grouped = reading.owner in there
        reading = replace(reading, names=features, drop=(), grouped=grouped)
    settings: dict[str, Any] = {"answered": answered, "settled": True}
    source = data.load(
        kind,
        path=str(path),
        target=trained.target,
        shape=tuple(trained.model.shape),
        labels=() if answered and trained.scale is not None else trained.labels,
        columns=reading,
        task=trained.scenario.task.reads,
        target_ranges=_target_ranges(trained),
        **settings,
    )
    if not source.train.raw:
        source = _as_read(trained, path, source)
    elif trained.scaling == "source":
        source = replace(source, train=_as_given(source.train))
    return source, _texts(file, columns)


def _of_texts(
    trained: Trained, path: Path, answered: bool, columns: Sequence[str]
) -> tuple[Source, dict[str, tuple[str, ...]]]:
    if trained.texts is None:
        raise ValueError(f"{path}: must be read by a model of texts")
    kind = "hf" if path.is_dir() else _ENDINGS.get(path.suffix.lower(), "csv")
    file = _open(kind, str(path))
    there = file.header
    column = trained.texts.column or "text"
    if answered and not trained.target and trained.scenario.classifies:
        raise ValueError(
            f"--target: must name the column of {path} that has the label, which the run does not "
            f"say; it is one of {', '.join(there)}"
        )
    source = data.load(
        kind,
        path=str(path),
        target=trained.target,
        texts=replace(trained.texts, column=column),
        labels=() if trained.scale is not None else trained.labels,
        task=trained.scenario.task.reads,
        target_ranges=_target_ranges(trained),
        answered=answered,
        settled=True,
    )
    return source, _texts(file, columns)


def _texts(file: Reader, columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return these columns as their text, a record each: what is no feature tells groups apart.

    Raises ValueError when a column is not there, or a row cannot be read.
    """
    for name in columns:
        if file.header.count(name) != 1:
            raise ValueError(
                f"{file.path}: must have one column {name!r}, has "
                f"{', '.join(file.header) or 'none'}; name one of these"
            )
    places = [file.header.index(name) for name in columns]
    kept: list[list[str]] = []
    for _, row, _ in file.rows(columns):
        if isinstance(row, ValueError):
            raise row
        kept.append([row[place].strip() for place in places])
    return {name: tuple(row[at] for row in kept) for at, name in enumerate(columns)}


def _target_ranges(trained: Trained) -> Ranges:
    if trained.scale is None:
        return ()
    low, high = trained.scale
    return tuple(
        (name, float(a), float(b)) for name, a, b in zip(trained.labels, low, high, strict=True)
    )


def _as_given(part: Dataset) -> Dataset:
    return Dataset(np.nan_to_num(part.x).astype(np.float32), part.y)


def _scaled(trained: Trained, source: Source, other: Source | None) -> Dataset:
    """Return the records as the model reads them, in their order."""
    if not source.train.raw:
        return source.train
    if trained.scaling == "ranges" and source.ranges is None:
        raise ValueError(
            f"{trained.directory}/model.json: must say the range of the numbers that the model "
            "reads, and is of an earlier release; run the scenario again"
        )
    if trained.scaling != "site":
        empty = source.train.take(np.zeros(0, np.int64))
        return filled(SiteData(_WHOLE, empty, source.train), source.ranges).test
    x = np.empty(source.train.x.shape, np.float32)
    for name, rows in _by_site(source).items():
        part = source.train.take(rows)
        reference = part
        if other is not None:
            theirs = _by_site(other)
            reference = other.train.take(theirs.get(name, np.arange(len(other.train))))
        x[rows] = standardize(SiteData(name, reference, part)).test.x
    return Dataset(x, source.train.y)


def _by_site(source: Source) -> dict[str, NDArray[np.int64]]:
    if source.groups is None:
        return {_WHOLE: np.arange(len(source.train))}
    return {name: np.flatnonzero(source.groups == at) for at, name in enumerate(source.group_names)}


def _scaled_by(path: Path, source: Source, other: Source | None) -> str:
    if other is not None:
        return (
            f"features are scaled by the mean and spread of the {len(other.train):,} records of "
            "--scale-by, as a site scales by its own training records"
        )
    whose = "of each site in it" if source.groups is not None else "in it"
    fewest = min(len(rows) for rows in _by_site(source).values())
    told = (
        f"features are scaled by the mean and spread of the records {whose}, as each site of the "
        f"run scaled by its own; {path.name} has {len(source.train):,}"
    )
    few = "; so few say little of a site: --scale-by FILE names more of its records"
    return told + (few if fewest < 30 else "")


def _rule(trained: Trained) -> str:
    return {"ranges": "public ranges", "none": "nothing"}.get(trained.scaling, "its source")
