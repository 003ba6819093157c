"""What a site wrote last is known without a look into its file, and never of another file."""

from __future__ import annotations

import os
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from clients import remembered, replicas as models
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
    monkeypatch.setattr(remembered, "_EACH", 0)
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
    sent = Pending(3, b"12345678", b"frame", left, left - 1, {"kept": np.array([7], np.float32)})
    state = SiteState(
        left + 2, nothing(6), sent, "unit", 3, "records", {"kept": np.array([5], np.float32)}
    )
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


def sent(left: float, size: int = 6) -> Pending:
    unsent = np.full(size, left, np.float32)
    return Pending(1, b"12345678", b"frame", unsent, unsent)


def test_a_file_that_is_changed_in_place_is_not_known_whatever_its_time(tmp_path: Path) -> None:
    """As `rsync --times` and `touch --reference` leave it: its number, size and time the same."""
    path, other, replicas = tmp_path / "site.safetensors", tmp_path / "other", Replicas(6)
    for file, left in ((other, 2.0), (path, 1.0)):
        save(file, SiteState(np.ones(6, np.float32), nothing(6), sent(left)), replicas)
    seen, content = os.stat(path), path.read_bytes()

    def put(data: bytes) -> None:
        # A system counts the times of files in steps of some milliseconds.
        until, before = time.monotonic() + 10, os.stat(path).st_ctime_ns
        while os.stat(path).st_ctime_ns == before and time.monotonic() < until:
            with path.open("r+b") as file:
                file.write(data)
            os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))

    put(other.read_bytes())
    found = load(path, replicas)
    assert found is not None and found.pending is not None
    assert found.pending.unsent.tolist() == [2.0] * 6
    put(b"\xff" * len(content))
    with pytest.raises(ValueError, match="the site's state is damaged"):
        load(path, replicas)


def test_who_is_remembered_keeps_no_model_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each site took part in another round, so each holds another model."""
    monkeypatch.setattr(models, "_BYTES", 0)
    replicas, alive = Replicas(6), []
    for number in range(8):
        model = np.full(6, number, np.float32)
        alive.append(weakref.ref(model))
        save(tmp_path / str(number), SiteState(model, nothing(6), sent(1)), replicas)
    del model
    assert len(replicas.states._known) == 8
    assert sum(one() is not None for one in alive) <= 2
    for number in range(8):
        found = load(tmp_path / str(number), replicas)
        assert found is not None and found.replica.tolist() == [number] * 6


def test_what_is_short_on_the_disk_counts_as_long_as_it_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "_BYTES", 100_000)
    replicas, size = Replicas(10_000), 10_000
    for number in range(9):
        few = nothing(size).copy()
        few[:5] = 1
        waits = Pending(1, b"12345678", b"frame", few, few + 0)
        save(tmp_path / str(number), SiteState(nothing(size), nothing(size), waits), replicas)
        assert (tmp_path / str(number)).stat().st_size < 2000
    # 40,000 bytes an array, two of them; what all have in common is not counted.
    assert list(replicas.states._known) == [tmp_path / "8"]
    assert replicas.states._held == 80_000 + len(b"frame") + remembered._EACH
    view = np.zeros((100, size), np.float32)[3]
    big = Pending(1, b"12345678", b"frame", view, view)
    save(tmp_path / "9", SiteState(nothing(size), nothing(size), big), replicas)
    # The whole of what it is a view of would stay.
    assert list(replicas.states._known) == [tmp_path / "8"]


def test_a_model_whose_file_is_gone_is_written_again(tmp_path: Path) -> None:
    path, replicas = tmp_path / "site.safetensors", Replicas(6)
    save(path, SiteState(np.ones(6, np.float32), nothing(6)), replicas)
    (model,) = tmp_path.glob("*.replica")
    model.unlink()
    known = load(path, replicas)
    assert known is not None
    save(path, known, replicas)
    found = load(path, Replicas(6))
    assert found is not None and found.replica.tolist() == [1] * 6
