"""A federation whose files the tests of the audit damage, each in a copy of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.privacy.federation import Site, World


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("honest"))


@pytest.fixture
def world(honest: World, tmp_path: Path) -> World:
    return honest.move(tmp_path / "world")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, "site-1")
