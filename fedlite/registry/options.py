"""The options of a thing that is called by name, held against the signature of what makes it.

What the library gives comes first, by position; every parameter after that is an option, and so is
every keyword-only one. Its annotation says what it may be, or else its default.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Union

from fedlite.registry.own import line_of
from fedlite.settings import did_you_mean

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    tuple: "a list",
}
_LISTS = (list, tuple, Sequence)
_TAKEN = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def fitting(
    builder: Callable[..., Any],
    given: int,
    options: Mapping[str, Any],
    key: str,
    named: Collection[str] = (),
    whose: str = "",
) -> dict[str, Any]:
    """Return the options as `builder` wants them: a list as the tuple, a 1 as the 1.0 it asks for.

    given: how many arguments it gets by position beside them; named: which by name. key: the table
    that holds them. whose: what it is called, for people; where it stands, if that is not said.

    Raises ValueError for an option that it does not take, one of the wrong type, and one that is
    missing; with the key, the rule, the value, the mend, and where `builder` stands.

    >>> fitting(lambda shape, rate=0.5: None, 1, {"rate": 1}, "model.options")
    {'rate': 1.0}
    """
    free = _free(builder, given, named)
    known = _kinds(builder, free)
    whose = whose or f"{getattr(builder, '__name__', builder)} ({line_of(builder)})"
    any_name = any(p.kind is p.VAR_KEYWORD for p in _parameters(builder))
    result = {}
    for name, value in options.items():
        if name in named or (name not in known and not any_name):
            mend = did_you_mean(name, known) if known else "; it takes none, so take it away"
            raise ValueError(f"{key}.{name}: must be an option of {whose}, got {value!r}{mend}")
        result[name] = _checked(f"{key}.{name}", value, known.get(name, Any), whose)
    for one in free:
        if one.default is one.empty and one.name not in options:
            raise ValueError(
                f"{key}.{one.name}: must be set, as {whose} has no default for it, got nothing; "
                f"set {key}.{one.name}"
            )
    return result


def _parameters(builder: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(builder).parameters.values())
    except (TypeError, ValueError):  # some of C's do not tell
        return [inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)]


def _free(
    builder: Callable[..., Any], given: int, named: Collection[str]
) -> list[inspect.Parameter]:
    """Return the parameters that are options."""
    found = [p for p in _parameters(builder) if p.name not in named]
    by_position = [p for p in found if p.kind in _TAKEN]
    after = [p for p in by_position[given:] if p.kind is p.POSITIONAL_OR_KEYWORD]
    return after + [p for p in found if p.kind is p.KEYWORD_ONLY]


def _kinds(builder: Callable[..., Any], free: list[inspect.Parameter]) -> dict[str, Any]:
    """Return what each option may be: its annotation, the type of its default, or anything."""
    told = builder.__init__ if inspect.isclass(builder) else builder
    try:
        hints = typing.get_type_hints(told)
    except Exception:  # an annotation is any expression of somebody else's
        hints = {}
    result = {}
    for one in free:
        default = type(one.default)
        # A number may just have been written short: what is 1 by default may be 0.5.
        kind = int | float if default is int else default if default in _WORDS else Any
        result[one.name] = hints.get(one.name, kind)
    return result


def _checked(key: str, value: Any, kind: Any, whose: str) -> Any:
    found, ok = _as(value, kind)
    if not ok:
        raise ValueError(
            f"{key}: must be {_word(kind)}, as {whose} says, got {value!r}; give it such a value"
        )
    return found


def _as(value: Any, kind: Any) -> tuple[Any, bool]:
    """Return the value as `kind` has it, and whether it fits."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (Union, types.UnionType):
        tried = [_as(value, one) for one in inner]
        return next(((found, True) for found, ok in tried if ok), (value, False))
    if origin is Literal:
        return value, any(value == one and type(value) is type(one) for one in inner)
    if origin is float and type(value) is int:
        return float(value), True
    if isinstance(origin, type) and issubclass(origin, _LISTS) and origin is not str:
        if not isinstance(value, list):
            return value, False
        kinds = [one for one in inner if one is not Ellipsis]
        fixed = origin is tuple and inner and Ellipsis not in inner
        if fixed and len(kinds) != len(value):
            return value, False
        each = kinds if fixed else (kinds or [Any]) * len(value)
        parts = [_as(part, one) for part, one in zip(value, each, strict=False)]
        made = tuple if origin is tuple else list
        return made(found for found, _ in parts), all(ok for _, ok in parts)
    if origin in _WORDS or origin is type(None):
        return value, type(value) is origin
    return value, True


def _word(kind: Any) -> str:
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (Union, types.UnionType):
        words = (_word(one) for one in inner if one not in (type(None), int) or float not in inner)
        return " or ".join(words)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inner))
    if origin in _LISTS:
        of = [one for one in inner if one is not Ellipsis]
        return f"a list of {', '.join(map(_word, of))}" if of else "a list"
    return _WORDS.get(origin, getattr(kind, "__name__", str(kind)))
