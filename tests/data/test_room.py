"""What does not fit is not begun, and both numbers are told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fedlite.data import room
from fedlite.data.bases import BASES


def test_a_disk_without_room_is_told_with_both_numbers(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    room.check_disk(tmp_path / "not" / "there", free // 2, "a base")
    with pytest.raises(ValueError, match=r"must have .* GB free for a base .*, has .* GB; free"):
        room.check_disk(tmp_path, 2 * free + 10**9, "a base")


def test_memory_that_is_not_there_is_told_with_both_numbers() -> None:
    there = room.available_memory()
    assert 0 < there <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    room.check_memory(1000, "a base")
    with pytest.raises(ValueError, match=r"a base: must fit .* takes 1e\+06 GB.*, and there are "):
        room.check_memory(10**15, "a base")


def test_where_nobody_says_all_memory_there_is_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(room, "_MEMINFO", tmp_path / "none")
    assert room.available_memory() == whole
    (tmp_path / "none").write_text("MemTotal:  8 kB\nMemAvailable:       5 kB\n")
    assert room.available_memory() == 5 << 10


def test_no_base_is_fetched_onto_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLITE_CACHE", str(tmp_path))
    whole = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: whole._replace(free=5_000_000))
    with pytest.raises(ValueError, match=r"minilm: must have 0\.167 GB free.*, has 5 MB"):
        BASES["minilm"].fetch()
