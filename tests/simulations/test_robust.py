"""Runs with strategies that see every update, and the file of one's own that is one.

Covers simulations/attackers.py.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from clients import opening
from fedlite import plan as plans
from fedlite.commands.main import app
from fedlite.scenario import from_dict
from fedlite.training import Learner
from server import checkpoint
from simulations import run
from simulations.attackers import ATTACKS, Attack, Coalition, View, hostile, read_length
from simulations.benchmarks import robust as study
from simulations.run import simulate
from tests.simulations.running import Killed, Outcome, Plan, Trap

ROOT = Path(__file__).parents[2]
OWN = ROOT / "examples" / "own_strategy.py"
ROTATED = {"compressor": "rotated-topk", "density": 0.1}
GATHERED = ("median", "trimmed-mean", "krum", "multi-krum", "geometric-median", "norm-bound")


def five(strategy: str, **keys: Any) -> dict[str, Any]:
    federation = {"strategy": strategy, "sites": 5, "quorum": 5, "server_momentum": 0.9}
    return {"federation": federation | keys, "uplink": ROTATED, "downlink": ROTATED}


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("strategy", [*GATHERED, "fedadam"])
def test_a_resumed_run_equals_one_that_was_not_interrupted(
    killed: Killed, trap: Trap, plan: Plan, tmp_path: Path, outcome: Outcome, strategy: str
) -> None:
    scenario = plan(**five(strategy, server_learning_rate=0.05, average_last=0.5))
    simulate(scenario, tmp_path / "whole", engine="serial", quiet=True)
    directory = tmp_path / "run"
    arm = trap(checkpoint, "save", 2, "before")
    assert killed(lambda: simulate(scenario, directory, engine="serial", quiet=True), arm)
    simulate(run.resume_scenario(directory), directory, engine="serial", quiet=True)
    assert outcome(directory) == outcome(tmp_path / "whole")


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_a_pool_gives_what_one_process_gives(plan: Plan, tmp_path: Path, outcome: Outcome) -> None:
    scenario = plan(**five("geometric-median"))
    for engine in ("serial", "pool"):
        simulate(scenario, tmp_path / engine, engine=engine, quiet=True)
    assert outcome(tmp_path / "serial") == outcome(tmp_path / "pool")


@pytest.mark.parametrize("strategy", ["median", "trimmed-mean"])
def test_a_link_that_a_rule_cannot_use_is_refused_before_anything_runs(
    plan: Plan, tmp_path: Path, strategy: str
) -> None:
    scenario = plan(**(five(strategy) | {"uplink": {"compressor": "topk", "density": 0.1}}))
    with pytest.raises(ValueError, match=r"uplink\.compressor: must not be topk with"):
        simulate(scenario, tmp_path / "run", engine="serial", quiet=True)
    assert not (tmp_path / "run").exists()


def test_the_server_refuses_that_link_too(plan: Plan) -> None:
    """A coordinator is handed scenarios that nobody has simulated."""
    from server.updates import Updates

    scenario = plan(**(five("median") | {"uplink": {"compressor": "topk", "density": 0.1}}))
    with pytest.raises(ValueError, match=r"uplink\.compressor: must not be topk with"):
        Updates(plans.simulated(scenario)[0])


def test_what_a_strategy_holds_is_told_before_the_run(plan: Plan) -> None:
    notes = run.check(plan(**five("krum"))).notes
    assert notes[-1].startswith("federation.strategy: krum holds every update of a round: up to 5")
    assert not [note for note in run.check(plan()).notes if "holds every" in note]


# A strategy of one's own --------------------------------------------------------------------------


@pytest.mark.long
def test_the_example_is_short_and_does_what_the_house_s_median_does(tmp_path: Path) -> None:
    tree = ast.parse(OWN.read_text(encoding="utf-8"))
    assert sum(isinstance(n, ast.stmt) for n in ast.walk(tree)) <= 25
    assert len([x for x in OWN.read_text().splitlines() if x.strip()]) <= 25
    models = []
    told = (ast.get_docstring(tree) or "").replace("\\\n", "")
    words = told[told.index("fedlite simulate") :].removeprefix("fedlite ")
    for strategy in (str(OWN) + ":Median", "median"):
        settings = words.replace("examples/own_strategy.py:Median", strategy).split()
        out = tmp_path / Path(strategy).name
        more = ["--rounds", "2", "--engine", "serial", "--json", "--out", str(out)]
        result = CliRunner().invoke(app, [*settings, *more])
        assert result.exit_code == 0, result.output
        models.append((out / "model.safetensors").read_bytes())
    assert models[0] == models[1]


# Attackers ----------------------------------------------------------------------------------------


def view() -> View:
    rng = np.random.default_rng(0)
    return View(
        rng.normal(size=200).astype(np.float32),
        (1 + rng.normal(size=(6, 200))).astype(np.float32),
    )


def test_attacks_are_what_their_papers_say() -> None:
    seen = view()
    mean = seen.honest.astype(float).mean(axis=0)
    chosen = {name: attack.chooses(seen) for name, attack in ATTACKS.items()}
    np.testing.assert_array_equal(chosen["label-flip"], seen.own)
    np.testing.assert_array_equal(chosen["sign-flip"], -seen.own)
    np.testing.assert_array_equal(chosen["long-sign-flip"], -seen.own)
    expected = mean - 1.5 * seen.honest.astype(float).std(axis=0)
    np.testing.assert_allclose(chosen["alie"], expected, atol=1e-5)
    np.testing.assert_allclose(chosen["inner-product"], -0.5 * mean, atol=1e-5)
    pushed = np.flatnonzero(chosen["support"])
    assert sorted(pushed) == sorted(np.argsort(-np.abs(mean))[:2])
    assert (chosen["support"][pushed] * mean[pushed] < 0).all()
    assert not chosen["silence"].any()
    assert all(delta.dtype == np.float32 for delta in chosen.values())
    assert {name for name, attack in ATTACKS.items() if attack.longest} == {
        "long-sign-flip",
        "support",
    }


@pytest.mark.parametrize("bound", [{}, {"update_norm": 3.0}, {"outlier_factor": 0.0}])
def test_the_longest_attack_is_just_let_pass(plan: Plan, bound: dict[str, float]) -> None:
    made = plans.simulated(plan(**five("fedavg", **bound)))[0]
    coalition = Coalition(ATTACKS["support"], ["site-05"])
    rng = np.random.default_rng(2)
    honest = [rng.normal(size=made.layout.size).astype(np.float32) for _ in range(3)]
    for site, delta in enumerate(honest):
        coalition.see(made, delta, 4, site)
    usual = np.median([read_length(made, delta, 4, site) for site, delta in enumerate(honest)])
    sent = coalition.delta(made, honest[0], 4, 99)
    limit = bound.get("update_norm", 100 * usual)
    assert 0.9 * limit < read_length(made, sent, 4, 99) < limit


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_hostile_sites_send_valid_updates_that_move_the_model(plan: Plan, tmp_path: Path) -> None:
    """FedAvg follows one of five against the others; the median and Krum do not."""
    scores: dict[tuple[str, str], float] = {}
    for strategy in ("fedavg", "median"):
        for name in ("none", "long-sign-flip"):
            tables = five(strategy, rounds=6, server_momentum=0.0)
            scenario = plan(**tables, training={"steps": 20, "learning_rate": 0.5})
            out = tmp_path / f"{strategy}-{name}"
            attack = ATTACKS.get(name, Attack("nothing", lambda seen: seen.own))
            with hostile(attack, ["site-05"] if name != "none" else []):
                simulate(scenario, out, engine="serial", quiet=True)
            rows = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
            assert [row["accepted"] for row in rows] == [5] * 6
            assert not any(row["dropped"] or row["cut"] for row in rows)
            summary = json.loads((out / "summary.json").read_text())
            scores[strategy, name] = summary["accuracy"]["deep"]
    assert opening.Learner is Learner, "only for as long as it was asked"
    clean = scores["fedavg", "none"]
    assert clean > 0.6 and scores["fedavg", "long-sign-flip"] < 0.3
    assert scores["median", "none"] > clean - 0.15
    assert scores["median", "long-sign-flip"] > clean - 0.2


def test_labels_are_flipped_once_and_at_hostile_sites_only(plan: Plan, tmp_path: Path) -> None:
    made, _, sites = plans.simulated(plan(**five("fedavg")))
    with hostile(ATTACKS["label-flip"], ["site-05"]):
        learners = {site.name: opening.Learner(made, site.train) for site in sites}
    from fedlite.messages import site_id

    for _ in range(2):
        for name in sorted(learners):
            learners[name].delta(made.initial, 1, site_id(name), None)
    for site in sites:
        labels = learners[site.name].labels.numpy()
        expected = 9 - site.train.y if site.name == "site-05" else site.train.y
        np.testing.assert_array_equal(labels, expected)


def test_attackers_that_come_before_the_others_are_told_so(plan: Plan) -> None:
    made = plans.simulated(plan(**five("fedavg")))[0]
    with pytest.raises(RuntimeError, match="hostile site was asked before the honest ones"):
        Coalition(ATTACKS["alie"], ["site-01"]).delta(made, made.initial, 1, 1)


def test_attackers_refuse_links_whose_length_they_cannot_know(plan: Plan) -> None:
    scenario = from_dict({"model": {"name": "mlp"}, "uplink": {"compressor": "topk"}})
    made, _, sites = plans.simulated(scenario)
    with (
        hostile(ATTACKS["alie"], []),
        pytest.raises(ValueError, match=r"uplink\.error_feedback: must be false with attackers"),
    ):
        opening.Learner(made, sites[0].train)


# The study ----------------------------------------------------------------------------------------


def test_points_lost_are_to_the_clean_mean_of_the_same_seed() -> None:
    deep = {("none", "fedavg"): (0.8, 0.9), ("alie", "median"): (0.7, 0.85)}
    jobs = [
        study.Job(strategy, attack, seed, 1, Path("unused"))
        for attack, strategy in deep
        for seed in (1, 2)
    ]
    summaries = [
        {"accuracy": {"deep": score}, "bytes": {"up_ratio": 136.0}}
        for scores in deep.values()
        for score in scores
    ]
    clean, attacked = study.table(jobs, summaries)
    assert clean["lost"] == 0.0 and clean["deep"] == pytest.approx(85.0)
    assert attacked["lost"] == pytest.approx(7.5) and attacked["seeds"] == 2
    assert attacked["lost_sd"] == pytest.approx(np.std([10.0, 5.0], ddof=1))
    assert study.render([clean, attacked]).splitlines()[2:] == [
        "| none | 0.00 |  |",
        "| alie |  | 7.50 |",
    ]


@pytest.mark.long
@pytest.mark.data("fashion-mnist")
@pytest.mark.parametrize("strategy", study.RULES)
def test_the_study_s_scenarios_are_valid_and_of_twenty_sites(strategy: str) -> None:
    job = study.Job(strategy, "alie", 7, 3, Path("unused"), ("uplink.density=0.1",))
    scenario = run.check(study.configure(job))
    federation = scenario.federation
    assert (federation.sites, federation.rounds, federation.seed) == (study.SITES, 3, 7)
    assert not scenario.uplink.error_feedback and scenario.uplink.density == 0.1
    assert federation.quorum >= 2 * study.HOSTILE + 3
