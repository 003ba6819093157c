"""Work that asks for parts of it gets each where it asked, also where making it fails."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest

from fedlite.steps import alone, by_itself


@dataclass
class Root:
    """A step that may fail: the whole root of a number."""

    of: int

    def alone(self) -> int:
        if self.of < 0:
            raise ValueError(f"no root of {self.of}")
        return int(self.of**0.5)


def roots(*numbers: int, mended: bool = False) -> Generator[Root, Any, list[int]]:
    """Ask for roots one after the other; mended: a root that fails is 0."""
    found: list[int] = []
    for one in numbers:
        try:
            found.append((yield Root(one)))
        except ValueError:
            if not mended:
                raise
            found.append(0)
    return found


def test_what_is_asked_for_is_made_in_order() -> None:
    assert alone(roots()) == []
    assert alone(roots(9, 16, 1)) == [3, 4, 1]
    assert by_itself(roots)(9, 4) == [3, 2]
    assert by_itself(roots).__name__ == "roots"


def test_a_failure_is_raised_where_it_was_asked_for() -> None:
    assert by_itself(roots)(9, -1, 4, mended=True) == [3, 0, 2]
    with pytest.raises(ValueError, match="no root of -1"):
        alone(roots(9, -1, 4))


def test_an_end_is_no_failure_of_a_step() -> None:
    class Ended(Root):
        def alone(self) -> int:
            raise KeyboardInterrupt

    told: list[str] = []

    def asking() -> Generator[Root, Any, None]:
        try:
            yield Ended(1)
        except Exception:
            told.append("taken for a failure")
            raise

    with pytest.raises(KeyboardInterrupt):
        alone(asking())
    assert told == []
