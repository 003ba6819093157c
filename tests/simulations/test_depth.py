"""Sites that train the shallow branch alone: through whole runs, and against sums by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fedlite import depth, plan as plans
from fedlite.commands.main import app
from fedlite.compression import HEADER_BYTES
from fedlite.data import Dataset
from fedlite.messages import site_id
from fedlite.parameters import Vector, load_vector
from fedlite.plan import Plan
from fedlite.privacy import ClientMechanism, RecordMechanism
from fedlite.reporting.record import WEAK, WHOLE, read_rounds, read_summary
from fedlite.scenario import Scenario, from_dict
from fedlite.training import Learner
from server import checkpoint
from simulations.run import check, simulate
from tests.simulations.running import Killed, Outcome, Trap

SITES = ("site-01", "site-02", "site-03", "site-04")
HALF = {"weak_sites": "site-02, site-04"}
DENSE = {"compressor": "dense"}
TOPK = {"compressor": "topk", "density": 0.3}


def planned(**tables: dict[str, Any]) -> Scenario:
    """Return a small federation of four sites, two of which are weak."""
    base: dict[str, dict[str, Any]] = {
        "federation": {"rounds": 3, "sites": 4, "seed": 3, "evaluate_every": 0} | HALF,
        "model": {"name": "mlp"},
        "training": {"steps": 3, "learning_rate": 0.2, "distill": 0.3, "device": "cpu"},
        "uplink": DENSE,
        "downlink": DENSE,
    }
    names = {*base, *tables}
    return from_dict({name: base.get(name, {}) | tables.get(name, {}) for name in names})


def run(scenario: Scenario, directory: Path, engine: str = "serial") -> dict[str, Any]:
    simulate(scenario, directory, engine=engine, quiet=True)
    return read_summary(directory)


def parts(plan: Plan) -> tuple[Vector, Vector]:
    """Return which values of the model are of its shallow branch, by their names, and the rest."""
    shallow = [name.startswith(("stem.", "exit.")) for name in plan.layout.names]
    mask = np.repeat(shallow, plan.layout.sizes)
    return mask, ~mask


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("weighting", ["uniform", "records"])
def test_each_tensor_is_the_mean_over_the_sites_that_hold_it(
    points: list[checkpoint.Checkpoint], tmp_path: Path, weighting: str
) -> None:
    """By hand, round by round: every site's own training, summed where it trains at all."""
    scenario = planned(federation={"weighting": weighting, "server_momentum": 0.5})
    run(scenario, tmp_path / "run")
    plan, _, sites = plans.simulated(scenario)
    shallow, tail = parts(plan)
    small = depth.early(plan)
    model = plan.initial.astype(np.float64)
    momentum = np.zeros_like(model)
    for number, point in enumerate(points, start=1):
        total, weights = np.zeros_like(model), np.zeros_like(model)
        before = model.astype(np.float32)
        for data in sites:
            weight = float(len(data.train)) if weighting == "records" else 1.0
            if data.name in ("site-02", "site-04"):
                delta = Learner(small, data.train).delta(
                    before[shallow], number, site_id(data.name), None
                )
                total[shallow] += weight * delta
                weights[shallow] += weight
            else:
                delta = Learner(plan, data.train).delta(before, number, site_id(data.name), None)
                total += weight * delta
                weights += weight
        momentum = 0.5 * momentum + total / weights
        model = model + momentum
        np.testing.assert_allclose(point.state.model, model, atol=2e-6)
        # From there on both go on from the same bits.
        model = point.state.model.astype(np.float64)
    assert (point.state.model != plan.initial)[tail].any()


@pytest.mark.usefixtures("undrawn")
def test_what_a_weak_site_sends_and_gets_is_of_the_shallow_branch(tmp_path: Path) -> None:
    scenario = planned()
    summary = run(scenario, tmp_path / "run")
    plan, _, _ = plans.simulated(scenario)
    shallow, _ = parts(plan)
    small, whole = 4 * int(shallow.sum()), 4 * plan.layout.size
    for record in read_rounds(tmp_path / "run"):
        weak, strong = record.kinds[WEAK], record.kinds[WHOLE]
        assert weak["used"] == strong["used"] == 2
        assert weak["up"] == 2 * (HEADER_BYTES + small)
        assert strong["up"] == 2 * (HEADER_BYTES + whole)
        assert record.bytes_up == weak["up"] + strong["up"]
        assert record.bytes_down == weak["down"] + strong["down"]
        assert weak["cpu_seconds"] > 0 and strong["cpu_seconds"] > 0
        # After the first round the way down carries that branch alone, too.
        if record.round > 1:
            assert strong["down"] - weak["down"] == 2 * (whole - small)
        assert record.dense_up == 2 * (small + whole)
    assert summary["kinds"][WEAK]["sites"] == ["site-02", "site-04"]
    assert summary["kinds"][WHOLE]["sites"] == ["site-01", "site-03"]
    assert summary["kinds"][WEAK]["parameters"] == small // 4
    assert summary["kinds"][WEAK]["up"] == 3 * 2 * (HEADER_BYTES + small)


HOW: dict[str, dict[str, dict[str, Any]]] = {
    "topk, momentum": {
        "uplink": {**TOPK, "error_feedback": True},
        "downlink": TOPK,
        "federation": {"server_momentum": 0.9, "average_last": 0.5},
    },
    "rotated, fedadam, aggregate feedback": {
        "uplink": {
            "compressor": "rotated-topk",
            "density": 0.3,
            "error_feedback": False,
            "aggregate_feedback": 0.4,
        },
        "downlink": TOPK,
        "federation": {"strategy": "fedadam", "server_learning_rate": 0.05},
    },
}


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_a_resumed_run_is_the_run(
    outcome: Outcome, killed: Killed, trap: Trap, tmp_path: Path, how: dict[str, dict[str, Any]]
) -> None:
    scenario = planned(**how)

    def play(name: str) -> Callable[[], None]:
        return lambda: simulate(scenario, tmp_path / name, engine="serial", quiet=True)

    play("whole")()
    arm = trap(checkpoint, "save", 2, "before")
    assert killed(play("cut"), arm)
    play("cut")()
    assert same(outcome(tmp_path / "cut"), outcome(tmp_path / "whole"))


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_a_pool_is_the_serial_run(outcome: Outcome, tmp_path: Path) -> None:
    scenario = planned(**HOW["topk, momentum"])
    for engine in ("serial", "pool"):
        run(scenario, tmp_path / engine, engine)
    assert same(outcome(tmp_path / "pool"), outcome(tmp_path / "serial"))


def same(one: tuple[bytes, list[dict[str, Any]]], other: tuple[bytes, Any]) -> bool:
    for _, rows in (one, other):
        for row in rows:
            for kind in row["kinds"].values():
                del kind["cpu_seconds"]
    return one == other


@pytest.mark.usefixtures("undrawn")
def test_a_round_of_weak_sites_alone_leaves_the_tail_and_says_so(
    points: list[checkpoint.Checkpoint],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not even momentum moves it; in a round of strong sites alone all moves."""
    scenario = planned(
        federation={"participation": 0.25, "rounds": 8, "server_momentum": 0.9, "quorum": 1}
    )
    summary = run(scenario, tmp_path / "run")
    plan, _, _ = plans.simulated(scenario)
    shallow, tail = parts(plan)
    before, stood = plan.initial, 0
    for point, record in zip(points, read_rounds(tmp_path / "run"), strict=True):
        moved = point.state.model != before
        assert moved[shallow].any()
        weak = record.kinds[WEAK]["used"] == 1
        assert moved[tail].any() == (not weak), record.round
        stood += weak
        before = point.state.model
    assert 0 < stood < 8, "the draw must have had both"
    told = [text for text in caplog.messages if "no site that trains the tail" in text]
    assert len(told) == stood
    assert summary["kinds"]["tail stood still"] == stood


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("unit", ["record", "client"])
def test_a_private_runs_ledgers_audit_clean(tmp_path: Path, unit: str) -> None:
    """From files alone; a weak site's loss is that of the plan, as everybody's."""
    privacy = {"unit": unit, "epsilon": 5.0, "clip": 0.5}
    summary = run(
        planned(
            privacy=privacy,
            training={"steps": 1},
            uplink={"compressor": "topk", "density": 0.3, "values": "fp32"},
            downlink=TOPK,
        ),
        tmp_path / "run",
    )
    assert summary["updates"]["accepted"] == 12
    result = CliRunner().invoke(app, ["audit", "ledgers", str(tmp_path / "run"), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["clean"]
    losses = {str(site["epsilon"]) for site in summary["privacy"]["sites"].values()}
    assert len(losses) == 1


def test_clip_and_noise_of_a_weak_site_are_for_what_it_trains_alone() -> None:
    """By autograd, a record at a time, of stem and exit, whatever the exit's weight is."""
    plan, _, _ = plans.simulated(planned(training={"steps": 1, "exit_weight": 0.4}))
    small = depth.early(plan)
    rng = np.random.default_rng(0)
    data = Dataset(rng.random((6, 1, 8, 8), np.float32), rng.integers(0, 10, 6))
    learner = Learner(small, data)
    start = rng.normal(0, 0.3, small.layout.size).astype(np.float32)
    clip, batch, rate = 0.1, 10, small.learning_rate(1)
    load_vector(learner.model, start)
    mine = list(learner.model.parameters())
    total = np.zeros(small.layout.size)
    lengths = []
    for x, y in zip(torch.from_numpy(data.x), torch.from_numpy(data.y), strict=True):
        (answer,) = learner.model(x[None])
        loss = torch.nn.functional.cross_entropy(answer, y[None])
        parts = torch.autograd.grad(loss, mine)
        one = np.concatenate([part.double().numpy().ravel() for part in parts])
        lengths.append(np.linalg.norm(one))
        total += one * min(1.0, clip / lengths[-1])
    assert max(lengths) > clip

    def delta(noise: float) -> Vector:
        mechanism = RecordMechanism(clip, noise, 1.0, steps=4, expected_batch=batch)
        return learner.delta(start, 1, 1, mechanism)

    scale = rate / batch
    np.testing.assert_allclose(delta(0.01), -scale * total, atol=6 * 0.001 * scale)
    assert delta(50.0).std() == pytest.approx(scale * 50.0 * clip, rel=0.1)
    whole = learner.delta(start, 1, 1, ClientMechanism(clip, 50.0, 4, at="site"))
    assert whole.std() == pytest.approx(50.0 * 2 * clip, rel=0.1)


@pytest.mark.usefixtures("undrawn")
def test_values_take_turns_at_weak_sites_too(
    points: list[checkpoint.Checkpoint], tmp_path: Path
) -> None:
    """What moves in a round is of its turn; of that a weak site trains what it holds."""
    (tmp_path / "own.py").write_text(TURNS)
    scenario = planned(
        model={"name": f"{tmp_path}/own.py:make"},
        federation={"rounds": 4, "server_momentum": 0.9},
        uplink=TOPK | {"error_feedback": True},
        downlink=TOPK,
    )
    run(scenario, tmp_path / "run")
    plan, _, sites = plans.simulated(scenario)
    names = np.repeat(plan.layout.names, plan.layout.sizes)
    first = dict(zip(plan.layout.names, plan.layout.sizes, strict=True))
    assert len(first) == 5
    before = plan.initial
    for number, point in enumerate(points, start=1):
        moved = {str(name) for name in names[point.state.model != before]}
        still = "stem.1.weight" if number % 2 else "stem.2.weight"
        assert moved == {*first} - {still}, number
        before = point.state.model
    # A weak site's bytes are of what it holds of the turn.
    small = depth.early(plan)
    assert [turn.moving.size for turn in small.turns] == [
        small.layout.size - first["stem.1.weight"],
        small.layout.size - first["stem.2.weight"],
    ]
    assert all(r.accepted == 4 for r in read_rounds(tmp_path / "run")), sites


TURNS = """
from torch import nn
from fedlite.models import Branched


class Turns(Branched):
    def standing(self):
        return ("stem.1.weight",), ("stem.2.weight",)


def make(shape, classes):
    down, up = nn.Linear(64, 4, bias=False), nn.Linear(4, 16, bias=False)
    stem = nn.Sequential(nn.Flatten(), down, up)
    exit, tail = nn.Linear(16, classes, bias=False), nn.Linear(16, classes)
    return Turns(stem, exit, tail, shape=shape, classes=classes)
"""


def test_the_seed_draws_the_weak_sites_and_a_name_that_is_not_there_is_refused() -> None:
    drawn = planned(federation={"weak_sites": "", "weak": 0.5})
    weak = plans.simulated(drawn)[0].weak
    assert len(weak) == 2 and weak == plans.simulated(drawn)[0].weak < {*SITES}
    others = {
        plans.simulated(planned(federation={"weak_sites": "", "weak": 0.5, "seed": seed}))[0].weak
        for seed in range(8)
    }
    assert len(others) > 1
    for federation, message in (
        ({"weak_sites": "site-09"}, "weak_sites: must name sites of the federation"),
        ({"weak_sites": "", "weak": 0.2}, "weak: must be the share of one site"),
    ):
        with pytest.raises(ValueError, match=message):
            check(planned(federation=federation))
