"""Handwritten digits, 8x8 (Alpaydin & Kaynak 1998), from the wheel of scikit-learn.

The file is read directly, since importing scikit-learn costs over a second.
"""

from __future__ import annotations

import gzip
import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fedlite.data.cache import read_cached, verify
from fedlite.data.dataset import Dataset, Source
from fedlite.data.entry import Entry
from fedlite.data.folds import stratified_folds

NAME = "digits"
CONTENT_SHA256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
CONTENT_BYTES = 1 << 20
SPLIT_SEED = 1797


def _file() -> Path | None:
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def available() -> bool:
    """Say whether scikit-learn is installed and brings the file."""
    file = _file()
    return file is not None and file.is_file()


def fetch() -> Path:
    """Return the path of the file inside scikit-learn; nothing is downloaded.

    Raises ValueError when scikit-learn is not installed.
    """
    file = _file()
    if file is None:
        raise ValueError(
            "digits: the data come with scikit-learn, which is not installed; "
            "run `pip install scikit-learn`"
        )
    return file


def load() -> Source:
    """Return 1,797 images (1, 8, 8) in [0, 1]: 1,437 to train, a fixed public test set of 360.

    The test set is one of five stratified folds drawn with a constant seed, so it is the same in
    every run and no scenario can choose it. Raises ValueError when the file is missing or altered.
    """
    file = fetch()
    with gzip.open(io.BytesIO(read_cached(file, name=NAME))) as archive:
        content = archive.read(CONTENT_BYTES)
    verify(content, CONTENT_SHA256, name=NAME, path=file)
    table = np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.float32)
    whole = Dataset(table[:, :64].reshape(-1, 1, 8, 8) / np.float32(16), table[:, 64].astype("i8"))
    fold = stratified_folds(whole.y, 5, np.random.default_rng(SPLIT_SEED))
    return Source(
        name=NAME,
        train=whole.take(np.flatnonzero(fold != 0)),
        test=whole.take(np.flatnonzero(fold == 0)),
        groups=None,
        group_names=(),
        shape=(1, 8, 8),
        classes=10,
        labels=tuple("0123456789"),
        origin=f"scikit-learn {file.name}, content sha256:{CONTENT_SHA256}",
    )


ENTRY = Entry(
    name=NAME,
    what="handwritten digits, 8x8 grey, 10 classes",
    records=1797,
    licence="BSD-3-Clause (scikit-learn); origin UCI, CC BY 4.0",
    size=57_523,
    how="comes with scikit-learn, nothing to fetch",
    load=load,
    fetch=fetch,
    available=available,
)
