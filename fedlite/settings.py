"""Typed TOML tables: one error for each wrong key, with its rule, its value and the mend.

A table is a dataclass whose fields are made by `setting`; `section` reads one. Scenarios, a site's
`site.toml` and a coordinator's `coordinator.toml` are read by it.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields
from typing import Any

Value = str | int | float | bool


def setting(default: Any, rule: str, check: Callable[[Any], bool], **limits: Any) -> Any:
    """Return a dataclass field with its default, its rule in words, and the check of a value.

    limits: as much of the rule as JSON Schema can say, by its keywords, for editors.
    """
    return field(default=default, metadata={"rule": rule, "check": check, "limits": limits})


def choice(default: str, *options: str) -> Any:
    """Return a field that holds one of these texts, of which one may be empty."""
    rule = "empty, or one of " if "" in options else "one of "
    return setting(
        default, rule + ", ".join(filter(None, options)), options.__contains__, enum=options
    )


def positive(default: float) -> Any:
    """Return a field that holds a number above 0."""
    return setting(default, "greater than 0", lambda v: v > 0, exclusiveMinimum=0)


def at_least(default: float, low: float) -> Any:
    """Return a field that holds a number of at least `low`."""
    return setting(default, f"at least {low}", lambda v: v >= low, minimum=low)


def between(default: float, low: float, high: float) -> Any:
    """Return a field that holds a number from `low` to `high`, both included."""
    limits = {"minimum": low, "maximum": high}
    return setting(default, f"from {low} to {high}", lambda v: low <= v <= high, **limits)


def fraction(default: float) -> Any:
    """Return a field that holds a share: above 0, at most 1."""
    limits = {"exclusiveMinimum": 0, "maximum": 1}
    return setting(default, "greater than 0 and at most 1", lambda v: 0 < v <= 1, **limits)


def below_one(default: float) -> Any:
    """Return a field that holds a share: at least 0, below 1."""
    limits = {"minimum": 0, "exclusiveMaximum": 1}
    return setting(default, "at least 0 and less than 1", lambda v: 0 <= v < 1, **limits)


def anything(default: Any) -> Any:
    """Return a field that holds any value of its type."""
    return setting(default, "", lambda v: True)


def options_of(key: str) -> Any:
    """Return a field for the options of what `key` names, kept as one JSON text; empty for none.

    So a table is frozen, can be hashed, and fits into Flower's flat run config.
    """
    rule = {"rule": "empty, or a table of options", "check": lambda v: True, "options": key}
    return field(default="", metadata=rule | {"limits": {"type": ["object", "string"]}})


def read_options(text: str) -> dict[str, Any]:
    """Return the options in the JSON text of such a field.

    >>> read_options('{"hidden": 64}'), read_options("")
    ({'hidden': 64}, {})
    """
    return dict(json.loads(text)) if text else {}


def write_options(given: Any) -> str:
    """Return the one JSON text of a table of options, which may be such a text already.

    Raises ValueError, telling the rule, for what is none: names of letters, digits and _, and as
    values finite numbers, text, true or false, and lists of those.

    >>> write_options({"sizes": [8, 4], "bias": False})
    '{"bias": false, "sizes": [8, 4]}'
    """
    try:
        table = json.loads(given, object_pairs_hook=_once) if isinstance(given, str) else given
        if not isinstance(table, Mapping):
            raise ValueError("no table")
        for name, value in table.items():
            if not (isinstance(name, str) and name.isidentifier() and name.isascii()):
                raise ValueError(f"no name of an option: {name!r}")
            for one in value if isinstance(value, list) else [value]:
                if type(one) not in (str, int, float, bool):
                    raise ValueError(f"{name} is {one!r}")
        text = json.dumps(dict(table), sort_keys=True, allow_nan=False) if table else ""
    except (ValueError, RecursionError) as error:
        raise ValueError(
            "must be a table of finite numbers, text, true or false, and lists of these, got "
            f"{_short(given)} ({error})"
        ) from None
    if len(text) > _LONGEST_OPTIONS:
        raise ValueError(f"must have at most {_LONGEST_OPTIONS} characters, got {len(text)}")
    return text


def pairs_of(text: str) -> list[tuple[str, Any]]:
    """Return the names and values of a JSON object as they stand there, a name maybe twice.

    text: empty for none. Objects within are such lists, too. Raises ValueError for another text.

    >>> pairs_of('{"a": 1, "a": [2]}'), pairs_of("")
    ([('a', 1), ('a', [2])], [])
    """
    try:
        found = json.loads(text, object_pairs_hook=list) if text else []
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not (text or "{").lstrip().startswith("{"):
        raise ValueError("must be a JSON object")
    return found


_LONGEST_OPTIONS = 10_000


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands there twice")
    return dict(pairs)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


def section(name: str, kind: type[Any], table: Mapping[str, Any], errors: list[str]) -> Any:
    """Return a `kind` from a TOML table; whatever is wrong is added to `errors`, a line each."""
    known = {f.name: f for f in fields(kind)}
    values: dict[str, Value] = {}
    for key, value in table.items():
        if key not in known:
            shown = key if key.isprintable() else repr(key)
            errors.append(f"{name}.{shown}: no such key{did_you_mean(key, known)}")
            continue
        spec, default = known[key], _default(kind, key)
        if "options" in spec.metadata and value != "":
            try:
                values[key] = write_options(value)
            except ValueError as error:
                errors.append(f"{name}.{key}: {error}; for example [{name}.{key}] rate = 0.5")
            continue
        expected = type(default)
        # TOML writes 1 for 1.0; a bool is an int to Python, but never to a person.
        if expected is float and type(value) is int:
            value = float(value)
        if type(value) is not expected:
            errors.append(
                f"{name}.{key}: must be {_type_name(expected)}, got {value!r}; "
                f"for example {key} = {_toml(default)}"
            )
        elif isinstance(value, float) and not math.isfinite(value):
            errors.append(f"{name}.{key}: must be finite, got {value!r}; use {_toml(default)}")
        elif not spec.metadata["check"](value):
            errors.append(
                f"{name}.{key}: must be {spec.metadata['rule']}, got {value!r}; "
                f"the default is {_toml(default)}"
            )
        else:
            values[key] = value
    return kind(**values)


def _default(kind: type[Any], key: str) -> Value:
    default: Value = getattr(kind(), key)
    return default


def parse_value(text: str) -> Any:
    """Read one TOML value; what is no TOML value is a string, so quotes may be left out.

    So is a number that is not decimal: nobody means 2 by it.

    >>> parse_value("3"), parse_value("0.5"), parse_value("true"), parse_value("digits")
    (3, 0.5, True, 'digits')
    >>> parse_value("0x2")
    '0x2'
    """
    if text[:2] in ("0x", "0o", "0b"):
        return text
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the nearest one, or all there are."""
    known = list(known)
    meant, options = nearest(name, known), ", ".join(sorted(known))
    return f"; did you mean {meant}?" if meant else f"; the known ones are {options}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most likely meant: the only one that begins so, or one alike.

    >>> nearest("heart", ["digits", "heart-disease"]), nearest("digts", ["digits", "diagnoses"])
    ('heart-disease', 'digits')
    >>> nearest("s", ["sentiment", "smollm2"])
    ''
    """
    known = list(known)
    begun = [one for one in known if name and one.startswith(name)]
    close = begun if len(begun) == 1 else difflib.get_close_matches(name, begun or known, n=1)
    return close[0] if close else ""


def _type_name(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[kind]


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
