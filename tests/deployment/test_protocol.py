"""Releases that speak a version of the protocol in common work together, and no others."""

from __future__ import annotations

import pytest

import fedlite
from fedlite.deployment import protocol
from fedlite.deployment.protocol import Release, header, of_header, parse, spoken


@pytest.mark.parametrize(
    ("here", "there", "mend"),
    [
        ((1, 1), "", ""),
        ((1, 1), "1", ""),
        ((1, 1), "1-4", ""),
        ((1, 1), "2-4", "upgrade fedlite here"),
        ((2, 3), "3-9", ""),
        ((2, 3), "", "upgrade fedlite there"),
        ((2, 3), "1-2", ""),
        ((2, 3), "4", "upgrade fedlite here"),
    ],
)
def test_who_works_with_whom(
    monkeypatch: pytest.MonkeyPatch, here: tuple[int, int], there: str, mend: str
) -> None:
    monkeypatch.setattr(protocol, "SPOKEN", here)
    problem = Release("9.9.9", there).problem
    assert problem.endswith(mend) and bool(problem) == bool(mend)
    if problem:
        assert "9.9.9" in problem and fedlite.__version__ in problem
    # The other side comes to the same answer, with the other mend.
    mine = Release("1.1.1", spoken())
    monkeypatch.setattr(protocol, "SPOKEN", parse(there))
    other = {"upgrade fedlite here": "there", "upgrade fedlite there": "here", "": ""}[mend]
    assert mine.problem.endswith(other) and bool(mine.problem) == bool(mend)


@pytest.mark.parametrize("text", ["0", "2-1", "1-", "-1", "one", "1.0", "1 ", "9" * 9, "\u0661"])
def test_what_is_no_protocol(text: str) -> None:
    with pytest.raises(ValueError, match="must be a version or a range"):
        Release("1.0", text)
    assert of_header(f"1.0 {text}") is None


@pytest.mark.parametrize("version", ["", "1 2", "x" * 65, "1\x1b[31m", "1\n2"])
def test_what_is_no_version(version: str) -> None:
    with pytest.raises(ValueError, match="fedlite: must be a version"):
        Release(version)


def test_a_gateway_says_what_it_runs() -> None:
    assert of_header(header()) == Release(fedlite.__version__, spoken())
    assert of_header(None) is None and of_header("") is None
    assert of_header("0.1.0") == Release("0.1.0")
