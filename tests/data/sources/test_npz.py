"""Arrays against what numpy wrote, and files that are not what they say.

Covers fedlite/data/archive.py.
"""

from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite.data import find, load
from fedlite.data.spread import share_out, spread
from fedlite.scenario import Data, Federation, Scenario
from fedlite.scenario.tabular import Columns, ranges

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3))
Y = np.arange(12) % 3


def write(folder: Path, **arrays: Any) -> str:
    path = folder / "own.npz"
    np.savez(path, **arrays)
    return str(path)


def test_numbers_are_a_table_without_names(tmp_path: Path) -> None:
    path = write(tmp_path, x=X, y=Y, site=np.array(["b", "a"] * 6))
    source = load("npz", path=path)
    assert np.array_equal(source.train.x, X) and source.train.raw
    assert source.train.y.tolist() == Y.tolist() and source.labels == ("0", "1", "2")
    assert source.group_names == ("a", "b") and source.shape == (3,)
    assert source.groups is not None and source.groups.tolist() == [1, 0] * 6
    data = Data(name="npz", path=path, test_fraction=0.0)
    (site,) = share_out(source, data, 1, 1, private=False)
    expected = (X - X.mean(axis=0)) / X.std(axis=0)
    assert np.allclose(np.sort(site.train.x, axis=0), np.sort(expected, axis=0), atol=1e-6)


def test_bytes_are_pictures_and_one_public_range_scales_numbers(tmp_path: Path) -> None:
    pictures = RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    path = write(tmp_path, x=pictures, y=Y[:6])
    source = load("npz", path=path)
    assert source.shape == (1, 5, 4) and not source.train.raw
    assert np.array_equal(source.train.x[:, 0], pictures.astype(np.float32) / np.float32(255))
    flat = load("npz", path=path, shape=(20,), labels=("T", "U", "V"), settled=True)
    assert flat.shape == (20,) and flat.labels == ("T", "U", "V")
    given = load("npz", path=path, columns=Columns(ranges=ranges("0:51")))
    data = Data(name="npz", path=path, ranges="0:51", test_fraction=0.0)
    (site,) = share_out(given, data, 1, 1, private=False)
    cut = np.clip(pictures.astype(np.float64), 0, 51) * 2 / 51 - 1
    assert np.allclose(np.sort(site.train.x.ravel()), np.sort(cut.ravel()), atol=1e-6)


def test_text_is_a_class_and_must_be_a_listed_one(tmp_path: Path) -> None:
    path = write(tmp_path, x=X[:4], y=np.array(["no", "yes", "10", "2"]))
    source = load("npz", path=path)
    assert source.labels == ("2", "10", "no", "yes") and source.train.y.tolist() == [2, 3, 1, 0]
    with pytest.raises(ValueError, match=r"row 3, column 'y': an answer must be one of.*got '10'"):
        load("npz", path=path, labels=("no", "yes"))
    source = load("npz", path=path, labels=("yes", "no"), skip_wrong=True)
    assert source.train.y.tolist() == [1, 0] and np.array_equal(source.train.x, X[:2])


@pytest.mark.parametrize("missing", [np.nan, "", "NA", " None"])
def test_a_missing_label_is_no_class(tmp_path: Path, missing: Any) -> None:
    path = write(tmp_path, x=X[:4], y=np.array(["no", "yes", missing, "no"]))
    with pytest.raises(ValueError, match=r"row 3, column 'y': an answer must be one of"):
        load("npz", path=path)
    listed = ("no", "yes", str(missing).strip())
    assert load("npz", path=path, labels=listed).train.y.tolist() == [0, 1, 2, 0]


def test_numbers_and_several_labels_are_answered(tmp_path: Path) -> None:
    y = np.stack([np.arange(12.0), np.arange(12.0) * 10], axis=1)
    limits = ranges("0:10, 0:100")
    path = write(tmp_path, x=X, y=y)
    source = load("npz", path=path, task="regression", target="p, q", target_ranges=limits)
    assert source.labels == ("p", "q") and source.scale is not None
    assert np.allclose(source.train.y, y / [5, 50] - 1)
    with pytest.raises(ValueError, match=r"data.target must name its 2 columns, got 'p'"):
        load("npz", path=path, task="regression", target="p")
    source = load("npz", path=write(tmp_path, x=X, y=y % 2), task="multilabel")
    assert source.labels == ("y1", "y2") and source.train.y.tolist() == (y % 2).tolist()


def test_a_test_set_is_read_and_scaled_as_the_records_are(tmp_path: Path) -> None:
    path = write(tmp_path, x=X, y=Y, test_x=X[:5] + 1, test_y=Y[:5])
    data = Data(name="npz", path=path, test_fraction=0.0)
    source, _ = spread(Scenario(Federation(sites=2), data))
    assert source.test is not None and source.test.x.dtype == np.float32
    expected = (X[:5] + 1 - X.mean(axis=0)) / X.std(axis=0)
    assert np.allclose(source.test.x, expected, atol=1e-6)


def test_a_record_that_cannot_be_used_counts_as_absent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x = X.copy()
    x[3, 1], x[5, 0] = np.inf, np.nan
    site = np.array(["a"] * 11 + ["../b"])
    path = write(tmp_path, x=x, y=Y, site=site)
    with pytest.raises(ValueError, match=r"row 4, column 'x': numbers must fit into float32"):
        load("npz", path=path)
    with caplog.at_level(logging.WARNING):
        source = load("npz", path=path, labels=("0", "1", "2"), skip_wrong=True)
    assert len(source.train) == 10 and source.group_names == ("a",)
    assert np.isnan(source.train.x[4, 0]), "a missing value is no wrong one"
    assert [record.getMessage().split(", ")[1] for record in caplog.records] == ["row 4", "row 12"]


def test_one_record_less_changes_no_other(tmp_path: Path) -> None:
    """What a private site reads: no class, shape or scale follows from a record."""
    settings = {"labels": ("0", "1", "2"), "skip_wrong": True}
    whole = load("npz", path=write(tmp_path, x=X, y=Y), **settings)
    for row in range(12):
        path = write(tmp_path, x=np.delete(X, row, 0), y=np.delete(Y, row))
        less = load("npz", path=path, **settings)
        assert np.array_equal(less.train.x, np.delete(whole.train.x, row, 0))
        assert np.array_equal(less.train.y, np.delete(whole.train.y, row))
    with pytest.raises(ValueError, match=r"labels: must be set where records are private"):
        load("npz", path=write(tmp_path, x=X, y=Y), settled=True)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": X}, r"column 'y': the file must hold this array, got 'x'"),
        ({"x": X, "y": Y[:5]}, r"column 'y': an array must have 12 rows, as x has, got 5"),
        ({"x": np.array(["a"] * 12), "y": Y}, r"column 'x': an array must hold numbers"),
        ({"x": np.float64(3), "y": Y}, r"column 'x': an array must hold numbers"),
        ({"x": X.astype(complex), "y": Y}, r"column 'x': an array must hold numbers"),
        ({"x": X, "y": Y - 1}, r"row 1, column 'y': an answer must be one of"),
        ({"x": X, "y": Y + 0.5}, r"row 1, column 'y'|2 to 1000 classes"),
        ({"x": X, "y": Y * 5000}, r"2 to 1000 classes"),
        ({"x": X, "y": Y * 0}, r"2 to 1000 classes, as numbers from 0 or as text, got 1"),
        ({"x": X, "y": Y, "site": Y[:3]}, r"column 'site': it must hold text or whole numbers"),
        ({"x": X, "y": Y, "test_x": X}, r"column 'test_y': the file must hold this array"),
        ({"x": X, "y": Y, "test_x": X[:, :2], "test_y": Y}, r"column 'test_x': records must have"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    tmp_path: Path, arrays: dict[str, Any], told: str
) -> None:
    path = write(tmp_path, **arrays)
    with pytest.raises(ValueError, match=told) as caught:
        load("npz", path=path)
    assert path in str(caught.value) and ", got " in str(caught.value)


class Bomb:
    def __reduce__(self) -> Any:
        return (open, ("/tmp/fedlite-was-unpickled", "w"))


def _npy(shape: tuple[int, ...], dtype: str, content: bytes = b"") -> bytes:
    out = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + content


def _zip(folder: Path, **members: bytes) -> str:
    path = folder / "own.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return str(path)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = write(tmp_path, x=X, y=np.array([Bomb()] * 12, dtype=object))
    with pytest.raises(ValueError, match=r"y.npy holds Python objects, which are never loaded"):
        load("npz", path=path)
    assert not Path("/tmp/fedlite-was-unpickled").exists()


@pytest.mark.parametrize(
    ("shape", "dtype", "told"),
    [
        ((10**9, 1000), "|u1", r"must fit into half of this machine's memory"),
        ((10**12,), "<f8", r"must fit into half of this machine's memory"),
        ((2**62, 4), "<f8", r"must fit into half|that is whole"),
        ((-1, 3), "<f8", r"has the shape \(-1, 3\)"),
        ((12, 3), "<f8", r"that is whole.*x:"),
    ],
)
def test_what_an_array_claims_is_looked_at_first(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, told: str
) -> None:
    """12 rows of y and an x that says that it is huge: or says more than is there."""
    rows = shape[:1]
    path = _zip(tmp_path, x=_npy(shape, dtype, bytes(100)), y=_npy(rows, "<i8", bytes(8)))
    with pytest.raises(ValueError, match=told):
        load("npz", path=path)


@pytest.mark.long
def test_a_bomb_of_zeros_is_read_as_far_as_its_header_says(tmp_path: Path) -> None:
    huge = _npy((2, 1), "<f8", bytes(200_000_000))
    path = _zip(tmp_path, x=huge, y=_npy((2,), "<i8", np.array([0, 1]).tobytes()))
    assert Path(path).stat().st_size < 400_000
    source = load("npz", path=path)
    assert source.train.x.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 no zip", b"a,b\n1,2\n", bytes(1000)], ids=range(4)
)
def test_what_is_no_npz_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"path: must name a .npz file that is whole.*numpy.savez"):
        load("npz", path=str(path))
    with pytest.raises(ValueError, match=r"No such file"):
        load("npz", path=str(tmp_path / "none.npz"))


def test_other_members_and_the_same_twice_are_refused(tmp_path: Path) -> None:
    path = _zip(tmp_path, x=_npy((1, 1), "<f8", bytes(8)), y=_npy((1,), "<i8", bytes(8)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../evil.txt", "hello")
    with pytest.raises(ValueError, match=r"evil"):
        load("npz", path=path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", _npy((1, 1), "<f8"))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", _npy((1, 1), "<f8"))
    with pytest.raises(ValueError, match=r"or that twice"):
        load("npz", path=path)


def test_what_a_site_holds_is_counted(tmp_path: Path) -> None:
    look = find("npz").survey
    assert look is not None
    assert look(write(tmp_path, x=X, y=Y, group=Y % 2), "") == (12, 3, ("0", "1"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"columns": Columns(drop=("a",))}, r"columns: an array of .* has none"),
        ({"columns": Columns(ranges=ranges("a 0:1"))}, r"ranges: must be one LOW:HIGH"),
        ({"columns": Columns(owner="ward")}, r"partition_column must be an array in the file"),
        ({"shape": (7,)}, r"shape: must hold the 3 numbers of a record"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        load("npz", path=write(tmp_path, x=X, y=Y), **settings)
    ward = np.array(["w"] * 12)
    path = write(tmp_path, x=X, y=Y, ward=ward)
    assert load("npz", path=path, columns=Columns(owner="ward")).group_names == ("w",)
