"""What travels behind the model is bounded and averaged apart from it, and no rule sees it.

Covers fedlite/compression/running.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from fedlite import compression, plan as plans
from fedlite.compression import Decoded, Joined, Stretch, make
from fedlite.messages import Reply, site_id
from fedlite.models.files import write_model
from fedlite.parameters import Layout
from fedlite.plan import Plan
from fedlite.scenario import from_dict
from server import broadcast
from server.checkpoint import Checkpoint
from server.extras import Extras
from server.updates import Updates
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


NET = """
from torch import nn

def make(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, classes))
"""


def test_a_hostile_variance_makes_no_released_model_that_answers_nan(tmp_path: Path) -> None:
    """It is within a hundred times the usual, so it counts; no variance is below 0 for all that."""
    (tmp_path / "net.py").write_text(NET)
    plan = plans.of(from_dict({"model": {"name": f"{tmp_path}/net.py:make"}}), (1, 8, 8), 10)
    names = np.repeat(plan.running.names, plan.running.sizes)
    extras = Extras(plan.extras, sites=4, factor=100.0)
    state = ServerState.initial(plan.initial, plan.first[plan.initial.size :])
    extras.start(state)
    honest = np.where(names == "2.num_batches_tracked", 7, 0.25).astype(np.float32)
    hostile = np.where(names == "2.num_batches_tracked", -7, -40).astype(np.float32)
    for update in (honest, honest, hostile, honest):
        extras.seen(part := (Decoded(update.size, None, update),))
        assert extras.add(part, 1.0) == 0.0
    after = extras.finish(state)
    write_model(tmp_path, plan.scenario, plan.stored, after.travelling, plan.model())
    # As somebody loads it who has torch and nothing of fedlite.
    net, given = plan.model(), safetensors.torch.load_file(tmp_path / "model.safetensors")
    bare = dict(net.named_parameters()) | dict(net.named_buffers())
    assert given["2.running_var"].tolist() == [0.0] * 4
    assert given["2.running_mean"].tolist() == [pytest.approx(-9.8125)] * 4
    with torch.no_grad():
        for name, tensor in given.items():
            bare[name].copy_(tensor)
        (answers,) = net.eval()(torch.ones(2, 1, 8, 8))
    assert bool(torch.isfinite(answers).all())


def test_counts_of_batches_do_not_make_room_for_a_hostile_variance(tmp_path: Path) -> None:
    """A round of 500 batches is 500 long in its count, and variances move by 0.05."""
    (tmp_path / "net.py").write_text(NET)
    plan = plans.of(from_dict({"model": {"name": f"{tmp_path}/net.py:make"}}), (1, 8, 8), 10)
    names = np.repeat(plan.running.names, plan.running.sizes)
    counts, variances = names == "2.num_batches_tracked", names == "2.running_var"
    extras = Extras(plan.extras, sites=4, factor=100.0)
    state = ServerState.initial(plan.initial, plan.first[plan.initial.size :])
    extras.start(state)
    honest = np.where(counts, 500, 0.05).astype(np.float32)
    hostile = np.where(variances, 20_000, honest).astype(np.float32)
    counting = np.where(counts, 1e9, honest).astype(np.float32)
    updates = [(Decoded(honest.size, None, one),) for one in (honest, honest, hostile, counting)]
    for update in updates:
        extras.seen(update)
    extras.settle()
    usual = 0.05 * np.sqrt(8)
    times = [0.0, 0.0, pytest.approx(40_000 / usual, rel=1e-3), pytest.approx(2e6)]
    assert [extras.add(update, 1.0) for update in updates] == times
    after = extras.finish(state).arrays["extras"]
    assert np.abs(after[variances] - 1.0).max() < 0.1
    assert after[counts].tolist() == [pytest.approx(500.0)]


RUN, M = b"\x07" * 8, 20
LAYOUT = Layout(("w",), ((M,),))
BASE = np.zeros(M, np.float32)


class Round:
    """The server's side of round 1 of a run with one extra, as long as the model."""

    def __init__(self, **federation: Any) -> None:
        settings = from_dict({"federation": {"sites": 4, **federation}, "uplink": DENSE_LINK})
        extra = Stretch("control", BASE, DENSE, DENSE, per_site=True)
        self.plan = Plan(settings, (M,), 2, LAYOUT, BASE, extras=(extra,))
        state = ServerState.initial(BASE, BASE)
        self.point = Checkpoint(RUN, 0, state, broadcast.initial(self.plan.first))
        self.updates = Updates(self.plan)
        self.updates.start(self.point, 1)

    def send(self, number: int, model: float, control: float, codec: int | None = None) -> None:
        name = f"site-{number}"
        layout, base = self.plan.travelling.digest, self.point.broadcast.digest
        envelope = compression.Envelope(RUN, 1, site_id(name), layout, base, 1)
        vector = np.repeat(np.float32([model, control]), M)
        body = self.plan.uplink.compress(vector, envelope.context)
        if codec == DENSE.codec:
            body = DENSE.compress(vector[:M])
        number = self.plan.uplink.codec if codec is None else codec
        (error,) = self.updates.add_many(
            [(name, Reply(compression.pack(envelope, number, body), None).encode())]
        )
        if error is not None:
            raise error

    def after(self) -> tuple[float, float]:
        state = self.updates.finish()
        return float(state.model.mean()), float(state.arrays["extras"].mean())


DENSE_LINK = {"compressor": "dense"}


def test_a_bound_of_the_models_part_is_none_of_its_extras() -> None:
    assert isinstance(Round().plan.uplink, Joined)
    bounded = Round(update_norm=1.0)
    for number in range(4):
        bounded.send(number, 2.0, 3.0)
    model, control = bounded.after()
    assert model == pytest.approx(1 / np.sqrt(M), rel=1e-5) and control == pytest.approx(3.0)


@pytest.mark.parametrize("federation", [{}, {"update_norm": 1.0}])
def test_a_hostile_extra_is_cut_to_the_usual_and_its_site_named(federation: Any) -> None:
    one = Round(**federation)
    for number, control in enumerate((1.0, 1.0, 1e9, 1.0)):
        one.send(number, 0.01, control)
    model, control = one.after()
    assert model == pytest.approx(0.01) and control == pytest.approx(1.0)
    assert one.updates.cut == {"site-2": pytest.approx(1e9)}


def test_what_is_no_update_of_this_plan_is_refused() -> None:
    one = Round()
    with pytest.raises(ValueError, match="values must be at most 1e"):
        one.send(0, 0.0, 1e20)
    with pytest.raises(ValueError, match="codec: must be 12, got 0"):
        one.send(0, 1.0, 1.0, codec=DENSE.codec)
    with pytest.raises(ValueError, match="finite"):
        one.send(0, 1.0, float("nan"))
    one.send(0, 1.0, 4.0)
    assert one.after() == (1.0, 1.0)
