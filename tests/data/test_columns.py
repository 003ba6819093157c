"""Tables as people have them: what becomes a feature, what is left out, and what is said of it.

Covers fedlite/data/header.py.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite import data
from fedlite.data import Source
from fedlite.data.spread import share_out
from fedlite.scenario import Data
from fedlite.scenario.tabular import Columns

PEOPLE = (
    "age,sex,seen,dose,ill\n"
    "40,f,2024-01-01,1.5,yes\n"
    ",m,2024-01-11,NA,no\n"
    "60,,,3,no\n"
    "70,f,2023-12-31,4,yes\n"
)


def read(folder: Path, text: str, **more: Any) -> Source:
    path = folder / "own.csv"
    path.write_text(text)
    return data.load("csv", path=str(path), target=more.pop("target", "ill"), **more)


def rows(header: str, n: int, line: str) -> str:
    """Return a file of n rows, `{n}` in the line being the row's number from 1."""
    return header + "\n" + "".join(line.format(n=i, odd=i % 2) + "\n" for i in range(1, n + 1))


def test_the_columns_are_the_features_in_their_own_order(tmp_path: Path) -> None:
    settings = Columns(
        names=("dose", "sex", "seen"),
        categories=(("sex", ("m", "f")),),
        dates=(("seen", ""),),
    )
    for order in (PEOPLE, turned(PEOPLE)):
        source = read(tmp_path, order, columns=settings, settled=True)
        assert source.features == ("dose", "sex=m", "sex=f", "seen") and source.shape == (4,)
        nan = np.nan
        expected = [[1.5, 0, 1, 19723], [nan, 1, 0, 19733], [3, 0, 0, nan], [4, 0, 1, 19722]]
        assert np.array_equal(source.train.x, np.array(expected), equal_nan=True)
        assert source.notes == ()


@pytest.mark.parametrize("odd", ["", '"'])
def test_what_stands_for_no_value_is_none_though_it_reads_as_one(tmp_path: Path, odd: str) -> None:
    text = f"dose,seen,ill\n 1,2024-01-01,yes\n -9 ,1900-01-01,{odd}no{odd}\n-9.5,,no\n"
    settings = Columns(missing=("-9", "1900-01-01"), dates=(("seen", ""),))
    source = read(tmp_path, text, columns=settings, settled=True)
    expected = [[1, 19723], [np.nan, np.nan], [-9.5, np.nan]]
    assert np.array_equal(source.train.x, np.array(expected), equal_nan=True)


def turned(text: str) -> str:
    """Return the same table with its columns from right to left: another site's file."""
    return "\n".join(",".join(line.split(",")[::-1]) for line in text.splitlines()) + "\n"


def test_what_is_dropped_is_not_even_read(tmp_path: Path) -> None:
    text = "name,ill,x\nZoë_1,no,1\n,yes,2\n"
    source = read(tmp_path, text, columns=Columns(drop=("name",)), settled=True)
    assert source.features == ("x",) and source.train.x.ravel().tolist() == [1, 2]


@pytest.mark.parametrize("first", ["", "Unnamed: 0"])
@pytest.mark.parametrize("settled", [False, True])
def test_a_nameless_first_column_is_left_out_with_a_word(
    tmp_path: Path, first: str, settled: bool
) -> None:
    """A row's number tells the class of a sorted table; a row's name cannot be a feature."""
    for cell in ("{n}", "Mazda RX{n}"):
        text = rows(f'"{first}",x,ill', 12, cell + ",0.{n},{odd}")
        source = read(tmp_path, text, settled=settled)
        assert source.features == ("x",) and "has no name" in source.notes[0]


@pytest.mark.parametrize("start", [0, 1])
def test_a_first_column_that_counts_is_left_out_with_a_word(tmp_path: Path, start: int) -> None:
    text = "id,x,ill\n" + "".join(f"{n + start},{n % 7},{n % 2}\n" for n in range(12))
    source = read(tmp_path, text)
    assert source.features == ("x",)
    assert "column 'id' counts the rows and is left out; data.columns can" in source.notes[0]
    kept = read(tmp_path, text, columns=Columns(names=("id", "x")))
    assert kept.features == ("id", "x") and not kept.notes
    ranged = Columns(ranges=(("id", 0, 100), ("x", 0, 7)))
    assert read(tmp_path, text, columns=ranged).features == ("id", "x")


@pytest.mark.parametrize(
    "text",
    [
        "id,x,ill\n" + "".join(f"{n},{n % 7},{n % 2}\n" for n in (*range(11), 12)),
        "id,x,ill\n" + "".join(f"{n},{n % 7},{n % 2}\n" for n in range(1950, 1970)),
        "id,ill\n" + "".join(f"{n},{n % 2}\n" for n in range(20)),
        "x,id,ill\n" + "".join(f"{n % 7},{n},{n % 2}\n" for n in range(20)),
        "id,x,ill\n1,5,no\n2,6,yes\n3,7,yes\n",
    ],
    ids=["with a gap", "of years", "alone", "not the first", "of few rows"],
)
def test_a_column_that_need_not_be_a_row_number_stays(tmp_path: Path, text: str) -> None:
    source = read(tmp_path, text)
    assert "id" in source.features and source.notes == ()


def test_records_never_decide_that_a_settled_column_goes(tmp_path: Path) -> None:
    """One record less would break the count, and the model would have another shape."""
    for n in (9, 10, 11, 12):
        source = read(tmp_path, rows("visit,x,ill", n, "{n},0.{n},{odd}"), settled=True)
        assert source.features == ("visit", "x")
        assert bool(source.notes) == (n >= 10), "a word to whoever holds the file"
    for name in ("id", "Index", "rownames"):
        text = rows(f"{name},x,ill", 3, "7,0.{n},{odd}")
        with pytest.raises(ValueError, match=rf"'{name}': .*may number the rows.*data.drop"):
            read(tmp_path, text, settled=True)
        with_it = Columns(names=(name, "x"))
        assert read(tmp_path, text, settled=True, columns=with_it).shape == (2,)
        without = Columns(drop=(name,))
        assert read(tmp_path, text, settled=True, columns=without).shape == (1,)


def test_text_of_few_values_becomes_zeros_and_ones_with_a_word(tmp_path: Path) -> None:
    text = "".join(f"{('b', '', 'a', 'a_b')[n % 4]},{n},{n % 2}\n" for n in range(16))
    source = read(tmp_path, "kind,x,ill\n" + text)
    assert source.features == ("kind=a", "kind=a_b", "kind=b", "x")
    expected = [[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 2], [0, 1, 0, 3]]
    assert source.train.x[:4].tolist() == expected
    assert "column 'kind' holds text and becomes 3 features" in source.notes[0]
    listed = Columns(categories=(("kind", ("a", "b", "a_b", "c")),))
    settled = read(tmp_path, "kind,x,ill\n" + text, columns=listed, settled=True)
    assert settled.features == ("kind=a", "kind=b", "kind=a_b", "kind=c", "x")
    assert settled.notes == () and settled.train.x[3].tolist() == [0, 0, 1, 0, 3]


def test_text_that_names_records_is_refused_and_all_such_columns_named(tmp_path: Path) -> None:
    text = rows("name,x,seen,ill", 60, "n{n},{n},2024-01-01 {n},{odd}")
    with pytest.raises(ValueError, match=r"data.drop = 'name, seen'; dates go into data.dates"):
        read(tmp_path, text)
    few = rows("name,x,ill", 12, "n{n},0.{n},{odd}")
    with pytest.raises(ValueError, match=r"'name': a column of text must have few values"):
        read(tmp_path, few)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("k,x,y\na,1,0\n7,2,1\n", {}, r"line 3, column 'k': .*numbers only.*got '7'.*data.drop"),
        ("x,y\n1,0\n?,1\n", {}, r"line 3, column 'x'.*got '\?'.*data.missing.*data.drop"),
        ("x,y\n1_0,0\n2,1\n", {"settled": True}, r"line 2, column 'x'.*finite.*got '1_0'"),
        ("x,y\n\u0661,0\n2,1\n", {"settled": True}, r"line 2, column 'x'.*finite number"),
        ("x,y\na,0\n2,1\n", {"settled": True}, r"line 2.*finite number.*data.categories lists"),
        (
            "k,x,y\na,1,0\nb,2,1\n",
            {"columns": Columns(categories=(("k", ("a", "c")),))},
            r"line 3, column 'k': a value must be one of a, c, got 'b'; .*data.categories",
        ),
        (
            "d,x,y\n31/01/2024,1,0\n",
            {"columns": Columns(dates=(("d", ""),))},
            r"line 2, column 'd': a date must be ISO 8601.*got '31/01/2024'; give its format",
        ),
        ("x,y\n1,0\n", {"columns": Columns(names=("z",))}, r"column 'z': .*data.columns.*header"),
        ("x,y\n1,0\n", {"columns": Columns(drop=("z",))}, r"column 'z': a column of data.drop"),
        ("x,y\n1,0\n", {"columns": Columns(names=("y",))}, r"column 'y': .*a feature column"),
        ("x,y\n1,0\n", {"columns": Columns(drop=("x",))}, r"a feature column is needed"),
        (
            "a,b,y\n1,2,0\n",
            {"columns": Columns(ranges=(("a", 0, 1),))},
            r"column 'b': data.ranges must .*add `b LOW:HIGH`, or name it in data.categories",
        ),
        (
            "a,b,c,y\n1,2,3,0\n",
            {"columns": Columns(ranges=(("", 0, 1), ("", 0, 1)))},
            r"one for each of 3 columns, got 2; name",
        ),
        ("x,,y\n1,,0\n", {}, r"column '': each column needs a name.*line ends in a comma"),
    ],
)
def test_what_does_not_fit_is_named_with_the_mend(
    tmp_path: Path, text: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, text, target="y", **settings)
    assert "rename" not in str(error.value), "a row number that gets a name becomes a feature"


def test_cells_that_stand_for_nothing_are_missing(tmp_path: Path) -> None:
    text = "k,x,y\nNA,NA,0\nb,-9,1\n?,3,0\nb,4,1\nb,5,0\nb,6,1\n"
    source = read(tmp_path, text, target="y", columns=Columns(missing=("?", "-9", "NA")))
    assert source.features == ("k=b", "x")
    assert np.array_equal(source.train.x[:, 1], [np.nan, np.nan, 3, 4, 5, 6], equal_nan=True)
    assert source.train.x[:, 0].tolist() == [0, 1, 0, 1, 1, 1]
    # Who lists a value means it: the country whose code is NA.
    listed = Columns(categories=(("k", ("NA", "b", "?")),), missing=("NA", "-9"))
    assert read(tmp_path, text, target="y", columns=listed).train.x[0, 0] == 1


def test_public_ranges_map_every_record_by_itself(tmp_path: Path) -> None:
    text = "age,k,seen,y\n60,a,1970-01-02,0\n-5,b,1970-01-11,1\n,a,,1\n200,a,2024-01-01,0\n"
    settings = Columns(
        categories=(("k", ("a", "b")),),
        dates=(("seen", ""),),
        ranges=(("seen", 1.0, 10.0), ("age", 0.0, 120.0)),
    )
    expected = np.array([[0, 1, 0, -1], [-1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 0, 1]], np.float32)

    def shared(text: str, columns: Columns) -> tuple[Source, list[list[float]]]:
        source = read(tmp_path, text, target="y", columns=columns, settled=True)
        (site,) = share_out(source, Data(test_fraction=0.0), 1, 1, private=True)
        return source, site.train.x.tolist()

    source, found = shared(text, settings)
    assert found == expected.tolist()
    assert [note.split(" values")[0] for note in source.notes] == [
        "column 'age': 2 of 4", "column 'seen': 1 of 4"
    ]  # fmt: skip
    assert shared(text.replace("200,a,2024-01-01,0\n", ""), settings)[1] == expected[:3].tolist()
    for ranges in ((("", 0.0, 120.0),), (("", 0.0, 120.0), ("", 1.0, 10.0))):
        by_turn = Columns(categories=settings.categories, dates=settings.dates, ranges=ranges)
        assert [row[0] for row in shared(text, by_turn)[1][:2]] == [0, -1]


def test_other_ranges_move_no_record(tmp_path: Path) -> None:
    """A record is placed by its own values, so that two choices of ranges are compared on one."""
    text = rows("a,b,y", 40, "{n},{odd}.5,{odd}")
    held = []
    for high in (50.0, 500.0):
        source = read(tmp_path, text, target="y", columns=Columns(ranges=(("", 0.0, high),)))
        (site,) = share_out(source, Data(test_fraction=0.25), 1, 1, private=True)
        held.append(np.sort((site.test.x[:, 0].astype(float) + 1) * high / 2))
    assert len(held[0]) and np.allclose(*held, atol=1e-3)


def test_a_file_is_read_like_numpy_reads_it(tmp_path: Path) -> None:
    """Random numbers in many spellings, missing cells, quotes and spaces among them."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 6)) * 10.0 ** rng.integers(-30, 30, (300, 6))
    spell = (repr, "{:.3e}".format, " {:+.17g} ".format, '"{:g}"'.format)
    text = [[spell[rng.integers(4)](float(v)) for v in row] for row in x]
    path = tmp_path / "own.csv"
    lines = [",".join([*row, "ab"[n % 2]]) for n, row in enumerate(text)]
    path.write_text("\n".join(["a,b,c,d,e,f,y", *lines]))
    source = data.load("csv", path=str(path), target="y")
    with path.open() as file:
        expected = [[float(cell) for cell in row[:6]] for row in list(csv.reader(file))[1:]]
    assert np.array_equal(source.train.x, expected)
    assert source.train.y.tolist() == [n % 2 for n in range(300)]
