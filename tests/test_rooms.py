"""The rooms are found in a checkout, in a wheel, and imported from there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedlite import rooms


def test_in_a_checkout_the_rooms_are_beside_the_library() -> None:
    root = rooms.app_root()
    assert root == Path(__file__).parents[1]
    assert all(
        (root / room).is_dir() for room in ("clients", "server", "strategies", "simulations")
    )


def test_in_a_wheel_they_are_inside_it_and_put_on_the_path_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app").mkdir()
    monkeypatch.setattr(rooms, "__file__", str(tmp_path / "rooms.py"))
    monkeypatch.setattr(sys, "path", ["elsewhere"])
    rooms.open_rooms()
    rooms.open_rooms()
    assert sys.path == [str(tmp_path.resolve() / "app"), "elsewhere"]
