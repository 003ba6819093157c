"""What has to be known to give records to a trained model; it goes into `model.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data.answers import limits_of
from fedlite.data.dataset import Source
from fedlite.data.text.tokens import digest_of
from fedlite.registry import label
from fedlite.scenario import Scenario, tabular
from fedlite.scenario.records import OWN
from fedlite.scenario.tabular import Columns
from fedlite.scenario.texts import Texts

# How features are scaled, for whoever has the model and nothing else.
HOW = {
    "site": "each site centres and divides every feature by mean and standard deviation of its own "
    "training records, which it tells nobody: do so with records of your own; a missing value is "
    "then 0",
    "ranges": "the lowest value of a column's range becomes -1, the highest 1, what lies beyond is "
    "cut, and a missing value is 0",
    "none": "features stand as they are, and a missing value is 0",
    "source": "features are as the source gives them",
    "text": "a text is redacted as `text` says, made into tokens by that tokenizer and no other, "
    "and cut or filled to so many of them; under the tokens stands a mask, 0 where they fill",
}


def usage(scenario: Scenario, source: Source | None) -> dict[str, Any]:
    """Return what to read, how it is scaled, and what is answered, ready for JSON.

    source: the records, None where they are at sites only. Nothing in it is taken from private
    records: what is answered then stands in the scenario, and a private table is read by its
    header and the scenario alone (`settled` in `fedlite.data.sources.table.load_table`).

    >>> from fedlite.scenario import from_dict
    >>> data = {"name": "csv", "labels": "no, yes", "columns": "age, sex", "categories": "sex: f,m"}
    >>> found = usage(from_dict({"data": data}), None)
    >>> found["labels"], found["features"], found["scaling"]
    (['no', 'yes'], ['age', 'sex=f', 'sex=m'], 'site')
    """
    data = scenario.data
    open_records = None if scenario.private and data.own else source
    if open_records is not None:
        labels, scale = open_records.labels, open_records.scale
    else:
        labels = scenario.answers
        scale = limits_of(data.targets, tabular.ranges(data.target_ranges))
    reading = data.reading if source is None else source.reading
    found: dict[str, Any] = {"source": "own" if data.own else data.name, "labels": list(labels)}
    if data.own and data.target:
        found["target"] = data.target
    if scale is not None:
        found["scale"] = scale.tolist()
    if reading is not None and reading.names:
        found["columns"] = [_column(name, reading) for name in reading.names]
        found["features"] = list(reading.features)
        found["missing"] = list(reading.missing)
    elif source is not None and source.features:
        found["features"] = list(source.features)
    if data.name == "npz" and data.ranges:
        found["range"] = list(data.reading.ranges[0][1:])
    if data.tokenizer:
        found["text"] = _text(data.texts)
    found["scaling"] = _scaling(scenario, source)
    found["how"] = HOW[found["scaling"]]
    return found


def reading_of(told: Mapping[str, Any]) -> Columns | None:
    """Return how `usage` says that a table is read; None where it does not say."""
    features = tuple(told.get("features", ()))
    if "range" in told:
        low, high = map(float, told["range"])
        return Columns(ranges=(("", low, high),))
    if "columns" not in told:
        return Columns(names=features) if features else None
    columns = told["columns"]
    return Columns(
        names=tuple(one["name"] for one in columns),
        categories=tuple((one["name"], tuple(one["values"])) for one in columns if "values" in one),
        missing=tuple(told["missing"]),
        dates=tuple((one["name"], one["date"]) for one in columns if "date" in one),
        ranges=tuple((one["name"], *one["range"]) for one in columns if "range" in one),
    )


def ranges_of(reading: Columns, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the lowest and highest value of each feature, float64 [2, *shape]; see `reading_of`.

    What has no range, as what says which value a column of text holds, stands as it is.
    """
    if not reading.names:
        # One range without a name is that of all numbers of an array.
        return np.stack([np.full(shape, end) for end in reading.ranges[0][1:]])
    limits = {name: (low, high) for name, low, high in reading.ranges}
    pairs = [limits.get(name, (-1.0, 1.0)) for name in reading.features]
    return np.array(pairs, np.float64).T.reshape(2, *shape)


def _text(texts: Texts) -> dict[str, Any]:
    # Of a folder only its own name: it may lie below a person's.
    name = texts.tokenizer.rpartition("/")[2]
    found: dict[str, Any] = {"column": texts.column, "tokenizer": name, "length": texts.length}
    found["digest"] = digest_of(texts.tokenizer)
    found["redact"] = list(texts.redact)
    found["redactor"] = label(texts.redactor)
    return found


def texts_of(told: Mapping[str, Any]) -> tuple[Texts, str] | None:
    """Return how `usage` says that a text is read, and its tokenizer's digest; None for no text."""
    if "text" not in told:
        return None
    text = told["text"]
    read = Texts(
        column=str(text["column"]),
        tokenizer=str(text["tokenizer"]),
        length=int(text["length"]),
        redact=tuple(map(str, text["redact"])),
        redactor=str(text["redactor"]),
    )
    return read, str(text["digest"])


def _scaling(scenario: Scenario, source: Source | None) -> str:
    if scenario.data.tokenizer:
        return "text"
    raw = scenario.data.name in OWN if source is None else source.train.raw
    if not raw:
        return "source"
    return "ranges" if scenario.data.ranges else scenario.data.scaling


def _column(name: str, reading: Columns) -> dict[str, Any]:
    """Return a column: its values where it holds text, its format where it holds dates."""
    found: dict[str, Any] = {"name": name}
    listed, dated = dict(reading.categories), dict(reading.dates)
    if name in listed:
        found["values"] = list(listed[name])
    if name in dated:
        found["date"] = dated[name]
    # One range without a name is for every column of numbers, several are for each in turn.
    numbers = [one for one in reading.names if one not in listed]
    for at, (of, low, high) in enumerate(reading.ranges):
        alone = len(reading.ranges) == 1
        if name in numbers and (of == name or (not of and (alone or numbers[at] == name))):
            found["range"] = [low, high]
    return found
