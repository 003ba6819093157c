"""Whole federations against the papers' formulas, worked by hand in float64.

Covers fedlite/objectives/fedprox.py, fedlite/objectives/scaffold.py, fedlite/objectives/feddyn.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from typer.testing import CliRunner

from clients import state
from fedlite import plan as plans
from fedlite.commands.main import app
from fedlite.scenario import Scenario, from_dict
from server import checkpoint
from server.updates import Updates
from simulations import homes
from simulations.run import resume_scenario, simulate
from tests.simulations.running import Killed, Outcome, Trap

Matrix = NDArray[np.float64]
Site = tuple[Matrix, NDArray[np.int64]]
Rounds = list[list[int]]

ROUNDS, STEPS, RATE = 3, 3, 0.4
# Sums of 3 rounds x 3 steps in float32, of values near 1.
TOLERANCE = 1e-6


def scenario(tmp_path: Path, sites: int, objective: str, **federation: Any) -> Scenario:
    table = tmp_path / "own.csv"
    rows = [
        f"h{n % sites},{(n * 37 % 101) / 50 - 1:.3f},{(n * 53 % 89) / 40 - n % sites:.3f},"
        f"{int(n * 37 % 101 > 30 + 20 * (n % sites))}"
        for n in range(60 * sites)
    ]
    table.write_text("\n".join(["site,a,b,label", *rows]) + "\n")
    dense = {"compressor": "dense"}
    return from_dict(
        {
            "federation": {"rounds": ROUNDS, "sites": sites, **federation},
            "data": {
                "name": "csv",
                "path": str(table),
                "target": "label",
                "labels": "0,1",
                "partition": "natural",
                "scaling": "none",
            },
            # One logistic regression; every batch is all records of a site.
            "model": {"name": "linear"},
            "training": {
                "objective": objective,
                "exit_weight": 0.0,
                "epochs": STEPS,
                "batch_size": 1000,
                "learning_rate": RATE,
            },
            "uplink": dense,
            "downlink": dense,
        }
    )


def trained(directory: Path, plan: Scenario) -> tuple[Matrix, Rounds]:
    """Return the weights that a run leads to, and whose updates each round has used."""
    simulate(plan, directory, engine="serial", quiet=True)
    rows = [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]
    names = [site.name for site in plans.simulated(plan)[2]]
    used = [
        [names.index(n) for n in row["asked"] or names if n not in row["dropped"]] for row in rows
    ]
    weights = safetensors.numpy.load_file(directory / "model.safetensors")
    return weights["tail.0.weight"].astype(np.float64), used


def records(plan: Scenario) -> list[Site]:
    """Return the sites' records with the model's intercept, a third, before the columns."""
    _, _, sites = plans.simulated(plan)
    return [
        (np.column_stack([np.full(len(s.train), 1 / 3), s.train.x.astype(np.float64)]), s.train.y)
        for s in sites
    ]


def gradient(weights: Matrix, site: Site) -> Matrix:
    """Of the mean cross-entropy of a logistic regression, float64 [2, columns]."""
    x, y = site
    powers = np.exp(x @ weights.T)
    share = powers / powers.sum(axis=1, keepdims=True)
    share[np.arange(len(y)), y] -= 1.0
    found: Matrix = share.T @ x / len(y)
    return found


def descend(weights: Matrix, site: Site, added: Callable[[Matrix], Matrix]) -> Matrix:
    for _ in range(STEPS):
        weights = weights - RATE * (gradient(weights, site) + added(weights))
    return weights


def fedprox(sites: list[Site], rounds: Rounds, mu: float) -> Matrix:
    """Li et al. 2020; with mu = 0 federated averaging."""
    model = np.zeros((2, 3))
    for used in rounds:
        ends = [descend(model, sites[i], lambda w, m=model: mu * (w - m)) for i in used]
        model = np.mean(ends, axis=0)
    return model


def scaffold(sites: list[Site], rounds: Rounds) -> Matrix:
    """Karimireddy et al. 2020, algorithm 1, option II, eta_g = 1."""
    x, c = np.zeros((2, 3)), np.zeros((2, 3))
    own = [np.zeros((2, 3)) for _ in sites]
    for used in rounds:
        moved, changed = [], []
        for i in used:
            y = descend(x, sites[i], lambda w, i=i, c=c: c - own[i])
            plus = own[i] - c + (x - y) / (STEPS * RATE)
            moved.append(y - x)
            changed.append(plus - own[i])
            own[i] = plus
        x = x + np.mean(moved, axis=0)
        c = c + len(used) / len(sites) * np.mean(changed, axis=0)
    return x


def feddyn(sites: list[Site], rounds: Rounds, alpha: float) -> Matrix:
    """Acar et al. 2021, algorithm 1; m is the number of all sites."""
    theta, h = np.zeros((2, 3)), np.zeros((2, 3))
    slopes = [np.zeros((2, 3)) for _ in sites]
    for used in rounds:
        ends = []
        for i in used:
            end = descend(theta, sites[i], lambda w, i=i, t=theta: -slopes[i] + alpha * (w - t))
            slopes[i] = slopes[i] - alpha * (end - theta)
            ends.append(end)
        h = h - alpha / len(sites) * sum(end - theta for end in ends)
        theta = np.mean(ends, axis=0) - h / alpha
    return theta


def fedadam(sites: list[Site], rounds: Rounds) -> Matrix:
    """Reddi et al. 2021, algorithm 2, beta_1 = 0.9, beta_2 = 0.99, tau = 0.001, eta = 0.05."""
    x, m, v = np.zeros((2, 3)), np.zeros((2, 3)), np.full((2, 3), 1e-6)
    for used in rounds:
        ends = [descend(x, sites[i], lambda w: 0 * w) for i in used]
        delta = np.mean(ends, axis=0) - x
        m, v = 0.9 * m + 0.1 * delta, 0.99 * v + 0.01 * delta**2
        x = x + 0.05 * m / (np.sqrt(v) + 1e-3)
    return x


METHODS: dict[str, tuple[str, dict[str, Any], Callable[[list[Site], Rounds], Matrix]]] = {
    "fedavg": ("plain", {}, lambda s, r: fedprox(s, r, 0.0)),
    "fedprox": ("fedprox", {}, lambda s, r: fedprox(s, r, 0.01)),
    "scaffold": ("scaffold", {}, scaffold),
    "feddyn": ("feddyn", {"strategy": "feddyn"}, lambda s, r: feddyn(s, r, 0.1)),
    "fedadam": (
        "plain",
        {"strategy": "fedadam", "server_learning_rate": 0.05, "server_momentum": 0.9},
        fedadam,
    ),
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", METHODS)
def test_two_sites_and_three_rounds_of_three_steps(tmp_path: Path, name: str) -> None:
    objective, federation, by_hand = METHODS[name]
    plan = scenario(tmp_path, 2, objective, **federation)
    found, used = trained(tmp_path / "run", plan)
    assert used == [[0, 1]] * ROUNDS
    truth = by_hand(records(plan), used)
    assert np.abs(truth).max() > 0.1
    np.testing.assert_allclose(found, truth, atol=TOLERANCE, rtol=0)


def test_the_methods_differ_by_far_more_than_they_are_compared_to(tmp_path: Path) -> None:
    sites = records(scenario(tmp_path, 2, "plain"))
    ends = [by_hand(sites, [[0, 1]] * ROUNDS) for _, _, by_hand in METHODS.values()]
    apart = [np.abs(a - b).max() for i, a in enumerate(ends) for b in ends[:i]]
    assert min(apart) > 100 * TOLERANCE


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_sites_that_are_not_asked_or_come_late_or_are_lost(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four are asked; what a dropped update led to does not count at its site."""
    objective, federation, by_hand = METHODS[name]
    plan = scenario(tmp_path, 4, objective, participation=0.5, seed=3, **federation)
    add, lost = Updates._add, []

    def losing(self: Updates, name: str, *rest: Any) -> None:
        if self._number == 2 and not lost:
            lost.append(name)
            raise ValueError("update: lost")
        add(self, name, *rest)

    monkeypatch.setattr(Updates, "_add", losing)
    found, used = trained(tmp_path / "run", plan)
    assert [len(one) for one in used] == [2, 1, 2]
    # Somebody comes in the third round for the first time, or after an update of his was lost.
    assert set(used[2]) - set(used[1])
    np.testing.assert_allclose(found, by_hand(records(plan), used), atol=TOLERANCE, rtol=0)


def sparse(name: str) -> Scenario:
    objective, federation, _ = METHODS[name]
    link = {"density": 0.1}
    return from_dict(
        {
            "federation": {"rounds": 6, "sites": 3, "participation": 0.6, **federation},
            "model": {"name": "mlp"},
            "training": {"objective": objective, "steps": 4, "learning_rate": 0.2},
            "uplink": link,
            "downlink": link,
        }
    )


@pytest.fixture(scope="module")
def truths() -> dict[str, Any]:
    return {}


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("module", "called", "call", "when"),
    [
        # Scenario and record, then two site states and a checkpoint a round.
        ("os", "replace", 7, "after"),
        ("os", "replace", 10, "before"),
        ("server.checkpoint", "save", 3, "before"),
        ("server.rounds", "append_round", 4, "after"),
    ],
)
@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_a_killed_run_goes_on_with_what_its_sites_had_kept(
    tmp_path: Path,
    killed: Killed,
    trap: Trap,
    outcome: Outcome,
    truths: dict[str, Any],
    name: str,
    module: str,
    called: str,
    call: int,
    when: str,
) -> None:
    if name not in truths:
        simulate(sparse(name), tmp_path / "whole", engine="serial", quiet=True)
        truths[name] = outcome(tmp_path / "whole")
    directory, arm = tmp_path / "run", trap(sys.modules[module], called, call, when)
    assert killed(lambda: simulate(sparse(name), directory, engine="serial", quiet=True), arm)
    assert not (directory / "summary.json").exists()
    simulate(resume_scenario(directory), directory, engine="serial", quiet=True)
    assert outcome(directory) == truths[name]


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("compressor", ["topk", "rotated-topk", "eden", "randk", "dense"])
def test_the_servers_control_variate_is_the_mean_of_the_sites_own_however_it_travels(
    tmp_path: Path, compressor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "drop_states", lambda directory: None)
    plan = sparse("scaffold")
    tables = plan.to_dict() | {"uplink": {"compressor": compressor, "density": 0.1}}
    plan = from_dict(tables)
    simulate(plan, tmp_path / "run", engine="serial", quiet=True)
    point = checkpoint.load(tmp_path / "run" / "checkpoint")
    assert point is not None
    own = []
    for name in point.sites:
        kept = state.load(tmp_path / "run" / "checkpoint" / "sites" / f"{name}.safetensors")
        assert kept is not None
        kept.settle(point.sites[name].acknowledged)
        own.append(kept.kept["own.control"].astype(np.float64))
        # It tells about how steep the site's loss is, so no compressor makes it longer.
        assert 0.0 < np.linalg.norm(own[-1]) < 10.0
    assert len(own) == 3
    np.testing.assert_allclose(point.state.arrays["extras"], np.mean(own, axis=0), atol=1e-6)


EXAMPLE = Path(__file__).parents[2] / "examples" / "own_objective.py"


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_fedprox_as_a_file_of_ones_own_has_at_most_30_lines_and_is_fedprox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 30
    (tmp_path / "small.toml").write_text(sparse("fedavg").to_toml())
    monkeypatch.chdir(EXAMPLE.parents[1])
    told = {}
    for name in ("examples/own_objective.py:fedprox", "fedprox", "plain"):
        words = ["simulate", str(tmp_path / "small.toml"), "--json", "--engine", "serial"]
        words += ["--set", f"training.objective={name}", "--out", str(tmp_path / name[-9:])]
        words += ["--rounds", "3"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        told[name] = (tmp_path / name[-9:] / "model.safetensors").read_bytes()
    own, house, plain = told.values()
    assert own == house != plain
