"""Of a column of numbers and text the cell is named that is the odd one out, and no good one.

Covers fedlite/data/blame.py.
"""

from pathlib import Path

import pytest

from fedlite import data
from fedlite.scenario.tabular import Columns, names
from tests.data.test_columns import read

NUMBERS = [f"0.{n}5" for n in range(1, 40)]


def table(cells: list[str]) -> str:
    lines = [f'"{cell}",{n},{("no", "yes")[n % 2]}\n' for n, cell in enumerate(cells)]
    return "x,n,ill\n" + "".join(lines)


@pytest.mark.parametrize(
    ("cells", "line", "got", "mend"),
    [
        (["1,5", "3"], 2, "1,5", r"decimal point, as in '1\.5'"),
        (["inf", "3"], 2, "inf", "correct or empty the cell"),
        (["oops", *NUMBERS], 2, "oops", "correct or empty the cell"),
        ([*NUMBERS, "oops"], 41, "oops", "correct or empty the cell"),
        (["a", "b", "7", "a", "b"], 4, "7", "data.categories"),
        (["7", "a", "b", "a", "b"], 2, "7", "data.categories"),
        (["?"] * 49 + NUMBERS, 2, "?", r"49 cells hold it.*data.missing = 'NA, \?'"),
        (["?", "-", "?", "-", *NUMBERS], 2, "?", r"2 cells hold it.*data.missing = 'NA, \?, -'"),
        (["not, yet"] * 2 + NUMBERS, 2, "not, yet", r"""data.missing = 'NA, "not, yet"'"""),
        (["a", "b", "7", "nan", "a", "b"], 4, "7", "data.categories"),
        (["NA", "a", "7"], 4, "7", "data.drop"),
    ],
)
def test_the_cell_that_differs_from_its_column_is_named(
    tmp_path: Path, cells: list[str], line: int, got: str, mend: str
) -> None:
    with pytest.raises(ValueError, match=mend) as error:
        read(tmp_path, table(cells))
    assert f"line {line}, column 'x'" in str(error.value)
    assert f"got {got!r}; " in str(error.value)


def test_a_line_of_data_missing_mends_what_it_is_told_for(tmp_path: Path) -> None:
    """The setting that the message gives is taken by the reader as it stands."""
    text = table(["not, yet", "not, yet", *NUMBERS])
    with pytest.raises(ValueError, match=r"data\.missing") as error:
        read(tmp_path, text)
    told = str(error.value).partition("data.missing = '")[2].partition("'")[0]
    assert read(tmp_path, text, columns=Columns(missing=names(told))).features[0] == "x"


def test_rows_of_other_files_are_counted_in_their_unit(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    cells = ['"oops"', *NUMBERS]
    path.write_text("".join(f'{{"x": {x}, "ill": {n % 2}}}\n' for n, x in enumerate(cells)))
    with pytest.raises(ValueError, match=r"line 1, column 'x'.*got 'oops'"):
        data.load("jsonl", path=str(path), target="ill")


@pytest.mark.parametrize("listed", [(), (("x", ("a", "b")),)])
def test_no_other_record_has_a_part_in_what_is_said_of_a_settled_column(
    tmp_path: Path, listed: tuple[tuple[str, tuple[str, ...]], ...]
) -> None:
    """A message about one cell may not tell how many others hold numbers."""
    said = set()
    for others in (NUMBERS, ["?"] * 39, ["9"]):
        with pytest.raises(ValueError, match="line 2, column 'x'") as error:
            settings = Columns(categories=listed)
            read(tmp_path, table(["?", *others]), columns=settings, settled=True)
        said.add(str(error.value))
    assert len(said) == 1


@pytest.mark.parametrize(
    ("cells", "mend"),
    [
        (
            [f"n{n}" for n in range(30)],
            r"got 'n0'; set data\.drop = 'x'; dates go into data\.dates",
        ),
        ([f"2024-01-{n:02}" for n in range(1, 31)], r"got '2024-01-01'; set data\.dates = 'x'; "),
        ([f"0,{n}" for n in range(30)], r"finite number.*got '0,0'; .*point, as in '0\.0'"),
        (["0,5", "0,7"] * 15, r"finite number.*got '0,5'; .*point, as in '0\.5'"),
    ],
    ids=["names", "dates", "commas", "few commas"],
)
def test_of_a_column_of_text_a_value_is_shown_with_the_mend_that_suits_it(
    tmp_path: Path, cells: list[str], mend: str
) -> None:
    with pytest.raises(ValueError, match=r"line 3, column 'x': .*" + mend):
        read(tmp_path, table(["", *cells]))


def test_columns_that_need_another_mend_are_told_together(tmp_path: Path) -> None:
    rows = [f"n{n},2024-01-{n:02},{n}.5,{n % 2}" for n in range(1, 31)]
    text = '"name, full",seen,x,ill\n' + "\n".join(rows)
    with pytest.raises(ValueError, match=r"got 'n1'; set data.dates = 'seen' and data.drop = '\""):
        read(tmp_path, text)
    mended = Columns(drop=names('"name, full"'), dates=(("seen", ""),))
    assert read(tmp_path, text, columns=mended).features == ("seen", "x")


@pytest.mark.parametrize("text", ["x,d,ill\n", "x,d,ill\na,2024-01-01,no\n"], ids=["none", "odd"])
def test_a_table_of_which_no_row_fits_is_told_by_its_header_and_keys(
    tmp_path: Path, text: str
) -> None:
    """Neither a cell nor how many rows there are is told: they may be private."""
    message = r"one row must fit the keys of \[data\], got 0; these are read as .*: x, d; "
    with pytest.raises(ValueError, match=message + r".*data\.categories, of dates in data\.dates"):
        read(tmp_path, text, settled=True, skip_wrong=True)
    dated = Columns(dates=(("d", ""),))
    with pytest.raises(ValueError, match=r"absent: x; name"):
        read(tmp_path, text, columns=dated, settled=True, skip_wrong=True)
    open_ = "at least one record is needed, got 0; add rows"
    with pytest.raises(ValueError, match=open_):
        read(tmp_path, "x,d,ill\n")
