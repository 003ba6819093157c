"""A JSON Schema of the scenario, made from its own keys: for editors of TOML files.

It says of each key its type, its default, its choices and its range. Rules that tie several keys
together are told by `fedlite simulate` only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any

from fedlite.scenario.whole import SECTIONS

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
_SECTION = re.compile(r"^### (`\[.*?)\n(.*?)(?=^##)", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| `(\w+)` \| \w+ \| `.*?` \| .*? \| (.*) \|$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")


def schema(meanings: Mapping[tuple[str, str], str] | None = None) -> dict[str, Any]:
    """Return the schema (draft 7, which editors know best).

    meanings: what each key means, by section and key; see `meanings_in`.

    >>> found = schema()["properties"]["federation"]["properties"]["rounds"]
    >>> found["type"], found["default"], found["minimum"]
    ('integer', 30, 1)
    """
    told = meanings or {}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A fedlite scenario",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {
                "type": "object",
                "description": (kind.__doc__ or "").split("\n")[0],
                "additionalProperties": False,
                "properties": {f.name: _key(f, told.get((name, f.name), "")) for f in fields(kind)},
            }
            for name, kind in SECTIONS.items()
        },
    }


def meanings_in(page: str) -> dict[tuple[str, str], str]:
    """Return what the tables of docs/simulate.md say that each key means.

    >>> page = "### `[a]` and `[b]`\\n| `k` | int | `1` | any | See [X](x.md). |\\n## end"
    >>> meanings_in(page)
    {('a', 'k'): 'See X.', ('b', 'k'): 'See X.'}
    """
    return {
        (section, key): _LINK.sub(r"\1", meaning)
        for heading, body in _SECTION.findall(page)
        for section in re.findall(r"\[(\w+)\]", heading)
        for key, meaning in _ROW.findall(body)
    }


def _key(of: Field[Any], meaning: str) -> dict[str, Any]:
    rule = of.metadata["rule"]
    told = [meaning, f"Rule: {rule}." if rule else ""]
    limits = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in of.metadata.get("limits", {}).items()
    }
    return {
        "type": _TYPES[type(of.default)],
        "default": of.default,
        "description": " ".join(filter(None, told)),
        **limits,
    }
