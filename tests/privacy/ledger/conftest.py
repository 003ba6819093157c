"""Ledgers, whole and begun, for the tests of ledgers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedlite.privacy.ledger import (
    Ledger,
    forget,
)
from tests.privacy.ledger.book import OWNER, SITE, Quick, build, genesis, reserve


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return build(tmp_path_factory.mktemp("whole") / "heart.jsonl")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "ledgers" / "heart.jsonl"
    path.parent.mkdir()
    yield path
    forget(path)


@pytest.fixture
def begun(path: Path) -> Path:
    with Ledger.open(path, SITE, files=Quick()) as ledger:
        ledger.create(genesis(SITE, OWNER))
        ledger.append(*map(reserve, range(4)))
    forget(path)
    return path
