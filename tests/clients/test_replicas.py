from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from clients.replicas import Replicas
from clients.state import SiteState, load, save
from fedlite.parameters import Vector, vector_digest

FIRST = np.arange(8, dtype=np.float32)


def held(model: Vector, saved: bytes = b"") -> SiteState:
    nothing = np.zeros_like(model)
    return SiteState(model, nothing, digest=vector_digest(model), saved=saved)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.replica"))


def test_sites_that_hold_the_same_model_have_one_file_of_it(tmp_path: Path) -> None:
    replicas, states = Replicas(FIRST.size), {}
    for name in "abc":
        states[name] = held(FIRST + 1)
        save(tmp_path / f"{name}.safetensors", states[name], replicas)
    assert len(files(tmp_path)) == 3
    assert {path.stat().st_ino for path in files(tmp_path)} == {files(tmp_path)[0].stat().st_ino}
    # Two move on, the third is read by another process.
    for name in "ab":
        moved = held(FIRST + 2, states[name].saved)
        save(tmp_path / f"{name}.safetensors", moved, replicas)
    assert len(files(tmp_path)) == 3
    other = Replicas(FIRST.size)
    for name, model in (("a", FIRST + 2), ("b", FIRST + 2), ("c", FIRST + 1)):
        found = load(tmp_path / f"{name}.safetensors", other)
        assert found is not None and found.digest == vector_digest(model)
        np.testing.assert_array_equal(found.replica, model)
        assert not found.replica.flags.writeable


def test_without_second_names_each_site_has_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    replicas = Replicas(FIRST.size)
    for name in "ab":
        save(tmp_path / f"{name}.safetensors", held(FIRST + 1), replicas)
    assert len({path.stat().st_ino for path in files(tmp_path)}) == 2


def test_a_process_that_is_killed_while_it_saves_leaves_the_old_state_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replicas = tmp_path / "a.safetensors", Replicas(FIRST.size)
    save(path, held(FIRST + 1), replicas)
    real = os.replace

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save(path, held(FIRST + 2, vector_digest(FIRST + 1)), replicas)
    monkeypatch.setattr(os, "replace", real)
    old = load(path, Replicas(FIRST.size))
    assert old is not None
    np.testing.assert_array_equal(old.replica, FIRST + 1)
    save(path, held(FIRST + 3, old.saved), replicas)
    new = load(path, Replicas(FIRST.size))
    assert new is not None
    np.testing.assert_array_equal(new.replica, FIRST + 3)


def test_a_model_that_is_gone_is_not_taken_for_another(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(path, held(FIRST + 1), Replicas(FIRST.size))
    files(tmp_path)[0].unlink()
    with pytest.raises(ValueError, match="the site's state is damaged"):
        load(path, Replicas(FIRST.size))


def test_a_frame_is_decoded_once_for_all_that_get_it() -> None:
    replicas, calls = Replicas(FIRST.size), []

    def decode() -> Vector:
        calls.append(1)
        return FIRST * 2

    found = [replicas.led("frame", decode) for _ in range(3)]
    assert len(calls) == 1 and {digest for digest, _ in found} == {vector_digest(FIRST * 2)}

    def bad() -> Vector:
        raise ValueError("no frame")

    for _ in range(2):
        with pytest.raises(ValueError, match="no frame"):
            replicas.led("bad", bad)


def test_a_torn_model_is_not_taken_for_the_one_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(path, held(FIRST + 1), Replicas(FIRST.size))
    (file,) = files(tmp_path)
    for torn in (b"", bytes(4 * FIRST.size), file.read_bytes()[:12]):
        file.unlink()
        file.write_bytes(torn)
        with pytest.raises(ValueError, match=r"a\.safetensors: the site's state is damaged"):
            load(path, Replicas(FIRST.size))
