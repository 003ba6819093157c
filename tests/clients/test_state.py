from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clients.state import Pending, SiteState, load, save

ONE, TWO = np.ones(5, np.float32), np.full(5, 2, np.float32)


def pending() -> Pending:
    return Pending(round=3, base=b"12345678", payload=b"\x00frame", unsent=ONE, residual=TWO)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "site.safetensors"
    assert load(path) is None
    save(path, SiteState(ONE, TWO, pending()))
    found = load(path)
    assert found is not None and found.pending is not None
    np.testing.assert_array_equal(found.replica, ONE)
    np.testing.assert_array_equal(found.residual, TWO)
    assert (found.pending.round, found.pending.base) == (3, b"12345678")
    assert found.pending.payload == b"\x00frame"
    np.testing.assert_array_equal(found.pending.unsent, ONE)
    np.testing.assert_array_equal(found.pending.residual, TWO)
    save(path, SiteState(ONE, TWO))
    found = load(path)
    assert found is not None and found.pending is None


@pytest.mark.parametrize(("acknowledged", "kept"), [(3, 2.0), (2, 1.0), (0, 1.0), (4, 1.0)])
def test_only_an_acknowledged_update_is_given_up(acknowledged: int, kept: float) -> None:
    state = SiteState(np.zeros(5, np.float32), np.zeros(5, np.float32), pending())
    state.settle(acknowledged)
    assert state.pending is None
    assert (state.residual == kept).all()
    state.settle(99)
    assert (state.residual == kept).all()


@pytest.mark.parametrize("cut", [0, 4, 60, -1])
def test_a_damaged_file_is_never_taken_for_a_fresh_start(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "site.safetensors"
    save(path, SiteState(ONE, TWO, pending()))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"site\.safetensors: the site's state is damaged"):
        load(path)
