"""The form of a row: the key holder's own mistakes and tricks. All are signed.

Covers fedlite/privacy/ledger/bodies.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedlite.identity.canonical import canonical
from fedlite.privacy.ledger import (
    Ledger,
    LedgerError,
    Row,
    read,
    verify,
)
from tests.privacy.ledger.book import (
    PLAN,
    POLICY,
    SITE,
    genesis,
    lines_of,
    refused,
    reserve,
    rules,
    signed,
)


def odd(begun: Path, **changes: Any) -> list[str]:
    """Sign a changed last row and return the rules that it breaks."""
    rows = read(begun)
    return rules(b"".join(row.line for row in rows[:-1]) + signed(rows[-1], **changes))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_found(begun: Path, word: str) -> None:
    data = begun.read_bytes()
    for old in (b'"clip":0.1', b'"order":12.0', b'"epsilon":3.0'):
        edited = data.replace(old, old.split(b":")[0] + b":" + word.encode())
        assert rules(edited) == ["not-finite"]
    edited = data.replace(b'"round":2', b'"round":' + word.encode())
    assert rules(edited) == ["not-finite", "chain"] or rules(edited) == ["not-finite"]


def test_a_duplicate_key_is_found(begun: Path) -> None:
    data = begun.read_bytes().replace(b'"round":3', b'"round":3,"round":3')
    assert rules(data) == ["duplicate-key"]
    data = begun.read_bytes().replace(b'"seq":4', b'"seq":4,"seq":4')
    assert rules(data) == ["duplicate-key"]


def test_an_unknown_kind_is_found(begun: Path) -> None:
    assert odd(begun, kind="refund") == ["unknown-kind"]


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ({}, "body-keys"),
        (reserve(3)[1] | {"note": 1}, "body-keys"),
        ({name: value for name, value in reserve(3)[1].items() if name != "run"}, "body-keys"),
        ([], "body-value"),
        (reserve(3)[1] | {"steps": 1.0}, "body-value"),
        (reserve(3)[1] | {"steps": True}, "body-value"),
        (reserve(3)[1] | {"steps": -1}, "body-value"),
        (reserve(3)[1] | {"steps": 0}, "body-value"),
        (reserve(3)[1] | {"steps": 2**53}, "body-value"),
        (reserve(3)[1] | {"run": "A" * 16}, "body-value"),
        (reserve(3)[1] | {"model": None}, "body-value"),
    ],
)
def test_a_body_with_other_keys_or_values_is_found(begun: Path, body: Any, rule: str) -> None:
    assert odd(begun, body=body) == [rule]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("plan.noise_multiplier", 0.0), ("plan.noise_multiplier", -1.0), ("plan.clip", 1),
        ("plan.sampling_rate", 1.5), ("plan.sampling_rate", 0.0), ("plan.delta", 1.0),
        ("plan.delta", 0.0), ("plan.steps", 0), ("plan.charged", -0.5), ("plan.unit", "person"),
        ("plan.bound", "gdp"), ("plan.code", "xyz"), ("policy.epsilon", -1.0),
        ("policy.person", "6"), ("policy.units", ["record", "record"]), ("policy.units", "record"),
        ("policy.servers", ["00"]), ("policy.metrics", [1]), ("order", 1.0), ("site", ""),
        ("site", "a\x1b[2J"), ("site", "a\u202eb"), ("site", "\ud800"), ("site", "x" * 201),
        ("owner", "00"), ("version", 0), ("version", True), ("version", "1"), ("key", "0" * 63),
    ],
)  # fmt: skip
def test_a_genesis_out_of_range_is_refused_when_written_and_found_when_read(
    path: Path, where: str, value: Any
) -> None:
    body = genesis(SITE) | {"policy": dict(POLICY), "plan": dict(PLAN)}
    *outer, name = where.split(".")
    (body[outer[0]] if outer else body)[name] = value
    with Ledger.open(path, SITE) as ledger, pytest.raises(LedgerError) as caught:
        ledger.create(body)
    assert caught.value.rule == "body-value" and name in caught.value.text
    assert not path.exists()
    row = Row(0, "0" * 64, "genesis", "2026-11-22T09:30:00Z", {}, "", "")
    assert rules(signed(row, body=body)) == ["body-value"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nothing_that_is_not_finite_is_written(begun: Path, value: float) -> None:
    before = begun.read_bytes()
    with Ledger.open(begun, SITE) as ledger:
        for name in ("noise_multiplier", "clip", "delta", "charged", "epsilon_asked"):
            with pytest.raises(LedgerError) as caught:
                ledger.append(reserve(8), ("plan", {"plan": PLAN | {name: value}}))
            assert caught.value.rule == "not-finite" and name in str(caught.value)
        assert len(ledger.rows) == 5
    assert begun.read_bytes() == before


def test_a_row_with_other_keys_or_fields_is_found(begun: Path) -> None:
    good = json.loads(lines_of(begun.read_bytes())[-1])
    head = b"".join(lines_of(begun.read_bytes())[:-1])

    def broken(**changes: Any) -> list[str]:
        row = {name: value for name, value in (good | changes).items() if value is not ...}
        return rules(head + canonical(row) + b"\n")

    assert broken() == []
    assert broken(note=1) == broken(seq=...) == broken(body=...) == ["row-keys"]
    for changes in (
        {"hash": "0"}, {"prev": None}, {"signature": "AB" * 64}, {"seq": -1}, {"seq": 4.0},
        {"seq": True}, {"seq": 2**32}, {"kind": 1}, {"time": 0}, {"time": "2026-13-22T09:30:00Z"},
        {"time": "2026-11-22T09:30:00+00:00"},
        {"time": "\N{FULLWIDTH DIGIT TWO}026-11-22T09:30:00Z"},
    ):  # fmt: skip
        assert broken(**changes) == ["row-value"]


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(b'":', b'": ', 1),
        lambda line: line.replace(b'"round":3', b'"round":3e0'),
        lambda line: line.replace(b"reserve", b"\\u0072eserve"),
        lambda line: b" " + line,
        lambda line: line[:-1] + b"\r\n",
    ],
)
def test_another_spelling_of_the_same_row_is_found(
    begun: Path, change: Callable[[bytes], bytes]
) -> None:
    lines = lines_of(begun.read_bytes())
    assert change(lines[-1]) != lines[-1]
    assert rules(b"".join([*lines[:-1], change(lines[-1])])) == ["not-canonical"]


@pytest.mark.parametrize(
    "line", [b"[]\n", b"null\n", b"{\n", b"\n", b"\xff\n", b"[" * 60000 + b"\n",
             b"9" * 5000 + b"\n", '{"é":1}\n'.encode()]
)  # fmt: skip
def test_a_line_that_is_no_object_is_found(begun: Path, line: bytes) -> None:
    assert rules(begun.read_bytes() + line) == ["not-json"]


def test_a_newer_version_is_never_a_pass(begun: Path) -> None:
    lines, rows = lines_of(begun.read_bytes()), read(begun)
    newer = signed(rows[0], body={**rows[0].body, "version": 2, "something": "new"})
    for data in (newer, newer + b"".join(lines[1:]), b'{"kind":"genesis","body":{"version":7}}\n'):
        found = verify(data)
        assert [finding.rule for finding in found.findings] == ["newer-version"]
        assert found.rows == [] and found.errors
        text = found.findings[0].text
        assert text.startswith("made by a newer fedlite") and text.endswith("update to read it")
        begun.write_bytes(data)
        assert refused(begun).rule == "newer-version"
