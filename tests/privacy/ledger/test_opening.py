"""Opening again in one process: only what is new is read, and what changed is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlite.identity import keys
from fedlite.privacy.ledger import (
    Ledger,
    LedgerError,
    chain,
    read,
)
from tests.privacy.ledger.book import SITE, Quick, lines_of, refused, reserve, rules, signed


def test_opening_again_reads_and_verifies_only_what_is_new(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    true = keys.verify
    monkeypatch.setattr(chain.keys, "verify", lambda *a: (checked.append(a[1]), true(*a))[1])
    Ledger.open(begun, SITE).close()
    assert len(checked) == 5
    with Ledger.open(begun, SITE, files=Quick()) as ledger:
        assert len(ledger.rows) == 5 and len(checked) == 5
        ledger.append(reserve(5))
    files, last = Quick(), read(begun)[-1]
    checked.clear()
    added = signed(last, seq=6, prev=last.hash)
    with begun.open("ab") as file:
        file.write(added)
    with Ledger.open(begun, SITE, files=files) as ledger:
        assert len(ledger.rows) == 7 and len(checked) == 1
    assert files.bytes_read == len(last.line) + len(added)


def test_opening_again_notices_that_the_file_became_shorter(begun: Path) -> None:
    Ledger.open(begun, SITE).close()
    data = begun.read_bytes()
    begun.write_bytes(b"".join(lines_of(data)[:-1]))
    assert refused(begun).rule == "rolled-back"
    begun.write_bytes(data[:-1])
    assert refused(begun).rule == "rolled-back"
    begun.write_bytes(b"")
    assert refused(begun).rule == "rolled-back"
    begun.unlink()
    assert refused(begun).rule == "rolled-back"
    assert not begun.exists()
    begun.write_bytes(data)
    Ledger.open(begun, SITE).close()


def test_opening_again_notices_that_the_last_line_changed(begun: Path) -> None:
    Ledger.open(begun, SITE).close()
    rows = read(begun)
    other = signed(rows[-1], body={**rows[-1].body, "round": 9})
    begun.write_bytes(b"".join(row.line for row in rows[:-1]) + other)
    assert rules(begun.read_bytes()) == []  # a fork by the key holder
    error = refused(begun)
    assert (error.rule, error.row) == ("changed", 4)


def test_a_change_behind_the_writers_back_stops_it(begun: Path) -> None:
    with Ledger.open(begun, SITE) as ledger:
        with begun.open("ab") as file:
            file.write(b"x")
        with pytest.raises(LedgerError) as caught:
            ledger.append(reserve(5))
        assert caught.value.rule == "changed"


def test_an_interrupted_append_is_not_forgotten(begun: Path) -> None:
    """Control-C between the write and the flush: the row is in the file and counts."""

    class Interrupted(Quick):
        def fsync(self, handle: int) -> None:
            raise KeyboardInterrupt

    Ledger.open(begun, SITE, files=Quick()).close()
    with Ledger.open(begun, SITE, files=Interrupted()) as ledger:
        with pytest.raises(KeyboardInterrupt):
            ledger.append(reserve(5))
        assert len(ledger.rows) == 5
        with pytest.raises(LedgerError) as caught:
            ledger.append(reserve(6))
        assert caught.value.rule == "changed"
    flushed: list[int] = []
    files = Quick()
    files.fsync = flushed.append  # type: ignore[method-assign]
    with Ledger.open(begun, SITE, files=files) as ledger:
        assert len(ledger.rows) == 6 and flushed  # It is relied on only once it is flushed.
