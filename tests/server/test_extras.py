"""What travels behind the model is bounded and averaged apart from it, and no rule sees it."""

from __future__ import annotations

import numpy as np
import pytest

from fedlite.compression import Decoded, Stretch, make
from server.extras import Extras
from strategies import ServerState

DENSE = make("dense")
N = 8


def stretch(name: str, *, per_site: bool, start: float = 0.0) -> Stretch:
    return Stretch(name, np.full(N, start, np.float32), DENSE, DENSE, per_site=per_site)


BOTH = (stretch("control", per_site=True), stretch("buffers", per_site=False, start=1.0))


def state() -> ServerState:
    extras = np.concatenate([one.initial for one in BOTH])
    return ServerState.initial(np.zeros(3, np.float32), extras)


def parts(*values: float) -> tuple[Decoded, ...]:
    return tuple(Decoded(N, None, np.full(N, value, np.float32)) for value in values)


def test_a_value_of_each_site_counts_by_all_sites_and_another_by_those_who_came() -> None:
    """c += |S| / N * mean, of Karimireddy et al. 2020; buffers move by their weighted mean."""
    extras = Extras(BOTH, sites=10, factor=0.0)
    extras.start(state())
    for value, weight in ((1.0, 1.0), (4.0, 1.0), (7.0, 2.0)):
        extras.add(parts(value, value), weight)
    after = extras.finish(state())
    control, buffers = np.split(after.arrays["extras"], 2)
    np.testing.assert_allclose(control, (1 + 4 + 2 * 7) / 10, rtol=1e-6)
    np.testing.assert_allclose(buffers, 1.0 + (1 + 4 + 2 * 7) / 4, rtol=1e-6)
    np.testing.assert_array_equal(after.model, state().model)
    assert after.arrays["extras"].dtype == np.float32
    np.testing.assert_array_equal(after.travelling, np.r_[after.model, after.arrays["extras"]])


def test_a_round_without_an_update_changes_nothing() -> None:
    extras = Extras(BOTH, sites=10, factor=100.0)
    extras.start(state())
    assert extras.finish(state()).arrays.keys() == state().arrays.keys()
    np.testing.assert_array_equal(extras.finish(state()).travelling, state().travelling)


def test_a_stretch_far_longer_than_usual_is_cut_to_the_usual_and_by_itself() -> None:
    extras = Extras(BOTH, sites=4, factor=10.0)
    extras.start(state())
    assert extras.unknown
    updates = [parts(1.0, 2.0), parts(-1.0, 2.0), parts(1e9, 2.0), parts(1.0, 2.0)]
    for update in updates:
        extras.seen(update)
    extras.settle()
    assert [extras.add(update, 1.0) for update in updates] == [0.0, 0.0, pytest.approx(1e9), 0.0]
    after = extras.finish(state())
    control, buffers = np.split(after.arrays["extras"], 2)
    np.testing.assert_allclose(control, (1 - 1 + 1 + 1) / 4, rtol=1e-6)
    np.testing.assert_allclose(buffers, 1.0 + 2.0)
    # What is usual is in the state, so that a resumed run goes on with the same bound.
    again = Extras(BOTH, sites=4, factor=10.0)
    again.start(after)
    assert not again.unknown
    assert not again.seen(parts(9.0, 19.0)) and again.seen(parts(0.5, 21.0))


def test_a_minority_does_not_move_what_is_usual_and_two_updates_tell_nothing() -> None:
    extras = Extras(BOTH, sites=4, factor=10.0)
    extras.start(state())
    for update in (parts(1.0, 1.0), parts(1e6, 1e6)):
        extras.seen(update)
    extras.settle()
    assert extras.add(parts(1e6, 1e6), 1.0) == 0.0 and extras.unknown


def test_without_a_factor_nothing_waits_and_nothing_is_cut() -> None:
    extras = Extras(BOTH, sites=4, factor=0.0)
    extras.start(state())
    assert not extras.unknown and not extras.seen(parts(1e9, 1e9))
    assert extras.add(parts(1e9, 1e9), 1.0) == 0.0
