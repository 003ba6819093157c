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
    assert (found.pending.round, found.pending.base) == (3, b"12345678")
    assert found.pending.payload == b"\x00frame"
    np.testing.assert_array_equal(found.pending.unsent, ONE)
    np.testing.assert_array_equal(found.pending.residual, TWO)
    save(path, SiteState(ONE, TWO))
    found = load(path)
    assert found is not None and found.pending is None
    np.testing.assert_array_equal(found.residual, TWO)


@pytest.mark.parametrize("sent", [0, 30, 600, 1000])
def test_a_residual_of_any_kind_comes_back_bit_for_bit(tmp_path: Path, sent: int) -> None:
    rng = np.random.default_rng(sent)
    replica, unsent = rng.normal(size=(2, 1000)).astype(np.float32)
    unsent[:5] = -0.0, 0.0, np.inf, 1e-45, -1e-45
    residual = unsent.copy()
    residual[rng.choice(1000, sent, replace=False)] = 0.0
    path = tmp_path / "site.safetensors"
    waits = Pending(round=3, base=b"12345678", payload=b"", unsent=unsent, residual=residual)
    save(path, SiteState(replica, np.zeros_like(replica), waits))
    found = load(path)
    assert found is not None and found.pending is not None
    assert found.pending.unsent.tobytes() == unsent.tobytes()
    assert found.pending.residual.tobytes() == residual.tobytes()
    for acknowledged, kept in ((3, residual), (2, unsent)):
        after = load(path)
        assert after is not None
        after.settle(acknowledged)
        save(tmp_path / "after.safetensors", after)
        again = load(tmp_path / "after.safetensors")
        assert again is not None and again.residual.tobytes() == kept.tobytes()


@pytest.mark.parametrize(("feedback", "most"), [(False, 4.3), (True, 8.6)])
def test_a_site_takes_little_more_than_what_it_must_remember(
    tmp_path: Path, feedback: bool, most: float
) -> None:
    size = 20_000
    unsent = np.full(size, float(feedback), np.float32)
    residual = unsent.copy()
    residual[: size // 100] = 0
    waits = Pending(round=1, base=b"12345678", payload=bytes(500), unsent=unsent, residual=residual)
    save(tmp_path / "site", SiteState(np.ones(size, np.float32), unsent, waits))
    assert (tmp_path / "site").stat().st_size < most * size


@pytest.mark.parametrize(("acknowledged", "kept"), [(3, 2.0), (2, 1.0), (0, 1.0), (4, 1.0)])
def test_only_an_acknowledged_update_is_given_up(acknowledged: int, kept: float) -> None:
    state = SiteState(np.zeros(5, np.float32), np.zeros(5, np.float32), pending())
    state.settle(acknowledged)
    assert state.pending is None
    assert (state.residual == kept).all()
    state.settle(99)
    assert (state.residual == kept).all()


@pytest.mark.parametrize(("acknowledged", "slope", "count"), [(3, 2.0, 7), (2, 1.0, 6)])
def test_what_an_objective_keeps_counts_once_its_update_was_used(
    tmp_path: Path, acknowledged: int, slope: float, count: int
) -> None:
    before = {"slope": ONE, "count": np.array([6])}
    waits = pending()
    waits.kept = {"slope": TWO, "count": np.array([7]), "0-d": np.array(1.5)}
    save(tmp_path / "site", SiteState(ONE, TWO, waits, kept=before))
    found = load(tmp_path / "site")
    assert found is not None
    found.settle(acknowledged)
    save(tmp_path / "site", found)
    again = load(tmp_path / "site")
    assert again is not None and again.pending is None
    assert (again.kept["slope"] == slope).all() and again.kept["count"].tolist() == [count]
    assert ("0-d" in again.kept) == (acknowledged == 3)
    again.guard("another plan")
    assert again.kept == {}


@pytest.mark.parametrize("cut", [0, 4, 60, -1])
def test_a_damaged_file_is_never_taken_for_a_fresh_start(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "site.safetensors"
    save(path, SiteState(ONE, TWO, pending()))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"site\.safetensors: the site's state is damaged"):
        load(path)
