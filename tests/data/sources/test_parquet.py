"""Parquet files that are not what they say; `test_same_table` holds what is read of good ones."""

from __future__ import annotations

import datetime
import decimal
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedlite.data import load
from fedlite.scenario.tabular import Columns

GOOD = {"a": [1.0, 2.5, None, 4.0], "y": ["no", "yes", "no", "yes"]}


def write(folder: Path, table: pa.Table, **options: object) -> Path:
    path = folder / "own.parquet"
    pq.write_table(table, path, **options)
    return path


def test_every_type_that_a_column_may_have_is_what_pyarrow_says(tmp_path: Path) -> None:
    day = datetime.date(1970, 1, 11)
    moment = datetime.datetime(1970, 1, 2, 12, tzinfo=datetime.UTC)
    columns = {
        "whole": pa.array([-3, 2**53, None], pa.int64()),
        "small": pa.array([0, 255, 7], pa.uint8()),
        "half": pa.array(np.array([0.5, np.nan, 2], np.float16)),
        "single": pa.array([0.1, 1e30, None], pa.float32()),
        "exact": pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("-2.50")]),
        "truth": pa.array([True, False, None]),
        "nothing": pa.nulls(3),
        "day": pa.array([day, None, day]),
        "moment": pa.array([moment, None, moment], pa.timestamp("ns", tz="UTC")),
        "word": pa.array(["f", "m", None]).dictionary_encode(),
        "y": pa.array([1, 0, 1], pa.int8()),
    }
    path = write(tmp_path, pa.table(columns))
    settings = Columns(dates=(("day", ""), ("moment", "")), categories=(("word", ("f", "m")),))
    source = load("parquet", path=str(path), target="y", columns=settings)
    nan = np.nan
    expected = [
        [-3, 0, 0.5, np.float32(0.1), 1.25, 1, nan, 10, 1.5, 1, 0],
        [2.0**53, 255, nan, np.float32(1e30), nan, 0, nan, nan, nan, 0, 1],
        [nan, 7, 2, nan, -2.5, nan, nan, 10, 1.5, 0, 0],
    ]
    assert np.array_equal(source.train.x, np.array(expected, np.float64), equal_nan=True)
    assert source.labels == ("0", "1") and source.train.y.tolist() == [1, 0, 1]


def test_what_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    table = pa.table(GOOD | {"blob": [b"\xff" * 9] * 4, "deep": [[[1]], [], None, [[2, 3]]]})
    path = str(write(tmp_path, table))
    source = load("parquet", path=path, target="y", columns=Columns(names=("a",)))
    assert source.train.x.ravel()[:2].tolist() == [1.0, 2.5]
    for name in ("blob", "deep"):
        with pytest.raises(ValueError, match=rf"parquet, column '{name}': a column must hold numb"):
            load("parquet", path=path, target="y", columns=Columns(names=("a", name)))


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_is_named(tmp_path: Path, part: float) -> None:
    path = write(tmp_path, pa.table(GOOD))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ValueError, match=r"must name a file that is whole, got .*own.parquet"):
        load("parquet", path=str(path), target="y")


def test_changed_bytes_never_do_more_than_fail(tmp_path: Path) -> None:
    """Each is an error of one line, or a table: never another exception, nor much memory."""
    rng = np.random.default_rng(0)
    path = write(tmp_path, pa.table(GOOD), compression="zstd", write_page_checksum=True)
    content = np.frombuffer(path.read_bytes(), np.uint8)
    failed = 0
    for _ in range(300):
        changed = content.copy()
        places = rng.integers(4, len(content), rng.integers(1, 6))
        changed[places] = rng.integers(0, 256, len(places))
        path.write_bytes(changed.tobytes())
        told = refused(str(path))
        failed += bool(told)
        assert "\n" not in told and str(path) in (told or str(path))
    assert failed > 100


def refused(path: str) -> str:
    try:
        load("parquet", path=path, target="y")
    except ValueError as error:
        return str(error)
    return ""


def test_a_text_that_is_no_utf8_spoils_its_own_row(tmp_path: Path) -> None:
    odd = pa.array([b"no", b"n\xf4", b"yes", b"no"]).view(pa.string())
    path = str(write(tmp_path, pa.table({"a": [1.0, 2.0, 3.0, 4.0], "y": odd})))
    with pytest.raises(ValueError, match=r"row 2, column 'y': the text must be UTF-8, got b'n"):
        load("parquet", path=path, target="y")
    source = load("parquet", path=path, target="y", labels=("no", "yes"), skip_wrong=True)
    assert source.train.x.ravel().tolist() == [1, 3, 4]


def test_a_small_file_that_says_that_it_is_huge_is_refused_unread(tmp_path: Path) -> None:
    """Runs of one value: 40 kB of file would be terabytes of cells."""
    path = tmp_path / "own.parquet"
    one = pa.table({"a": pa.array(np.zeros(1 << 20)).dictionary_encode(), "y": np.zeros(1 << 20)})
    with pq.ParquetWriter(path, one.schema) as out:
        for _ in range(3):
            out.write_table(one)
    assert path.stat().st_size < 100_000
    real = os.sysconf
    small = {"SC_PHYS_PAGES": 4096}
    with (
        mock.patch("os.sysconf", lambda name: small.get(name, real(name))),
        pytest.raises(ValueError, match=r"3,145,728 records of 2 columns, which take 0.0503"),
    ):
        load("parquet", path=str(path), target="y")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a,y\n1,no\n", r"which is text, it seems; a CSV file has name = \"csv\""),
        (b"\x1f\x8b123", r"which is a gzip file"),
        (b"", r"which is text, it seems"),
    ],
)
def test_another_file_is_named_as_what_it_is(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "own.parquet"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=told):
        load("parquet", path=str(path), target="y")
    with pytest.raises(ValueError, match=r"No such file"):
        load("parquet", path=str(tmp_path / "none"), target="y")
    with pytest.raises(ValueError, match=r"Is a directory"):
        load("parquet", path=str(tmp_path), target="y")
