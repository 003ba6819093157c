"""Records of a file are read and scaled as a site of the run would; a file that differs is told.

Covers fedlite/evaluation/arrays.py.
"""

from __future__ import annotations

import csv
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from fedlite.evaluation import Trained, held_out, open_model, read
from tests.evaluation.conftest import make, table

HEAD = "age,pressure,sex\n"
ROWS = "40,120,f\n60,140,m\n,130,\n50,,m\n"


def file(folder: Path, text: str, name: str = "new.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_it_is_scaled_by_the_file_s_own_records(sick: Trained, tmp_path: Path) -> None:
    found = read(sick, file(tmp_path, HEAD + ROWS), answered=False)
    age = np.array([40, 60, 50.0])
    wanted = (age - age.mean()) / age.std()
    np.testing.assert_allclose(found.data.x[[0, 1, 3], 0], wanted, rtol=1e-6)
    sex = np.array([1.0, 0, 0, 0])
    np.testing.assert_allclose(found.data.x[:, 2], (sex - sex.mean()) / sex.std(), rtol=1e-6)
    # A missing value is the mean, which is 0.
    assert found.data.x[2, 0] == 0 and found.data.x[3, 1] == 0
    assert "scaled by the mean and spread of the records in it" in found.notes[0]
    assert "new.csv has 4; so few say little of a site" in found.notes[0]
    assert not found.answered and found.sites is None


def test_each_site_of_a_file_is_scaled_by_itself(sick: Trained, tmp_path: Path) -> None:
    text = "site," + HEAD + "".join(f"s{n % 2},{10 * n},{100 + n},f\n" for n in range(10))
    found = read(sick, file(tmp_path, text), answered=False)
    assert found.site_names == ("s0", "s1") and found.sites is not None
    for site in (0, 1):
        own = found.data.x[found.sites == site, 0]
        np.testing.assert_allclose((own.mean(), own.std()), (0, 1), atol=1e-6)


def test_other_records_of_the_place_may_say_how_it_is_scaled(sick: Trained, tmp_path: Path) -> None:
    many = file(tmp_path, HEAD + "".join(f"{a},{a + 80},f\n" for a in range(30, 80)), "many.csv")
    one = file(tmp_path, HEAD + "60,140,f\n")
    alone = read(sick, one, answered=False).data.x
    assert not alone[0, :2].any(), "one record is its own mean"
    found = read(sick, one, answered=False, scale_by=many)
    age = np.arange(30, 80)
    assert found.data.x[0, 0] == pytest.approx((60 - age.mean()) / age.std())
    assert "the 50 records of --scale-by" in found.notes[0]


def test_public_ranges_need_no_records(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    keys = {"ranges": "age 0:100, pressure 50:250", "categories": "sex: f, m"}
    trained = open_model(make(tmp_path / "a", "classification", data=keys))
    assert trained.scaling == "ranges"
    found = read(trained, file(tmp_path, HEAD + "75,300,m\n,,\n"), answered=False)
    np.testing.assert_allclose(found.data.x, [[0.5, 1.0, -0.0, 1.0], [0, 0, 0, 0]], atol=1e-6)
    assert not any("scaled" in note for note in found.notes)
    with pytest.raises(ValueError, match=r"--scale-by: must be left out.*public ranges"):
        read(trained, tmp_path / "new.csv", answered=False, scale_by=tmp_path / "new.csv")


def test_the_order_of_columns_and_others_do_not_matter(sick: Trained, tmp_path: Path) -> None:
    plain = read(sick, file(tmp_path, HEAD + "40,120,f\n60,140,m\n"), answered=False)
    text = "id,sex,note,pressure,age\n7,f,x,120,40\n8,m,y,140,60\n"
    other = read(sick, file(tmp_path, text, "other.csv"), answered=False, columns=("note",))
    np.testing.assert_array_equal(plain.data.x, other.data.x)
    assert other.columns == {"note": ("x", "y")}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("age,sex\n1,f\n", r"must have the column 'pressure', which the model reads, has age, sex"),
        (HEAD + "1,2,q\n", r"line 2, column 'sex': a value must be one of f, m|line 2.*'sex'"),
        (HEAD + "1,x,f\n", r"line 2, column 'pressure': a feature must be a finite number.*'x'"),
        (HEAD + "1,2\n", r"line 2.*a row must have 3 cells"),
        (HEAD, r"must hold at least one record"),
        ("", r"must have the column 'age'"),
    ],
)
def test_a_file_that_differs_is_told(sick: Trained, tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read(sick, file(tmp_path, text), answered=False)


def test_answers_must_be_there_and_known(sick: Trained, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must have the column 'sick', which the model answers"):
        read(sick, file(tmp_path, HEAD + ROWS))
    with pytest.raises(ValueError, match=r"the label must be one of no, yes, got 'maybe'"):
        read(sick, file(tmp_path, "age,pressure,sex,sick\n1,2,f,maybe\n"))
    found = read(sick, file(tmp_path, "age,pressure,sex,ill\n1,2,f,yes\n"), target="ill")
    assert found.data.y.tolist() == [1]
    with pytest.raises(ValueError, match=r"no such file; name a CSV file"):
        read(sick, tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"must have one column 'ward'"):
        read(sick, tmp_path / "new.csv", answered=False, columns=("ward",))


def test_numbers_are_answered_in_the_units_of_the_run(doses: Trained, tmp_path: Path) -> None:
    path = table(tmp_path / "people.csv", rows=20, seed=9)
    found = read(doses, path)
    assert doses.scale is not None
    with path.open() as lines:
        rows = list(csv.DictReader(lines))
    for at, name in enumerate(("dose", "days")):
        low, high = doses.scale[:, at]
        wanted = [(float(row[name]) - low) * 2 / (high - low) - 1 for row in rows]
        np.testing.assert_allclose(found.data.y[:, at], wanted, rtol=1e-5)


def arrays(path: Path, **found: object) -> Path:
    np.savez(path, **found)  # type: ignore[arg-type]
    return path


def test_images_come_as_arrays(digits: Trained, tmp_path: Path) -> None:
    held = held_out(digits)
    names = np.array([digits.labels[at] for at in held.data.y])
    ward = np.array([f"w{at % 2}" for at in range(len(held))])
    path = arrays(tmp_path / "a.npz", x=held.data.x.astype(np.float64), y=names, site=ward)
    found = read(digits, path, columns=("site",))
    np.testing.assert_array_equal(found.data.x, held.data.x)
    np.testing.assert_array_equal(found.data.y, held.data.y)
    assert found.site_names == ("w0", "w1") and found.columns["site"] == tuple(ward)
    alone = arrays(tmp_path / "b.npz", x=held.data.x)
    assert not read(digits, alone, answered=False).answered


def test_a_table_s_features_may_come_as_arrays(sick: Trained, tmp_path: Path) -> None:
    text = read(sick, file(tmp_path, HEAD + "40,120,f\n60,140,m\n,130,f\n"), answered=False)
    x = np.array([[40, 120, 1, 0], [60, 140, 0, 1], [np.nan, 130, 1, 0]])
    found = read(sick, arrays(tmp_path / "a.npz", x=x), answered=False)
    np.testing.assert_allclose(found.data.x, text.data.x, atol=1e-6)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"y": np.zeros(2, np.int64)}, r"must hold the array 'x', holds y"),
        ({"x": np.zeros((2, 8, 8))}, r"shape \[n, 1, 8, 8\], got float64 \[2, 8, 8\]"),
        ({"x": np.zeros((2, 1, 8, 8), np.uint8)}, r"must be floating-point.*got uint8"),
        ({"x": np.full((2, 1, 8, 8), np.nan), "y": np.zeros(2, int)}, r"x must be finite"),
        ({"x": np.zeros((2, 1, 8, 8))}, r"must hold the array 'y'"),
        ({"x": np.zeros((1, 1, 8, 8)), "y": np.array([10])}, r"class numbers below 10.*got 10"),
        ({"x": np.zeros((1, 1, 8, 8)), "y": np.array(["ten"])}, r"among 0, 1, .*got ten"),
        (
            {"x": np.zeros((1, 1, 8, 8)), "y": np.zeros((1, 2), int)},
            r"one class a record.*got \[1, 2\]",
        ),
        ({"x": np.zeros((2, 1, 8, 8)), "y": np.zeros(1, int)}, r"y must be int64 of shape \[2\]"),
        ({"x": np.zeros((0, 1, 8, 8)), "y": np.zeros(0, int)}, r"at least one record"),
    ],
)
def test_arrays_that_differ_are_told(
    digits: Trained, tmp_path: Path, found: dict[str, object], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        read(digits, arrays(tmp_path / "a.npz", **found))


def test_an_array_that_says_it_is_huge_is_not_loaded(digits: Trained, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    head = {"descr": "<f8", "fortran_order": False, "shape": (2**40, 1, 8, 8)}
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as member:
        npy.write_array_header_1_0(member, head)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must fit into half of this machine's memory"):
        read(digits, path, answered=False)


def test_a_file_of_objects_or_of_nothing_is_not_unpacked(digits: Trained, tmp_path: Path) -> None:
    path = arrays(tmp_path / "a.npz", x=np.array([object()]))
    with pytest.raises(ValueError, match=r"\.npz file that is whole.*never loaded"):
        read(digits, path)
    for text in ("", "PK\x03\x04 no archive"):
        with pytest.raises(ValueError, match=r"\.npz file that is whole"):
            read(digits, file(tmp_path, text, "b.npz"))
    with pytest.raises(ValueError, match=r"must be a \.npz file for a model of records of shape"):
        read(digits, file(tmp_path, "a,b\n1,2\n"))


def test_records_that_have_gone_are_told(sick: Trained, tmp_path: Path) -> None:
    shutil.copytree(sick.directory, tmp_path / "run")
    text = (tmp_path / "run" / "scenario.toml").read_text()
    moved = text.replace(sick.scenario.data.path, str(tmp_path / "gone.csv"))
    (tmp_path / "run" / "scenario.toml").write_text(moved)
    with pytest.raises(ValueError, match=r"gone\.csv"):
        held_out(open_model(tmp_path / "run"))
