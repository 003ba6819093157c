"""What a site wrote last is known without a look into its file, and never of another file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from clients import remembered
from clients.remembered import Remembered
from clients.replicas import Replicas
from clients.state import Pending, SiteState, load, nothing, save


def test_a_file_that_is_another_by_now_is_not_known(tmp_path: Path) -> None:
    path, known = tmp_path / "site", Remembered[str]()
    path.write_bytes(b"one")
    known.keep(path, "one", 3)
    assert known.find(path) == "one"
    (tmp_path / "other").write_bytes(b"two")
    os.replace(tmp_path / "other", path)
    assert known.find(path) is None
    path.unlink()
    assert known.find(path) is None
    known.keep(path, "gone", 4)
    assert known.find(path) is None


def test_no_more_is_held_than_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_BYTES", 10)
    known, paths = Remembered[int](), [tmp_path / str(n) for n in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(b"x")
        known.keep(path, number, 4)
    assert [known.find(path) for path in paths] == [None, None, 2, 3]
    known.keep(paths[3], 3, 11)
    assert known.find(paths[3]) is None and known.find(paths[2]) == 2


def test_a_site_that_is_remembered_is_the_one_on_the_disk(tmp_path: Path) -> None:
    path, replicas = tmp_path / "site.safetensors", Replicas(6)
    left = np.arange(6, dtype=np.float32)
    sent = Pending(3, b"12345678", b"frame", left, left - 1, {"kept": np.float32([7])})
    state = SiteState(left + 2, nothing(6), sent, "unit", 3, "records", {"kept": np.float32([5])})
    save(path, state, replicas)
    for found in (load(path, replicas), load(path, Replicas(6))):
        assert found is not None and found.pending is not None
        assert found.replica.tolist() == [2, 3, 4, 5, 6, 7]
        assert found.pending.payload == b"frame" and found.pending.base == b"12345678"
        assert found.pending.residual.tolist() == [-1, 0, 1, 2, 3, 4]
        assert (found.round, found.protection, found.records) == (3, "unit", "records")
        assert found.digest == found.saved != b""
        found.settle(3)
        assert found.residual.tolist() == [-1, 0, 1, 2, 3, 4] and found.kept["kept"] == [7]
    # What became of that one is not remembered before it is saved.
    again = load(path, replicas)
    assert again is not None and again.pending is not None and again.kept["kept"] == [5]


def test_nothing_is_one_array_that_nobody_writes_to() -> None:
    assert nothing(5) is nothing(5) and not nothing(5).any() and nothing(5).dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        nothing(5)[0] = 1
