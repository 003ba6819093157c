"""The members of shared noise as a scenario writes them: one text, no doubt about it."""

from __future__ import annotations

from typing import Any

import pytest

from fedlite.scenario import ScenarioError, from_dict
from fedlite.scenario.members import members_of, text_of

KEYS = [f"{at:064x}" for at in range(5)]


def shared(members: str) -> Any:
    return from_dict(
        {
            "federation": {"sites": 3, "quorum": 3},
            "training": {"steps": 1},
            "uplink": {"compressor": "dense"},
            "privacy": {"unit": "record", "noise_at": "shared", "members": members},
        }
    )


def test_members_are_read_as_they_are_written() -> None:
    odd = {"a": KEYS[0], "7.b_C-": KEYS[1], "z" * 64: KEYS[2]}
    assert members_of(text_of(odd)) == odd and shared(text_of(odd)).members == odd
    assert text_of(dict(reversed(odd.items()))) == text_of(odd), "one text for all who know them"
    assert members_of("") == {}


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "3", "[[" * 5000, '[["a", 3]]', '{"a": 3}', '{"a": ["x"]}', '{"a": {"b": "c"}}',
        f'{{"a": "{KEYS[0]}", "a": "{KEYS[1]}"}}', f'{{"a": "{KEYS[0]}", "b": "{KEYS[0]}"}}',
        f'{{"a": "{KEYS[0].upper()[:-1]}A"}}', f'{{"a": "{KEYS[0]}0"}}', f'{{"": "{KEYS[0]}"}}',
        f'{{"../a": "{KEYS[0]}"}}', f'{{"a\\u202e": "{KEYS[0]}"}}', f'[["a", "{KEYS[0]}"]]',
    ],
)  # fmt: skip
def test_what_could_be_read_otherwise_is_refused(text: str) -> None:
    with pytest.raises(ScenarioError, match=r"privacy\.members: must be empty, or a JSON object"):
        shared(text)


@pytest.mark.parametrize(
    "name",
    [
        f"hungary: {KEYS[1]}"[:64], "hungary ", "cleveland (this site)", "hungary\u034f",
        "\u3164hungary", "h\u0443ngary", "Zürich", 'a"', "-a", ".a", "a/b", "z" * 65, "a\n",
    ],
)  # fmt: skip
def test_a_name_that_could_pass_for_another_or_for_a_key_is_none(name: str) -> None:
    """Operators compare keys by these names, by eye and by telephone."""
    with pytest.raises(ValueError, match=r"^a member's name must be 1 to 64 of A-Z a-z 0-9"):
        members_of(text_of({"hungary": KEYS[0], name: KEYS[1]}))


def test_names_that_differ_by_the_size_of_letters_are_the_same() -> None:
    with pytest.raises(ValueError, match=r"^must name sites, each once, got 'Hungary' again"):
        members_of('{"hungary": "%s", "Hungary": "%s"}' % (KEYS[0], KEYS[1]))  # noqa: UP031


@pytest.mark.parametrize("count", [2, 4])
def test_members_are_as_many_as_share_the_noise(count: int) -> None:
    text = text_of(dict(zip("abcde", KEYS[:count], strict=False)))
    with pytest.raises(ScenarioError, match=r"must name all federation\.sites, 3, got "):
        shared(text)
