"""The rows of a ledger: one canonical form in JSON, what is hashed, and what is signed.

A row is one line. Its hash covers everything but the signature, `prev` is the hash of the row
before, and the site's Ed25519 key signs the hash.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from fedlite.identity.canonical import canonical
from fedlite.privacy.ledger.bodies import check_body
from fedlite.privacy.ledger.rules import LedgerError

MAX_LINE = 65536
NO_HASH = "0" * 64
_ROW_KEYS = {"body", "hash", "kind", "prev", "seq", "signature", "time"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_HEX = {digits: re.compile(rf"[0-9a-f]{{{digits}}}") for digits in (64, 128)}


@dataclass(frozen=True)
class Row:
    """One row. `hash` and `prev` are 64 hex digits, `signature` 128; `time` is UTC, informative."""

    seq: int
    prev: str
    kind: str
    time: str
    body: Mapping[str, Any]
    hash: str
    signature: str

    @property
    def line(self) -> bytes:
        """The bytes of this row in the file, line end included."""
        return canonical(vars(self)) + b"\n"


@dataclass(frozen=True)
class Head:
    """The last row of a ledger: all that a witness needs. `ledger` is the hash of row 0."""

    ledger: str
    seq: int
    hash: str
    signature: str


def row_hash(seq: int, prev: str, kind: str, time: str, body: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a row, 64 hex digits; the signature is the one thing not covered."""
    said = canonical({"body": body, "kind": kind, "prev": prev, "seq": seq, "time": time})
    return hashlib.sha256(b"fedlite-ledger-row-v1\n" + said).hexdigest()


def row_message(hash: str) -> bytes:
    """Return what the site's key signs for the row of this hash."""
    return b"fedlite-ledger-v1\n" + bytes.fromhex(hash)


def witness_message(ledger: str, seq: int, hash: str) -> bytes:
    """Return what a server signs once it has seen row `seq` of `ledger` with this hash."""
    return (
        b"fedlite-witness-v1\n"
        + bytes.fromhex(ledger)
        + seq.to_bytes(4, "little")
        + bytes.fromhex(hash)
    )


def grant_message(ledger: str, in_force: str, policy: Mapping[str, Any]) -> bytes:
    """Return what the data owner signs to allow `policy`.

    in_force: hash of the row with the policy in force, so that a grant serves one change only.
    """
    return (
        b"fedlite-grant-v1\n" + bytes.fromhex(ledger) + bytes.fromhex(in_force) + canonical(policy)
    )


def rotate_message(ledger: str, prev: str) -> bytes:
    """Return what a new key signs to prove that it is held; `prev`: hash of the row before."""
    return b"fedlite-rotate-v1\n" + bytes.fromhex(ledger) + bytes.fromhex(prev)


def parse(line: bytes) -> Row:
    """Read one line, end included; raise LedgerError unless it is a row in canonical form."""
    if len(line) > MAX_LINE:
        raise LedgerError("line-too-long", f"must have at most {MAX_LINE} bytes, got {len(line)}")
    value = decode(line)
    if value.keys() != _ROW_KEYS:
        odd = ", ".join(map(repr, sorted(value.keys() ^ _ROW_KEYS)))[:200]
        raise LedgerError("row-keys", f"missing or not allowed: {odd}")
    _check_fields(value)
    try:
        same = canonical(value) + b"\n" == line
    except (ValueError, RecursionError) as error:
        raise LedgerError("not-finite", f"every number must be finite ({error})") from None
    if not same:
        raise LedgerError("not-canonical", "must be the canonical form of what it says")
    check_body(value["kind"], value["body"])
    return Row(**value)


def stated(line: bytes) -> tuple[int | None, str | None]:
    """Return the seq and hash that a refused line claims, or None twice where it has none."""
    try:
        value = decode(line[:MAX_LINE])
        _check_fields(value)
    except (LedgerError, KeyError):
        return None, None
    return value["seq"], value["hash"]


def decode(line: bytes) -> dict[str, Any]:
    """Return the one JSON object in `line`; the strict way in which everything here is read.

    Raises LedgerError: "duplicate-key", "not-finite" (also for a number that overflows), or
    "not-json" for anything else, be it bytes that are no ASCII or what follows the object.
    """
    try:
        value = _DECODER.decode(line.decode("ascii"))
    except LedgerError:
        raise
    except (ValueError, RecursionError) as error:
        raise LedgerError("not-json", f"must be one JSON object in ASCII ({error})") from None
    if not isinstance(value, dict):
        raise LedgerError("not-json", f"must be one JSON object, got {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise LedgerError("duplicate-key", f"key {twice[:80]!r} occurs twice")
    return value


def _no_constant(word: str) -> NoReturn:
    raise LedgerError("not-finite", f"every number must be finite, got {word}")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _no_constant(digits[:80])


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
)


def _check_fields(value: Mapping[str, Any]) -> None:
    for name, digits in (("hash", 64), ("prev", 64), ("signature", 128)):
        text = value[name]
        if not isinstance(text, str) or not _HEX[digits].fullmatch(text):
            raise LedgerError("row-value", f"{name} must be {digits} lower-case hex digits")
    if type(value["seq"]) is not int or not 0 <= value["seq"] < 2**32:
        raise LedgerError("row-value", "seq must be a whole number below 2^32")
    if not isinstance(value["kind"], str):
        raise LedgerError("row-value", "kind must be a word")
    time = value["time"]
    try:
        good = isinstance(time, str) and _TIME.fullmatch(time) and datetime.fromisoformat(time)
    except ValueError:
        good = None
    if not good:
        raise LedgerError("row-value", "time must look like 2026-11-22T09:30:00Z")
