from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from server import broadcast, checkpoint
from server.checkpoint import Checkpoint, Kept, SiteRecord
from strategies import ServerState


def example() -> Checkpoint:
    rng = np.random.default_rng(0)
    model, momentum, replica = (rng.normal(size=9).astype(np.float32) for _ in range(3))
    down = broadcast.Broadcast(replica, 3, [(2, b"\x00two"), (3, b"three\xff")])
    arrays = {"model": model, "momentum": momentum, "total": rng.normal(size=9)}
    # Nothing that a strategy may think of is known to the checkpoint, not even the shape.
    arrays |= {"replica": np.arange(6).reshape(2, 3), "frame.2": np.zeros((), bool)}
    state = ServerState(arrays, {"averaged": 2, "rate": 0.1, "huge": 2**70})
    sites = {"Köln": SiteRecord(None, 2, 3, 1), "site-02": SiteRecord()}
    kept = Kept(2, 0.1 + 0.2, 1, rng.normal(size=9).astype(np.float32))
    return Checkpoint(b"\x00run-001", 3, state, down, sites, kept)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None
    saved = example()
    checkpoint.save(tmp_path / "checkpoint", saved)
    found = checkpoint.load(tmp_path / "checkpoint")
    assert found is not None
    assert (found.run, found.round, found.sites) == (saved.run, saved.round, saved.sites)
    assert found.broadcast.frames == saved.broadcast.frames
    assert found.broadcast.round == 3
    assert found.state.scalars == {"averaged": 2, "rate": 0.1, "huge": 2**70}
    assert found.state.arrays.keys() == saved.state.arrays.keys()
    for part, ours in found.state.arrays.items():
        theirs = saved.state.arrays[part]
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(found.broadcast.replica, saved.broadcast.replica)
    assert found.kept is not None and saved.kept is not None
    np.testing.assert_array_equal(found.kept.vector, saved.kept.vector)
    np.testing.assert_array_equal(found.deployed, saved.kept.vector)
    assert replace(found.kept, vector=None) == replace(saved.kept, vector=None)
    assert os.listdir(tmp_path / "checkpoint") == [checkpoint.FILE]


@pytest.mark.parametrize("kept", [None, Kept(1, 0.5)])
def test_without_a_kept_model_the_last_one_is_released(tmp_path: Path, kept: Kept | None) -> None:
    saved = replace(example(), kept=kept)
    checkpoint.save(tmp_path, saved)
    found = checkpoint.load(tmp_path)
    assert found is not None and found.kept == kept
    np.testing.assert_array_equal(found.deployed, saved.state.deployed)


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_a_damaged_file_is_told_and_not_taken_for_a_new_run(tmp_path: Path, cut: int) -> None:
    checkpoint.save(tmp_path, example())
    path = tmp_path / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"server\.safetensors: the checkpoint is damaged.*start"):
        checkpoint.load(tmp_path)
