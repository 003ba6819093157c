"""A site that holds a budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.privacy.budget.holder import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "scans.jsonl")
