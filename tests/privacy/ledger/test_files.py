"""Ledgers in the wrong place, unreadable, or missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedlite.privacy.ledger import (
    Files,
    Ledger,
    LedgerError,
    read,
)
from tests.privacy.ledger.book import NEW, SITE, genesis, refused, reserve


def test_a_directory_or_a_pipe_instead_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()
    assert refused(path).rule == "not-a-file"
    with pytest.raises(LedgerError, match="not-a-file"):
        read(path)
    path.rmdir()
    os.mkfifo(path)
    assert refused(path).rule == "not-a-file"
    path.unlink()
    Path(f"{path}.lock").unlink()
    Path(f"{path}.lock").mkdir()
    with pytest.raises(LedgerError, match="not-a-file"):
        Ledger.open(path, SITE)


def test_a_file_without_permission_is_refused(begun: Path) -> None:
    class Denied(Files):  # Permissions do not bind root, who may run this test.
        def open(self, path: str, flags: int) -> int:
            raise PermissionError(13, "Permission denied")

    with pytest.raises(LedgerError) as caught:
        Ledger.open(begun, SITE, files=Denied())
    assert caught.value.rule == "unreadable" and "permissions" in caught.value.text


def test_a_missing_ledger_is_made_once(path: Path) -> None:
    with pytest.raises(LedgerError, match="unreadable"):
        read(path)
    with Ledger.open(path, SITE) as ledger:
        assert not ledger.exists and ledger.rows == () and not path.exists()
        for act in (lambda: ledger.head, lambda: ledger.append(reserve(0)), lambda: ledger.id):
            with pytest.raises(LedgerError) as caught:
                act()
            assert caught.value.rule == "no-ledger"
        with pytest.raises(LedgerError) as caught:
            ledger.create(genesis(NEW))
        assert caught.value.rule == "genesis" and not path.exists()
        row = ledger.create(genesis(SITE))
        assert ledger.head.hash == ledger.id == row.hash and ledger.head.seq == 0
        with pytest.raises(LedgerError) as caught:
            ledger.create(genesis(SITE))
        assert caught.value.rule == "already-exists"
        for kind in ("genesis", "key-rotate"):
            with pytest.raises(LedgerError) as caught:
                ledger.append((kind, {}))
            assert caught.value.rule == "own-method"
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(path.parent)) == ["heart.jsonl", "heart.jsonl.lock"]
