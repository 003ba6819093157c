"""What each kind of row says: a table of exact keys, types and ranges.

A ledger is read by people who do not trust its writer, so nothing is converted or ignored: an
unknown key is an error, a whole number is not a float, and text cannot steer a terminal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from fedlite.identity.names import site_problem
from fedlite.privacy import ranges
from fedlite.privacy.ledger.rules import LedgerError
from fedlite.privacy.ranges import Range

# A check raises `_Bad` or returns nothing.
Check = Callable[[Any], None]
UNITS = ("record", "record-shared", "client-site", "client-server", "client-shared")
# Whole numbers beyond this are not exact in every JSON reader.
_LARGEST = 2**53 - 1


class _Bad(Exception):
    """A value breaks its rule; `path` grows on the way out of nested objects."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(text)
        self.rule, self.text, self.path = rule, text, ""


def _must(what: str, value: object) -> _Bad:
    shown = repr(value)
    return _Bad(
        "body-value", f"must be {what}, got {shown if len(shown) <= 80 else shown[:77] + '...'}"
    )


def _whole(low: int, high: int = _LARGEST) -> Check:
    def check(value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise _must(f"a whole number from {low} to {high}", value)

    return check


def _real(range: Range) -> Check:
    """Accept a finite float of a range."""
    what = f"a finite float {range.rule}"

    def check(value: Any) -> None:
        if not isinstance(value, float):
            raise _must(what, value)
        if not math.isfinite(value):
            raise _Bad("not-finite", f"must be {what}, got {value!r}")
        if value not in range:
            raise _must(what, value)

    return check


def _order(value: Any) -> None:
    _real(Range(2.0, 1024.0))(value)
    # At other orders the loss of sampled Gaussians is not computed exactly.
    if value != int(value):
        raise _must("a whole number, as a float", value)


def _hex(digits: int, *, or_empty: bool = False) -> Check:
    pattern = re.compile(rf"[0-9a-f]{{{digits}}}")

    def check(value: Any) -> None:
        if or_empty and value == "":
            return
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise _must(f"{digits} lower-case hex digits{' or empty' * or_empty}", value)

    return check


def _digest(value: Any) -> None:
    """Accept the hex of any usual hash or commit."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{16,128}", value):
        raise _must("16 to 128 lower-case hex digits", value)


def _text(value: Any) -> None:
    # Printable: no control or direction characters, no lone surrogates.
    if not isinstance(value, str) or not 1 <= len(value) <= 200 or not value.isprintable():
        raise _must("1 to 200 printable characters", value)


def _word(value: Any) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z][a-z0-9-]{0,63}", value):
        raise _must("a word of at most 64 lower-case letters, digits and hyphens", value)


def _choice(*choices: str) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            raise _must("one of " + ", ".join(choices), value)

    return check


def _each(item: Check) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, list):
            raise _must("a list", value)
        for index, one in enumerate(value):
            _within(f"[{index}]", item, one)
        if len(set(value)) != len(value):
            raise _must("a list without repetitions", value)

    return check


def _within(name: str, check: Check, value: Any) -> None:
    try:
        check(value)
    except _Bad as bad:
        bad.path = f"{name}.{bad.path}" if bad.path and bad.path[0] != "[" else name + bad.path
        raise


def _object(table: Mapping[str, Check]) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise _must("an object", value)
        if value.keys() != table.keys():
            missing = ", ".join(sorted(table.keys() - value.keys())) or "none"
            extra = ", ".join(sorted(map(repr, value.keys() - table.keys()))) or "none"
            raise _Bad(
                "body-keys", f"must have exactly its keys; missing: {missing}; not allowed: {extra}"
            )
        for name, one in table.items():
            _within(name, one, value[name])

    return check


_LIMITS: dict[str, Check] = {
    "epsilon": _real(ranges.CEILING),
    "delta": _real(ranges.DELTA),
    "person": _real(ranges.CEILING),
    "per_run": _real(ranges.CEILING),
    # A policy may also let updates without privacy leave; a plan is always private.
    "units": _each(_choice(*UNITS, "none")),
    "metrics": _each(_text),
    "servers": _each(_hex(64)),
}
# Which others a site trusts with its noise: only where it trusts any, so that what was written
# before there was such trust is read as it stands.
_TRUST: dict[str, Check] = {"honest": _whole(0, 99), "alone": _real(ranges.CEILING)}
_TRUSTING, _ALL_ALONE = _object(_LIMITS | _TRUST), _object(_LIMITS)


def _policy(value: Any) -> None:
    trusting = isinstance(value, dict) and bool(_TRUST.keys() & value.keys())
    (_TRUSTING if trusting else _ALL_ALONE)(value)
    if trusting and not (value["honest"] or value["alone"]):
        raise _must("without honest and alone where both are 0", value)


_TERMS: dict[str, Check] = {
    "run": _hex(16),
    "unit": _choice(*UNITS),
    "noise_multiplier": _real(ranges.NOISE),
    "sampling_rate": _real(ranges.RATE),
    "steps": _whole(1, ranges.MOST_STEPS),
    "asked": _whole(1, ranges.MOST_STEPS),
    "clip": _real(ranges.CLIP),
    "expected_batch": _whole(0),
    "max_batch": _whole(0),
    "max_records": _whole(0),
    "delta": _real(ranges.DELTA),
    "epsilon_asked": _real(ranges.CEILING),
    "bound": _choice("pld", "rdp"),
    "charged": _real(ranges.CEILING),
    "code": _digest,
}


def _group(value: Any) -> None:
    if not isinstance(value, dict) or not 3 <= len(value) <= 100:
        raise _must("an object of 3 to 100 names and keys", value)
    for name, key in value.items():
        if site_problem(name):
            raise _must("an object by sites' names", name)
        _within(repr(name), _hex(64), key)
    if len(set(value.values())) != len(value):
        raise _must("an object without repeated keys", value)


# Who shares the noise, by name and key, how many of them are taken to be honest, how long a sum is,
# and epsilon of all plans up to this one if all others collude.
_SHARED: dict[str, Check] = {
    "group": _group,
    "alone": _real(ranges.CEILING),
    "members": _whole(3, 100),
    "least": _whole(1, 100),
    "honest": _whole(1, 100),
    "coordinates": _whole(1),
}
_ALONE = _object(_TERMS)
_TOGETHER = _object(_TERMS | _SHARED)
# In how many sums a round is, where not in one, and by which seed it is divided: what was written
# before is read as it stands.
_DIVIDED = _object(_TERMS | _SHARED | {"groups": _whole(2, 33), "split": _hex(16)})


def _plan(value: Any) -> None:
    shared = isinstance(value, dict) and ranges.shares_noise(str(value.get("unit")))
    divided = _DIVIDED if shared and "groups" in value else _TOGETHER
    (divided if shared else _ALONE)(value)


KINDS: dict[str, Check] = {
    "genesis": _object(
        {
            "version": _whole(1, 1),
            "site": _text,
            "dataset": _text,
            "key": _hex(64),
            "owner": _hex(64, or_empty=True),
            "commitment": _hex(64),
            "code": _digest,
            "order": _order,
            "policy": _policy,
            "plan": _plan,
        }
    ),
    "plan": _object({"plan": _plan}),
    "reserve": _object(
        {
            "plan": _whole(0),
            "run": _hex(16),
            "round": _whole(0),
            "steps": _whole(1),
            "model": _hex(16),
        }
    ),
    "settle": _object({"of": _whole(1), "steps": _whole(0), "payload": _hex(64)}),
    "release": _object({"of": _whole(1), "payload": _hex(64), "bytes": _whole(0)}),
    "refuse": _object({"run": _hex(16), "round": _whole(0), "why": _word}),
    "witness": _object(
        {"seq": _whole(0), "hash": _hex(64), "witness": _hex(64), "signature": _hex(128)}
    ),
    "policy": _object({"policy": _policy, "grant": _hex(128, or_empty=True)}),
    "dataset-change": _object({"commitment": _hex(64)}),
    "key-rotate": _object({"key": _hex(64), "proof": _hex(128)}),
}


def check_body(kind: str, body: Any) -> None:
    """Raise LedgerError unless `body` is exactly what a row of `kind` says.

    Rules: "unknown-kind", "body-keys", "body-value", "not-finite".
    """
    try:
        check = KINDS[kind]
    except (KeyError, TypeError):
        raise LedgerError(
            "unknown-kind", f"kind must be one of {', '.join(KINDS)}, got {kind!r}"
        ) from None
    try:
        check(body)
    except _Bad as bad:
        name = f"body.{bad.path}" if bad.path else "body"
        raise LedgerError(bad.rule, f"{kind}: {name} {bad.text}") from None


def raised(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name what the POLICY `new` allows and `old` did not; such a change needs the owner's grant.

    For `person` and `per_run`, 0.0 means that there is no such ceiling. `honest` and `alone` are 0
    where they are left out.

    >>> policy = {"epsilon": 3.0, "delta": 1e-5, "person": 6.0, "per_run": 0.0,
    ...           "units": ["record"], "metrics": [], "servers": []}
    >>> raised(policy, policy | {"epsilon": 2.0, "per_run": 1.0, "units": []})
    []
    >>> raised(policy, policy | {"epsilon": 4.0, "person": 0.0, "metrics": ["loss"]})
    ['epsilon', 'person', 'metrics']
    """
    names = [name for name in ("epsilon", "delta") if new[name] > old[name]]
    for name in ("person", "per_run"):
        before, after = (policy[name] or math.inf for policy in (old, new))
        if after > before:
            names.append(name)
    names += [name for name in _TRUST if new.get(name, 0) > old.get(name, 0)]
    return names + [name for name in ("units", "metrics") if not set(new[name]) <= set(old[name])]
