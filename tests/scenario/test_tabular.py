"""The texts of the keys that say which columns of a table are features."""

from datetime import UTC, datetime

import pytest

from fedlite.scenario import tabular
from fedlite.scenario.tabular import Columns


def test_a_date_is_its_distance_from_1970() -> None:
    noon = datetime(2024, 2, 29, 12, tzinfo=UTC)
    expected = (noon - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() / 86400
    for text in ("2024-02-29T12:00", "20240229T120000", "2024-02-29 14:00+02:00"):
        assert tabular.days(text) == expected
    assert tabular.days("29.02.2024 12:00", "%d.%m.%Y %H:%M") == expected
    with pytest.raises(ValueError, match=r"."):
        tabular.days("2023-02-29")


@pytest.mark.parametrize(
    ("parser", "text", "expected"),
    [
        (tabular.names, "", ()),
        (tabular.names, '\na,\n"b, c"\n', ("a", "b, c")),
        (tabular.categories, "a: x, y;\n b: 1,2,3;", (("a", ("x", "y")), ("b", ("1", "2", "3")))),
        (tabular.categories, "at: 9:30, 10:15", (("at", ("9:30", "10:15")),)),
        (tabular.dates, "a, b: %H:%M", (("a", ""), ("b", "%H:%M"))),
        (tabular.dates, "a: %Y-%m-%dT%H:%M:%S%z", (("a", "%Y-%m-%dT%H:%M:%S%z"),)),
        (tabular.ranges, "-1:1", (("", -1.0, 1.0),)),
        (tabular.ranges, "0:1, 2:4e3", (("", 0.0, 1.0), ("", 2.0, 4000.0))),
        (tabular.ranges, "blood pressure 60:250", (("blood pressure", 60.0, 250.0),)),
        (tabular.ranges, "d 1970-01-02:1970-01-11", (("d", 1.0, 10.0),)),
    ],
)
def test_lists_are_read(parser: object, text: str, expected: object) -> None:
    assert callable(parser) and parser(text) == expected


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        (tabular.distinct, "a, a"),
        (tabular.distinct, "a,,b"),
        (tabular.categories, "a"),
        (tabular.categories, "a: x"),
        (tabular.categories, "a: x, x"),
        (tabular.categories, "a: x,"),
        (tabular.categories, "a: x, y; a: z, w"),
        (tabular.dates, "a: day"),
        (tabular.dates, "a, a: %Y"),
        (tabular.dates, "a: %d %d"),
        (tabular.dates, "a: %q"),
        (tabular.dates, "a: %Y-%m %"),
        (tabular.ranges, "a"),
        (tabular.ranges, "1:0"),
        (tabular.ranges, "0:nan"),
        (tabular.ranges, "0:inf"),
        (tabular.ranges, "a 0:1, 0:2"),
        (tabular.ranges, "a 0:1, a 0:2"),
        (tabular.ranges, "a 0:x"),
    ],
)
def test_other_forms_are_refused(parser: object, text: str) -> None:
    assert callable(parser)
    with pytest.raises(ValueError, match=r"."):
        parser(text)
    assert not tabular.reads(parser)(text)


def test_the_width_is_known_without_a_file() -> None:
    assert Columns().width == 0 and Columns(names=("a", "b")).width == 2
    listed = (("b", ("x", "y", "z")), ("c", ("1", "2")))
    assert Columns(names=("a", "b"), categories=listed).width == 4
