"""The inputs in a file, for a bundle: read as its run read records, without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite import data
from fedlite.data.archive import Arrays
from fedlite.data.sources.texts import read_column
from fedlite.data.usage import reading_of
from fedlite.inference.tokenized import KIND
from fedlite.scenario.tabular import Columns

_TABLES = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
_TABLES |= dict.fromkeys((".jsonl", ".ndjson"), "jsonl")
# The column of texts where the run's own have none, as those of the catalog.
_TEXT = "text"


def read_inputs(told: Mapping[str, Any], path: Path, text: str = "") -> NDArray[Any] | list[str]:
    """Return the inputs of a file, [n, *shape], not scaled yet; a missing value is NaN.

    Of a model of texts it is a list of them, as they stand there.

    told: the model's own description, as `fedlite.data.usage` made it, with its `shape`, and with
    `preprocessing` where it reads texts. path: a table with the columns that the model reads, in
    any order, or a `.npz` file with `x`. text: the column of the texts, where its name is another.

    Raises ValueError naming file, column, rule, value and mend.
    """
    shape = tuple(map(int, told["shape"]))
    if not path.is_file():
        raise ValueError(f"{path}: no such file; name a table, or a .npz file with the array x")
    how = told.get("preprocessing", {})
    if how.get("kind") == KIND:
        return _texts(path, text or str(how["column"]) or _TEXT)
    if text:
        raise ValueError(
            f"--text: must be left out for a model that reads no texts, got {text!r}; leave it out"
        )
    if path.suffix.lower() == ".npz":
        return _array(told, path, shape)
    kind = _TABLES.get(path.suffix.lower(), "csv")
    reading = reading_of(told) or Columns()
    if not reading.names:
        raise ValueError(
            f"{path}: must be a .npz file with the array x [n, {', '.join(map(str, shape))}] for a "
            "model that reads no named columns; write one with numpy.savez"
        )
    rows = data.find(kind).rows
    if rows is None:
        raise ValueError(f"{path}: must be a table, got {kind}; name another file")
    there = rows(str(path), Columns(), (), False).header
    for name in reading.names:
        if name not in there:
            raise ValueError(
                f"{path}: must have the column {name!r}, which the model reads, has "
                f"{', '.join(there) or 'none'}; add it, or leave it empty where it is missing"
            )
    source = data.load(
        kind,
        path=str(path),
        shape=shape,
        labels=tuple(map(str, told["labels"])),
        columns=replace(reading, ranges=()),
        settled=True,
        answered=False,
    )
    if not len(source.train):
        raise ValueError(f"{path}: must hold at least one record, holds none; name another file")
    return source.train.x


def _texts(path: Path, column: str) -> list[str]:
    rows = data.find(_TABLES.get(path.suffix.lower(), "csv")).rows
    if rows is None or path.suffix.lower() == ".npz":
        raise ValueError(
            f"{path}: must be a table with the texts in the column {column!r}, got "
            f"{path.suffix or 'another file'}; write a .jsonl, a .csv or a .parquet file"
        )
    found = read_column(rows(str(path), Columns(), (), False), column)
    if not found:
        raise ValueError(f"{path}: must hold at least one text, holds none; name another file")
    return found


def _array(told: Mapping[str, Any], path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    file = Arrays(str(path))
    there = file.headers()
    if "x" not in there:
        raise ValueError(
            f"{path}: must hold the array 'x', holds {', '.join(there) or 'none'}; add it"
        )
    held, dtype = there["x"]
    if dtype.kind not in "fiub" or not held or math.prod(held[1:]) != math.prod(shape):
        raise ValueError(
            f"{path}: x must be numbers of shape [n, {', '.join(map(str, shape))}], got {dtype} "
            f"{list(held)}; reshape it"
        )
    found: NDArray[Any] = file.read("x").reshape(-1, *shape)
    # As the run itself has read bytes of its own.
    if dtype == np.uint8 and told["scaling"] == "source" and told["source"] == "own":
        return found.astype(np.float32) / np.float32(255)
    return found
