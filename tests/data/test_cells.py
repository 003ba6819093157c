"""What a cell may hold: independent truths for numbers and labels."""

import numpy as np
import pytest

from fedlite.data import cells


@pytest.mark.parametrize("text", ["0", "-1", "+2", "1e-3", ".5", "7.", "3.4e38", "-3.4E38"])
def test_numbers_are_what_python_reads(text: str) -> None:
    assert cells.number(text) == float(text)


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "-Infinity", "1e39", "1_0", "0x10", "\u0661", "1,5", "2024-01-01"]
)
def test_nothing_else_is_a_number(text: str) -> None:
    assert cells.number(text) is None


def test_a_label_is_text_and_only_a_zero_fraction_vanishes() -> None:
    same = {"1": "1", "1.0": "1", "1.00": "1", "-3.0": "-3", "01": "01", "01.0": "01"}
    apart = ["1_0", "2E1", "20", "1e0", "\u0661", "+1", "900000000000000003", "900000000000000009"]
    for text, expected in {**same, **{text: text for text in apart}}.items():
        assert cells.label(text) == expected
    assert len({cells.label(text) for text in apart}) == len(apart)
    assert not any(cells.no_label(text) for text in [*same, *apart])
    for text in ("", "NaN", "0.5", "1e-3", "inf", "9" * 201):
        assert cells.no_label(text)


def test_only_a_count_from_nought_or_one_numbers_rows() -> None:
    assert cells.counts(np.arange(10.0)) and cells.counts(np.arange(1.0, 30))
    assert not cells.counts(np.arange(9.0)) and not cells.counts(np.arange(2.0, 30))
    assert not cells.counts(np.array([0.0, *range(2, 20)]))
    assert not cells.counts(np.array([*range(12), np.nan]))
