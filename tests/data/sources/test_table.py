"""Covers fedlite/data/hints.py, fedlite/data/sources/csv_file.py."""

from pathlib import Path

import numpy as np
import pytest

from fedlite.data import load, partition, site_data, standardize
from fedlite.data.cells import SITE_NAME

GOOD = "age,site,dose,ill\n40,north,1.5,yes\n,south,2,no\n60,north,,no\n70,south,4,yes\n"


def write(folder: Path, text: str | bytes) -> str:
    path = folder / "own.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_columns_labels_and_sites_are_read(tmp_path: Path) -> None:
    source = load("csv", path=write(tmp_path, GOOD), target="ill")
    nan = np.nan
    expected = np.array([[40, 1.5], [nan, 2], [60, nan], [70, 4]], np.float32)
    assert np.array_equal(source.train.x, expected, equal_nan=True)
    assert source.labels == ("no", "yes") and source.train.y.tolist() == [1, 0, 0, 1]
    assert source.group_names == ("north", "south")
    parts = partition(source, "natural", 2, alpha=1.0, seed=0)
    assert [p.tolist() for p in parts] == [[0, 2], [1, 3]]
    assert source.test is None and source.shape == (2,)
    # It goes into summary.json: nothing in it can be guessed and then confirmed.
    assert source.origin == "a table of one's own"


def test_each_natural_site_is_standardised_on_its_own(tmp_path: Path) -> None:
    rows = [f"{100 * s + i},s{s},{i % 2}" for s in range(2) for i in range(10)]
    path = write(tmp_path, "value,site,label\n" + "\n".join(rows))
    source = load("csv", path=path, target="label")
    sites = site_data(source, kind="natural", sites=2, alpha=1.0, seed=0, test_fraction=0.0)
    a, b = (np.sort(standardize(s).train.x.ravel()) for s in sites)
    assert np.allclose(a, b, atol=1e-6), "the offset of a site vanishes"


def test_numeric_labels_sort_by_value_and_one_is_one_point_zero(tmp_path: Path) -> None:
    path = write(tmp_path, "x,label\n1,10\n2,2\n3,2.0\n4,-1\n")
    source = load("csv", path=path, target="label")
    assert source.labels == ("-1", "2", "10") and source.train.y.tolist() == [2, 1, 1, 0]


def test_given_labels_fix_the_class_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    source = load("csv", path=path, target="ill", labels=("yes", "maybe", "no"))
    assert source.classes == 3 and source.train.y.tolist() == [0, 2, 2, 0]
    with pytest.raises(ValueError, match=r"line 3, column 'ill': the label must be one of yes"):
        load("csv", path=path, target="ill", labels=("yes", "maybe"))
    with pytest.raises(ValueError, match=r"labels: must name at least two classes, each once"):
        load("csv", path=path, target="ill", labels=("yes", "yes"))


def test_labels_are_text(tmp_path: Path) -> None:
    """Long numbers used to become one class, `1_0` 10, and 01 could not be listed."""
    text = "x,y\n1,{}\n2,{}\n"
    for pair in (
        ("900000000000000003", "900000000000000009"), ("1_0", "2E1"), ("01", "1"), ("+1", "-1")
    ):  # fmt: skip
        path = write(tmp_path, text.format(*pair))
        source = load("csv", path=path, target="y")
        assert source.classes == 2 and set(source.labels) == set(pair)
        assert load("csv", path=path, target="y", labels=pair).train.y.tolist() == [0, 1]
    path = write(tmp_path, text.format("1.0", "02.0"))
    assert load("csv", path=path, target="y", labels=("02", "1")).train.y.tolist() == [1, 0]
    with pytest.raises(ValueError, match="each once"):
        load("csv", path=path, target="y", labels=("1", "1.0"))


def test_a_label_that_looks_like_none_may_be_listed(tmp_path: Path) -> None:
    path = write(tmp_path, "x,improved\n1,None\n2,Some\n3,0.5\n")
    with pytest.raises(ValueError, match=r"label must be present, got 'None'.*data.labels"):
        load("csv", path=path, target="improved")
    source = load("csv", path=path, target="improved", labels=("None", "Some", "0.5"))
    assert source.train.y.tolist() == [0, 1, 2]


def test_columns_become_a_sequence(tmp_path: Path) -> None:
    header = ",".join(f"c{i}" for i in range(6)) + ",label\n"
    path = write(tmp_path, header + "0,1,2,3,4,5,a\n6,7,8,9,10,11,b\n")
    source = load("csv", path=path, target="label", shape=(2, 3))
    assert source.train.x.shape == (2, 2, 3)
    assert source.train.x[1].tolist() == [[6, 7, 8], [9, 10, 11]]
    with pytest.raises(ValueError, match=r"shape: must hold the 6 feature columns.*got \(6, 100\)"):
        load("csv", path=path, target="label", shape=(6, 100))


def test_byte_order_mark_spaces_quotes_and_blank_lines(tmp_path: Path) -> None:
    text = '\ufeffage , "label"\r\n 4 ,a\r\n\r\n"5","b"\r\n'
    source = load("csv", path=write(tmp_path, text.replace(', "', ',"')), target="label")
    assert source.train.x.ravel().tolist() == [4, 5] and source.labels == ("a", "b")


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("x,y\n1,a\nlow,b\n", "y", r"line 3, column 'x': .*finite number.*got 'low'; correct"),
        ("x,y\n1,a\ninf,b\n", "y", r"line 3, column 'x': .*got 'inf'"),
        ("x,y\n1,a\nnan,b\n", "y", r"line 3, column 'x': .*got 'nan'"),
        ("x,y\n1,a\n1e39,b\n", "y", r"line 3, column 'x': .*got '1e39'"),
        ("x,y\n1,a\n2,NaN\n", "y", r"line 3, column 'y': a label must be present, got 'NaN'"),
        ("x,y\n1,a\n2,\n", "y", r"line 3, column 'y': a label must be present, got ''"),
        ("x,y\n1,0.5\n", "y", r"line 2, column 'y': a numeric label must be a whole.*'0\.5'"),
        ("x,y\n1,inf\n", "y", r"line 2, column 'y': a numeric label must be a whole.*'inf'"),
        ("x,y\n", "y", r"at least one record is needed, got 0; add rows"),
        ("x,y\n1,a\n2,a\n", "y", r"column 'y': the labels must form 2 to 1000 classes, got 'a'"),
        ("x,y\n1,a\n", "z", r"line 1, column 'z': .*must be in the header, got \['x', 'y'\]; set"),
        ("x,y\n1,a\n", "", r"must be in the header"),
        ("x;y\n1;a\n", "y", r"separate columns by commas, not by ';'"),
        ("", "y", r"the first line must name the columns.*write a header"),
        ("\n\n", "y", r"the first line must name the columns.*write a header"),
        ("y\na\nb\n", "y", r"a feature column is needed"),
        ("x,site\n1,a\n", "site", r"choose another label column"),
        ("x,x,y\n1,2,a\n", "y", r"column 'x': each column needs a name of its own"),
        ("x,,y\n1,2,a\n", "y", r"each column needs a name of its own"),
        ("x,y\n1,a\n1,2,b\n", "y", r"line 3.*a row must have 2 cells.*got 3; add or remove"),
        ("x,y\n1,a\n1\n", "y", r"line 3.*a row must have 2 cells.*got 1"),
        ('x,y\n1,a\n"2,b\n', "y", r"line 3.*every line must be CSV.*check its quotes"),
        ('x,y\n"\n1",a\n2,b\n', "y", r"line 2.*a cell may not hold a line end"),
        (b"x,y\n1,a\n1,\xff\n", "y", r"line 3.*the text must be UTF-8.*save it so"),
        ("x,site,y\n1,VA Long Beach,a\n", "y", r"line 2, column 'site'.*write 'va-long-beach'"),
        ("x,site,y\n1,../up,a\n", "y", r"line 2, column 'site'.*got '\.\./up'"),
        ("x,site,y\n1,,a\n", "y", r"line 2, column 'site'"),
        ("x,y\n1,a\n\r\n\nbad,b\n", "y", r"line 5, column 'x'"),
    ],
)
def test_bad_input_names_file_line_column_value_and_mend(
    tmp_path: Path, text: str | bytes, target: str, message: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as error:
        load("csv", path=path, target=target)
    assert str(error.value).startswith(f"{path}, line ")
    assert ", got " in str(error.value) and "; " in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path: .*nowhere\.csv.*No such file.*correct the path"):
        load("csv", path=str(tmp_path / "nowhere.csv"), target="y")


def test_with_its_classes_fixed_a_file_may_lack_them_and_every_record(tmp_path: Path) -> None:
    one = load("csv", path=write(tmp_path, "a,y\n1,no\n"), target="y", labels=("no", "yes"))
    assert one.train.y.tolist() == [0] and one.classes == 2
    none = load("csv", path=write(tmp_path, "a,b,site,y\n"), target="y", labels=("no", "yes"))
    assert none.train.x.shape == (0, 2) and none.groups is not None and none.group_names == ()


def test_a_row_that_does_not_fit_may_count_as_absent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "a,y\n1,no\nhigh,yes\n2,perhaps\n3\n4,yes\n"
    found = load(
        "csv", path=write(tmp_path, text), target="y", labels=("no", "yes"), skip_wrong=True
    )
    assert found.train.x.ravel().tolist() == [1.0, 4.0] and found.train.y.tolist() == [0, 1]
    assert [record.getMessage().split(", ")[1] for record in caplog.records] == [
        "line 3", "line 4", "line 5"
    ]  # fmt: skip


ODD = {
    "an open quote": b'"0.1,0.2,h0,no',
    "an open quote at the end": b'0.1,0.2,h0,"no',
    "a stray quote": b'"0.1"x,0.2,h0,no',
    "a quote escaped otherwise": b'0.1,0.2,h0,"n\\"o"',
    "no UTF-8": b"0.1,0.2,h\xf4,no",
    "a label that is no UTF-8": b"0.1,0.2,h0,n\xf4",
    "half a letter before the line end": b"0.1,0.2,h0,no\xc3",
    "a huge cell": b"0" * 200_000 + b",0.2,h0,no",
    "a zero byte": b"0.1\0,0.2,h0,no",
    "a line end in quotes": b'"0.1\n0.2",0.2,h0,no',
    "a lone carriage return": b"0.1\r0.2,h0,no",
    "another line end": b"0.1\x0b0.1,0.2,h0,no\xe2\x80\xa8",
    "a number too long for int": b"0.1,0.2,h0," + b"9" * 5000,
    "a feature as long": b"9" * 5000 + b",0.2,h0,no",
    "a mark of byte order": b"\xef\xbb\xbf0.1,0.2,h0,no",
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("at", [[0], [5], [12], [0, 9], [3, 3]])
def test_a_row_whatever_it_is_neither_stops_nor_changes_another(
    tmp_path: Path, name: str, at: list[int]
) -> None:
    """An open quote used to swallow all rows up to the next; bad text to stop a private site."""
    rng = np.random.default_rng(0)
    good = [
        f"{a:.3f},{b:.3f},h0,{('no', 'yes')[n % 2]}".encode()
        for n, (a, b) in enumerate(rng.normal(size=(12, 2)))
    ]

    def records(rows: list[bytes]) -> list[bytes]:
        path = write(tmp_path, b"\n".join([b"a,b,site,ill", *rows, b""]))
        read = load("csv", path=path, target="ill", labels=("no", "yes"), skip_wrong=True)
        return [x.tobytes() + y.tobytes() for x, y in zip(read.train.x, read.train.y, strict=True)]

    rows = list(good)
    for place in sorted(at, reverse=True):
        rows.insert(place, ODD[name])
    assert records(rows) == records(good)


def _gzip(text: str) -> bytes:
    import gzip

    return gzip.compress(text.encode(), mtime=0)


def _zip(text: str) -> bytes:
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("own.csv", text)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (_gzip(GOOD), "a gzip file"),
        (_zip(GOOD), "a spreadsheet or a zip archive"),
        (b"PAR1\x15\x04\x15PAR1", "a Parquet file"),
        (GOOD.encode("utf-16"), "text in UTF-16"),
    ],
)
@pytest.mark.parametrize("skip_wrong", [False, True])
def test_a_file_that_is_no_csv_is_named_as_what_it_is(
    tmp_path: Path, content: bytes, kind: str, skip_wrong: bool
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=rf"must name a CSV file, got .*, which is {kind}; \w+"):
        load("csv", path=path, target="ill", labels=("no", "yes"), skip_wrong=skip_wrong)


@pytest.mark.parametrize(
    ("name", "near"),
    [("Zürich", "zurich"), ("x" * 300, "x" * 64), ("Haus A/3", "haus-a-3"), ("東京", "site-01")],
)
def test_the_name_that_is_proposed_for_a_site_is_one(tmp_path: Path, name: str, near: str) -> None:
    """300 letters were mended to themselves, and Zürich to z-rich."""
    assert SITE_NAME.fullmatch(near)
    path = write(tmp_path, GOOD.replace("north", name))
    with pytest.raises(ValueError, match=f"write '{near}' for example") as caught:
        load("csv", path=path, target="ill")
    assert len(str(caught.value)) < len(path) + 400


@pytest.mark.parametrize("column", ["Site", "SITE", "sITE"])
def test_a_column_of_owners_in_capitals_is_no_feature(tmp_path: Path, column: str) -> None:
    path = write(tmp_path, GOOD.replace("site", column))
    with pytest.raises(ValueError, match=rf"line 1, column '{column}'.*did you mean 'site'\?"):
        load("csv", path=path, target="ill")


def test_a_target_in_other_capitals_is_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got \['age', .*; did you mean 'ill'\?$"):
        load("csv", path=write(tmp_path, GOOD), target="Ill")
