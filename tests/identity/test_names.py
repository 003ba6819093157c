"""What a site and a data owner may be called."""

from __future__ import annotations

import pytest

from fedlite.identity.names import owner_problem, site_problem


@pytest.mark.parametrize("name", ["a", "Klinik Süd", "x" * 64, "site-01.b"])
def test_names_of_sites_that_are_taken(name: str) -> None:
    assert site_problem(name) == ""


@pytest.mark.parametrize(
    "name", ["", "x" * 65, "a/b", ".hidden", "..", "a\nb", "\x1b[31m", "\u202e"]
)
def test_names_of_sites_that_would_be_another_path_or_steer_a_terminal(name: str) -> None:
    assert repr(name) in site_problem(name)


@pytest.mark.parametrize(
    ("owner", "good"),
    [
        ("", True),
        ("0f" * 32, True),
        ("0F" * 32, False),
        ("0f" * 31, False),
        ("0f" * 32 + "\n", False),
    ],
)
def test_an_owner_is_nobody_or_a_key(owner: str, good: bool) -> None:
    assert (owner_problem(owner) == "") is good
