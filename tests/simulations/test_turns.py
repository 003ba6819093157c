"""Values that take turns: what stands still in a round does not move, and costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedlite import plan as plans
from fedlite.compression import HEADER_BYTES
from fedlite.data import Dataset
from fedlite.parameters import Layout, load_vector, turns_of
from fedlite.privacy import ClientMechanism, RecordMechanism
from fedlite.privacy.longest import longest
from fedlite.reporting.record import read_rounds
from fedlite.scenario import Scenario, from_dict
from fedlite.training import Learner
from server import checkpoint
from server.updates import Updates
from simulations.baselines import train_here
from simulations.run import simulate
from tests.simulations.running import Killed, Outcome, Trap

RANK, SITES = 4, 3
SIZES = (RANK * 64, 10 * RANK)
OWN = f"""
from torch import nn


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Linear(64, {RANK}, bias=False)
        self.up = nn.Linear({RANK}, 10, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.up(self.down(x.flatten(1)))

    def standing(self):
        return ("down.weight",), ("up.weight",)

    def products(self):
        return (("up.weight", "down.weight"),)


def make(shape, classes):
    return Product()
"""
# In odd rounds what is behind moves, in even ones what is before it.
FIRST = np.repeat([False, True], SIZES)


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Scenario]:
    """Return what makes a scenario of the model above, with some keys of its own."""
    (tmp_path / "own.py").write_text(OWN)

    def made(**tables: dict[str, Any]) -> Scenario:
        base: dict[str, dict[str, Any]] = {
            "federation": {"rounds": 4, "sites": SITES, "seed": 3, "evaluate_every": 0},
            "model": {"name": f"{tmp_path / 'own.py'}:make"},
            "training": {"steps": 3, "learning_rate": 0.2, "device": "cpu"},
        }
        names = {*base, *tables}
        return from_dict({name: base.get(name, {}) | tables.get(name, {}) for name in names})

    return made


TOPK = {"compressor": "topk", "density": 0.3}
ROTATED = {"compressor": "rotated-topk", "density": 0.3, "error_feedback": False}
HOW: dict[str, dict[str, dict[str, Any]]] = {
    "dense": {},
    "topk, momentum": {
        "uplink": {**TOPK, "error_feedback": True},
        "downlink": TOPK,
        "federation": {"server_momentum": 0.9},
    },
    "rotated, fedadam": {
        "uplink": ROTATED,
        "federation": {"strategy": "fedadam", "server_learning_rate": 0.05},
    },
    "adam, decay, fedprox": {
        "training": {
            "optimizer": "adam",
            "learning_rate": 0.01,
            "weight_decay": 0.1,
            "objective": "fedprox",
        }
    },
    "a rule that gathers": {"federation": {"strategy": "median", "quorum": 3}},
}


@pytest.mark.long
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_only_what_has_its_turn_moves(
    planned: Callable[..., Scenario],
    points: list[checkpoint.Checkpoint],
    tmp_path: Path,
    how: dict[str, dict[str, Any]],
) -> None:
    """To the bit, whatever compresses, steps and noises, and after error feedback, too."""
    scenario = planned(**how)
    plan, _, _ = plans.simulated(scenario)
    simulate(scenario, tmp_path / "run", engine="serial", quiet=True)
    assert [r.accepted for r in read_rounds(tmp_path / "run")] == [SITES] * 4
    before = plan.initial
    for number, point in enumerate(points, start=1):
        moved = point.state.model != before
        mine = FIRST if number % 2 else ~FIRST
        assert not moved[~mine].any(), f"round {number} moved what stands still"
        assert moved[mine].mean() > 0.3, f"round {number}"
        before = point.state.model
    # The sites' replica is one broadcast behind, and follows by turns.
    for one, other in zip(points[:-1], points[1:], strict=True):
        mine = FIRST if other.round % 2 == 0 else ~FIRST
        assert not (one.broadcast.replica != other.broadcast.replica)[~mine].any()


def test_what_stands_still_costs_no_byte_in_either_direction(
    planned: Callable[..., Scenario], tmp_path: Path
) -> None:
    simulate(planned(), tmp_path / "run", engine="serial", quiet=True)
    rounds = read_rounds(tmp_path / "run")
    for r in rounds:
        size = SIZES[r.round % 2]
        assert r.product_error == 0.0
        assert r.bytes_up == SITES * (HEADER_BYTES + 1 + 4 * size)
    # Down comes what the round before moved; the instruction around it is of one length.
    downs = [r.bytes_down for r in rounds[1:]]
    assert downs[1] - downs[0] == SITES * 4 * (SIZES[0] - SIZES[1]) and downs[2] == downs[0]


def test_what_is_usual_is_found_in_rounds_of_the_same_turn(
    planned: Callable[..., Scenario], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Or a hostile update could be as long in one turn as honest ones are in the other."""
    usual: list[tuple[float, float]] = []
    start = Updates.start

    def noted(
        self: Updates, point: checkpoint.Checkpoint, number: int, longest: tuple[float, float]
    ) -> None:
        usual.append(longest)
        start(self, point, number, longest)

    monkeypatch.setattr(Updates, "start", noted)
    simulate(planned(), tmp_path / "run", engine="serial", quiet=True)
    medians = [r.median for r in read_rounds(tmp_path / "run")]
    # B is zero in round 1, so that A is moved by less in round 2.
    assert 0 < medians[1] < medians[0]
    assert usual == [(one, 0.0) for one in (0.0, 0.0, medians[0], medians[1])]


def test_without_turns_the_products_are_averaged_wrongly_and_that_is_told(
    planned: Callable[..., Scenario], tmp_path: Path
) -> None:
    scenario = planned()
    (tmp_path / "own.py").write_text(OWN.replace("def standing", "def no_turns"))
    simulate(scenario, tmp_path / "run", engine="serial", quiet=True)
    errors = [r.product_error for r in read_rounds(tmp_path / "run")]
    assert all(error is not None and 1e-4 < error < 1 for error in errors), errors


@pytest.mark.long
def test_a_run_goes_on_in_the_turn_it_was_in(
    planned: Callable[..., Scenario], outcome: Outcome, killed: Killed, trap: Trap, tmp_path: Path
) -> None:
    """With what a server's optimizer remembers of each turn, and what sites have left unsaid."""
    scenario = planned(**HOW["rotated, fedadam"], downlink=TOPK)
    simulate(scenario, tmp_path / "whole", engine="serial", quiet=True)
    arm = trap(checkpoint, "save", 3, "before")

    def play() -> None:
        simulate(scenario, tmp_path / "cut", engine="serial", quiet=True)

    assert killed(play, arm)
    play()
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_clip_and_noise_are_for_what_moves_alone(planned: Callable[..., Scenario]) -> None:
    plan = plans.of(planned(training={"steps": 1}), (1, 8, 8), 10)
    rng = np.random.default_rng(0)
    data = Dataset(rng.random((6, 1, 8, 8), np.float32), rng.integers(0, 10, 6))
    learner = Learner(plan, data)
    model = rng.normal(0, 1, plan.layout.size).astype(np.float32)
    clip, batch, rate = 0.5, 10, plan.learning_rate(1)

    def delta(number: int, noise: float) -> np.ndarray:
        mechanism = RecordMechanism(clip, noise, 1.0, steps=4, expected_batch=batch)
        return learner.delta(model, number, 1, mechanism)

    # By autograd, a record at a time, of what moves alone.
    for number, name in ((1, "up"), (2, "down")):
        load_vector(learner.model, model)
        parameter = dict(learner.model.named_parameters())[f"{name}.weight"]
        total = np.zeros(parameter.numel())
        for x, y in zip(torch.from_numpy(data.x), torch.from_numpy(data.y), strict=True):
            loss = learner.loss(learner.model(x[None]), y[None]).sum()
            one = torch.autograd.grad(loss, parameter)[0].double().numpy().ravel()
            total += one * min(1.0, clip / np.linalg.norm(one))
        mine = FIRST if number == 1 else ~FIRST
        quiet, loud = delta(number, 0.01), delta(number, 50.0)
        np.testing.assert_allclose(
            quiet[mine], -rate / batch * total, atol=5 * 0.005 * rate / batch
        )
        deviation = loud[mine].std() / (rate / batch * 50.0 * clip)
        assert 0.6 < deviation < 1.4
        whole = learner.delta(model, number, 1, ClientMechanism(clip, 50.0, 4, at="site"))
        assert 0.6 < whole[mine].std() / (50.0 * 2 * clip) < 1.4
        assert not any(found[~mine].any() for found in (quiet, loud, whole))


def test_what_is_trained_beside_a_federation_steps_by_turns(
    planned: Callable[..., Scenario],
) -> None:
    rng = np.random.default_rng(0)
    data = Dataset(rng.random((6, 1, 8, 8), np.float32), rng.integers(0, 10, 6))
    mechanism = RecordMechanism(0.5, 0.1, 1.0, steps=6, expected_batch=6)

    def after(rounds: int) -> np.ndarray:
        tables = {
            "federation": {"rounds": rounds, "server_momentum": 0.9},
            "privacy": {"unit": "record", "simulate_seed": 1},
        }
        return train_here(planned(**tables), [data] * SITES, mechanism)

    one, two = after(1), after(2)
    assert one[FIRST].any() and (one != two)[~FIRST].all()
    # No momentum of round 1 moves what stands still in round 2.
    np.testing.assert_array_equal(one[FIRST], two[FIRST])


def test_no_update_may_be_longer_than_the_noise_on_what_moves(
    planned: Callable[..., Scenario],
) -> None:
    privacy = {"unit": "client", "epsilon": 1.0, "noise_at": "site"}
    dense = {"compressor": "dense", "error_feedback": False}
    plan = plans.of(planned(privacy=privacy, uplink=dense), (1, 8, 8), 10)
    assert isinstance(plan.mechanism, ClientMechanism)
    # Of the larger turn, and not of the whole vector; a dense update is as long as it was.
    most = longest(plan.mechanism, max(SIZES), steps=1, learning_rate=1.0, updates=4 * SITES)
    assert plan.update_norm == pytest.approx(1.01 * most)
    assert plan.update_norm > plan.mechanism.noise_std * max(SIZES) ** 0.5


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"training": {"objective": "scaffold"}}, r"training\.objective: must keep nothing"),
        ({"uplink": {"aggregate_feedback": 0.5}}, r"uplink\.aggregate_feedback: must be 0 where"),
    ],
)
def test_what_would_tell_of_another_turn_is_refused(
    planned: Callable[..., Scenario], tables: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plans.simulated(planned(**tables))


@pytest.mark.parametrize("names", [("c",), ("a", "b")])
def test_a_turn_of_nothing_or_of_what_is_not_there_is_named(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"turn 1 must name some of the trained tensors"):
        turns_of(Layout(("a", "b"), ((2,), (3,))), (("a",), names))
