"""Densities by the names of tensors."""

from __future__ import annotations

import pytest

from fedlite.scenario.densities import densities_of, of_tensors


@pytest.mark.parametrize(
    "text", ["exit", "exit 0", "exit 1.5", "0.3", "exit 0.1, exit 0.2", "a b,"]
)
def test_a_text_that_is_no_list_of_densities_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|could not convert"):
        densities_of(text)


def test_the_longest_entry_that_fits_counts() -> None:
    names = ["exit.weight", "exit.bias", "tail.0.weight"]
    assert of_tensors(names, "exit 0.3, exit.bias 1", 0.02) == (0.3, 1.0, 0.02)
    assert of_tensors(names, "", 0.02) == (0.02, 0.02, 0.02)


def test_an_entry_without_a_tensor_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"densities: every entry .*'head'; the tensors are exit"):
        of_tensors(["exit.weight"], "head 0.3", 0.1)
