"""One value has one text, whatever order and spelling it came in."""

from __future__ import annotations

import json

import pytest

from fedlite.identity.canonical import canonical


def test_the_order_of_keys_and_the_spelling_of_text_make_no_difference() -> None:
    one = {"b": [1, 2.5, None, True], "ä": "\u00e9", "a": {"y": 1, "x": 2}}
    other = json.loads('{"a": {"x": 2, "y": 1}, "\\u00e4": "\\u00e9", "b": [1, 2.5, null, true]}')
    assert canonical(one) == canonical(other)
    assert json.loads(canonical(one)) == one


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_json_has_no_text_for_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": value})
