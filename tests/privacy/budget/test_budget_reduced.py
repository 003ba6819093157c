"""A ledger that this process has reduced is followed from there, and only where it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from fedlite.privacy.budget import Account, budget
from fedlite.privacy.ledger.rules import LedgerError


@dataclass
class Row:
    seq: int
    hash: str
    kind: str = "witness"
    body: Any = None


@dataclass
class Ledger:
    rows: tuple[Row, ...]
    path: str = "/nowhere/reduced.jsonl"


def test_rows_are_taken_once_and_another_ledger_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []

    def apply(self: Account, row: Any) -> None:
        self.sound = False
        if row.kind == "senseless":
            raise LedgerError("sequence", "senseless", row.seq)
        taken.append(row.seq)
        self.rows, self.last, self.sound = self.rows + 1, row.hash, True

    monkeypatch.setattr(Account, "apply", apply)
    monkeypatch.setattr(budget, "_REDUCED", {})
    reduced: Any = budget._reduced
    rows = tuple(Row(n, f"h{n}") for n in range(4))
    assert reduced(Ledger(rows[:2])).rows == 2 and taken == [0, 1]
    assert reduced(Ledger(rows)).rows == 4 and taken == [0, 1, 2, 3]
    # Shorter, or with another past: from its beginning.
    taken.clear()
    assert reduced(Ledger(rows[:3])).rows == 3 and taken == [0, 1, 2]
    taken.clear()
    other = (rows[0], rows[1], Row(2, "x2"), Row(3, "x3"))
    assert reduced(Ledger(other)).last == "x3" and taken == [0, 1, 2, 3]
    # What could not be reduced is of no further use.
    with pytest.raises(LedgerError):
        reduced(Ledger((*other, Row(4, "x4", "senseless"))))
    taken.clear()
    assert reduced(Ledger(other)).rows == 4 and taken == [0, 1, 2, 3]
