"""What can be wrong with a ledger: the rules, one sentence each, and the errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

RULES = {
    # The form of one row.
    "empty": "A ledger has at least its first row; a file of no bytes is not a ledger.",
    "not-a-ledger": "The first line is the row of kind genesis; another file is not read further.",
    "newer-version": "A ledger of a newer fedlite is not judged by an older one.",
    "line-too-long": "A line has at most 65,536 bytes, its end included.",
    "not-json": "A line is one JSON object in ASCII.",
    "duplicate-key": "No key occurs twice in an object.",
    "not-finite": "Every number is finite.",
    "not-canonical": "A line is byte for byte the canonical form of what it says.",
    "row-keys": "A row has exactly the keys body, hash, kind, prev, seq, signature, time.",
    "row-value": "The fields of a row have their types and lengths.",
    "unknown-kind": "A row is of a kind that this version of the format knows.",
    "body-keys": "The body of a row has exactly the keys of its kind.",
    "body-value": "Every value in a body has its type and lies in its range.",
    # The chain.
    "genesis": "The first row, and no other, is of kind genesis, and names the key that signed it.",
    "sequence": "Rows are numbered 0, 1, 2, ... without a gap or a repetition.",
    "chain": "A row names the hash of the row before it; the first one names zeros.",
    "hash": "The hash of a row is the SHA-256 of what it says.",
    "signature": "A row is signed by the key in force at that row.",
    "rotation": "A new key proves that it is held, at this row of this ledger.",
    "grant": "A policy that allows more is signed by the data owner, for this one change.",
    "witness-head": "A witness speaks of an earlier row of this ledger, by its hash.",
    "witness-signature": "What a witness said is signed by the witness.",
    "damaged-tail": "What follows the last complete line is the beginning of a row, or nothing.",
    "too-many": "After 100 findings, 1,000 in a witness file, the rest of it is not judged.",
    # Notes: worth a look, and no failure.
    "torn-line": "A last line without its end was never flushed, so nothing was sent after it.",
    "clock": "Times do not run backwards; the order of rows is that of their numbers, not times.",
    # Opening and writing.
    "second-writer": "A ledger has one writer at a time.",
    "no-lock": "The file system of a ledger can lock files.",
    "not-a-file": "A ledger, its lock and its marker are files.",
    "unreadable": "A ledger can be read and written by its site.",
    "no-ledger": "A ledger begins with its genesis row before it is used.",
    "already-exists": "A ledger is created once.",
    "wrong-key": "A ledger is continued with the key in force in it.",
    "rolled-back": "A ledger that this process has verified does not become shorter or vanish.",
    "changed": "Nobody but its writer changes a ledger.",
    "poisoned": "After a failed write or flush nothing is written until the ledger is recovered.",
    "closed": "A closed ledger is not used, nor an open one in a forked process.",
    "own-method": "Genesis rows are written by create, key rotations by rotate.",
}


class LedgerError(ValueError):
    """A ledger breaks a rule, or cannot be used.

    rule: a kebab-case word, for the rows' form and chain one of `RULES`.
    row: the number of the line, from 0, or None where no single row is at fault.
    text: what was found, and the mend.
    """

    def __init__(self, rule: str, text: str, row: int | None = None, path: str = "") -> None:
        """Keep the parts; `path` may be added later by `at`."""
        super().__init__(rule, text, row, path)
        self.rule = rule
        self.text = text
        self.row = row
        self.path = path

    def at(self, path: str) -> LedgerError:
        """Return the same error with the path of its file."""
        return type(self)(self.rule, self.text, self.row, path)

    def __str__(self) -> str:
        """Return one line: path, row, rule, text."""
        parts = [self.path] if self.path else []
        if self.row is not None:
            parts.append(f"row {self.row}")
        return ": ".join([*parts, self.rule, self.text])


@contextmanager
def located(path: str) -> Iterator[None]:
    """Name the file in every LedgerError that does not name one yet."""
    try:
        yield
    except LedgerError as error:
        if error.path:
            raise
        raise error.at(path) from error.__cause__


class LedgerBusy(LedgerError):
    """Another process or thread has the ledger open."""


class LedgerPoisoned(LedgerError):
    """A write or flush failed, so nobody knows what the disk holds; `recover` mends it."""


@dataclass(frozen=True)
class Finding:
    """One thing that an auditor should know about a ledger.

    rule: one of `RULES`. row: the number of the line, from 0, or None.
    severity: "error" (the ledger proves nothing from that row on) or "note" (no failure).
    """

    rule: str
    row: int | None
    text: str
    severity: Literal["error", "note"] = "error"
