"""Which round is kept and when a run stops, against the record of the same run played to its end.

Covers server/selection.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite import plan as plans
from fedlite.models.files import read_vector
from fedlite.parameters import Vector
from fedlite.reporting.record import read_rounds, read_summary
from fedlite.scenario import Scenario, ScenarioError
from server import app, checkpoint
from server.evaluation import Evaluator
from simulations.run import check, resume_scenario, simulate
from tests.simulations.running import CSV, Killed, Outcome, Plan, Trap

pytestmark = pytest.mark.usefixtures("undrawn")
# A step that overshoots: accuracy goes up and down.
WILD = {"rounds": 8, "server_learning_rate": 10.0}


def play(scenario: Scenario, directory: Path) -> dict[str, Any]:
    simulate(scenario, directory, engine="serial", quiet=True)
    return read_summary(directory)


def wild(plan: Plan, **selection: Any) -> Scenario:
    federation = WILD | selection.pop("federation", {})
    return plan(federation=federation, selection=selection)


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> list[Vector]:
    """The model that each round would release."""
    seen: list[Vector] = []
    real = checkpoint.save

    def watch(directory: Path, point: checkpoint.Checkpoint) -> None:
        seen.append(point.state.released.copy())
        real(directory, point)

    monkeypatch.setattr(checkpoint, "save", watch)
    return seen


def kept_by_hand(values: list[float], minimum: float = 0.0, patience: int = 0) -> tuple[int, int]:
    """Return the kept round and the last one, from 1, for scores by round."""
    best = 0
    for at, value in enumerate(values):
        if at and value > values[best] + minimum:
            best = at
        if patience and at - best >= patience:
            return best + 1, at + 1
    return best + 1, len(values)


@pytest.mark.parametrize("average_last", [0.0, 0.5])
def test_the_best_round_by_its_score_is_released(
    plan: Plan, tmp_path: Path, released: list[Vector], average_last: float
) -> None:
    scenario = wild(plan, keep="best", federation={"average_last": average_last})
    summary = play(scenario, tmp_path / "run")
    values = [r.accuracy["deep"] for r in read_rounds(tmp_path / "run")]
    best, last = kept_by_hand(values)
    assert best < last, "the last is not the best, or nothing is tested"
    # What is scored and kept is what would be released: the average, once averaging has begun.
    layout = plans.simulated(scenario)[0].layout
    np.testing.assert_array_equal(read_vector(tmp_path / "run", layout), released[best - 1])
    assert summary["accuracy"]["deep"] == values[best - 1]
    chosen = summary["selection"]
    assert (chosen["round"], chosen["value"]) == (best, values[best - 1])
    assert chosen["on"] == summary["accuracy"]["on"] and not chosen["stopped"]


@pytest.mark.long
@pytest.mark.parametrize(("keep", "patience", "minimum"), [("best", 2, 0.0), ("last", 1, 0.05)])
def test_a_run_stops_when_it_has_waited_long_enough(
    plan: Plan, tmp_path: Path, keep: str, patience: int, minimum: float
) -> None:
    play(wild(plan), tmp_path / "whole")
    values = [r.accuracy["shallow"] for r in read_rounds(tmp_path / "whole")]
    best, last = kept_by_hand(values, minimum, patience)
    assert last < len(values)
    chosen = {"keep": keep, "patience": patience, "minimum": minimum, "score": "accuracy.shallow"}
    summary = play(wild(plan, **chosen), tmp_path / "run")
    found = [r.accuracy["shallow"] for r in read_rounds(tmp_path / "run")]
    assert found == values[:last] and summary["rounds"] == last
    assert summary["selection"]["round"] == best and summary["selection"]["stopped"]
    at = best if keep == "best" else last
    assert summary["accuracy"]["shallow"] == values[at - 1]


@pytest.mark.long
@pytest.mark.parametrize("call", [2, 4])
def test_a_resumed_run_keeps_and_stops_as_one_that_was_not_interrupted(
    plan: Plan, outcome: Outcome, killed: Killed, trap: Trap, tmp_path: Path, call: int
) -> None:
    scenario = wild(plan, keep="best", patience=3)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    play(scenario, whole)
    assert killed(lambda: play(scenario, cut), trap(checkpoint, "save", call, "after"))
    play(resume_scenario(cut), cut)
    assert outcome(cut) == outcome(whole)
    assert read_summary(cut)["selection"] == read_summary(whole)["selection"]


@pytest.mark.long
def test_a_run_that_had_stopped_plays_no_round_more(
    plan: Plan, killed: Killed, trap: Trap, tmp_path: Path
) -> None:
    scenario = wild(plan, keep="best", patience=1)
    assert killed(lambda: play(scenario, tmp_path), trap(app, "write_model", 1, "before"))
    before = len(read_rounds(tmp_path))
    summary = play(resume_scenario(tmp_path), tmp_path)
    assert before < 8 and len(read_rounds(tmp_path)) == before
    assert summary["selection"]["stopped"]


@pytest.mark.long
def test_rounds_that_are_not_scored_do_not_count(plan: Plan, tmp_path: Path) -> None:
    scored = {"federation": {"evaluate_every": 2}}
    play(wild(plan, **scored), tmp_path / "whole")
    rows = [r for r in read_rounds(tmp_path / "whole") if r.accuracy]
    assert [row.round for row in rows] == [2, 4, 6, 8]
    best, last = kept_by_hand([row.accuracy["deep"] for row in rows], 0.0, 1)
    summary = play(wild(plan, patience=1, **scored), tmp_path / "run")
    assert summary["selection"]["round"] == 2 * best and summary["rounds"] == 2 * last


def test_what_sites_hold_out_may_choose_where_nothing_is_private(
    plan: Plan, tmp_path: Path, released: list[Vector]
) -> None:
    scenario = wild(plan, keep="best", on="sites")
    summary = play(scenario, tmp_path / "run")
    evaluator = Evaluator(*plans.simulated(scenario))
    sizes = {site.name: len(site.test) for site in evaluator.sites}
    values = []
    for vector in released:
        by_site = evaluator.by_site(vector)
        right = sum(by_site[name]["accuracy"]["deep"] * sizes[name] for name in by_site)
        values.append(right / sum(sizes[name] for name in by_site))
    best, _ = kept_by_hand(values)
    assert summary["selection"]["round"] == best
    assert summary["selection"]["value"] == pytest.approx(values[best - 1])
    assert summary["selection"]["on"] != summary["accuracy"]["on"]


@pytest.mark.parametrize("unit", ["record", "client"])
def test_under_privacy_a_public_test_set_may_choose_and_the_whole_plan_stays_charged(
    plan: Plan, tmp_path: Path, unit: str
) -> None:
    scenario = plan(
        federation={"rounds": 8},
        training={"steps": 1, "learning_rate": 0.5},
        privacy={"unit": unit, "epsilon": 1.0, "delta": 1e-5, "clip": 0.5},
        selection={"keep": "best", "patience": 1, "minimum": 0.9},
    )
    summary = play(scenario, tmp_path)
    assert summary["rounds"] == 2 and summary["selection"]["stopped"]
    planned = plans.simulated(scenario)[0].mechanism
    assert planned is not None and summary["privacy"]["steps"] == planned.steps == 8
    for row in summary["privacy"]["sites"].values():
        assert 0.98 < row["epsilon"]["pld"] <= 1.0, "the bound is that of the whole plan"
        assert row["prefix"]["steps"] == 2 and row["prefix"]["epsilon"] < 0.8


@pytest.mark.parametrize("chosen", [{"keep": "best"}, {"patience": 2}])
@pytest.mark.parametrize("where", ["on sites", "own table"])
def test_under_privacy_held_out_records_may_not_choose(
    plan: Plan, tmp_path: Path, chosen: dict[str, Any], where: str
) -> None:
    data: dict[str, Any] = {}
    if where == "own table":
        table = tmp_path / "own.csv"
        table.write_text(CSV)
        data = {"name": "csv", "path": str(table), "target": "label", "labels": "0,1"}
        data |= {"ranges": "a 0:6, b 0:2", "partition": "natural", "test_fraction": 0.5}
        federation = {"sites": 2}
    else:
        chosen, federation = chosen | {"on": "sites"}, {}
    scenario = plan(
        private=True,
        federation=federation,
        data=data,
        training={"steps": 1},
        privacy={"unit": "record", "epsilon": 1.0, "expected_batch": 5, "simulate_seed": 1},
        selection=chosen,
    )
    key = "selection.keep" if "keep" in chosen else "selection.patience"
    with pytest.raises(ValueError, match=f"{key}: must be left out.*no plan has charged"):
        check(scenario)
    # Who comes by another way, as `flwr run` does, finds the same where the rounds are.
    with pytest.raises(ValueError, match="no plan has charged"):
        app.run_scenario(None, scenario, app.Task(tmp_path / "run", bytes(8), "serial"))  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match="no plan has charged"):
        simulate(scenario, tmp_path / "other", quiet=True)


def test_under_privacy_a_test_set_that_all_sites_records_scale_may_not_choose(
    plan: Plan, tmp_path: Path
) -> None:
    """Its scores tell the mean and spread of clear records, which no noise covers."""
    rng, file = np.random.default_rng(0), tmp_path / "own.npz"
    x = rng.normal(5.0, 2.0, (200, 4))
    y = (x[:, 0] > 5.0).astype(np.int64)
    np.savez(file, x=x, y=y, site=np.arange(200) % 4, test_x=x[:50], test_y=y[:50])
    data = {"name": "npz", "path": str(file), "partition": "natural", "labels": "0, 1"}
    privacy = {"unit": "client", "epsilon": 3.0, "delta": 1e-5, "clip": 0.5}
    federation, selection = {"sites": 4}, {"keep": "best"}
    scenario = plan(federation=federation, data=data, privacy=privacy, selection=selection)
    with pytest.raises(ValueError, match=r"scaled by all sites' records .*no plan has charged"):
        check(scenario)
    data["ranges"] = "0:10"
    check(plan(federation=federation, data=data, privacy=privacy, selection=selection))


@pytest.mark.parametrize(
    ("selection", "data", "said"),
    [
        ({"keep": "best", "score": "auc.deep"}, {}, r"selection.score: must be one of accuracy"),
        ({"keep": "best", "score": "accuracy.records"}, {}, r"selection.score: must be one of"),
        (
            {"patience": 1, "on": "sites"},
            {"test_fraction": 0.0},
            r"data.test_fraction: must hold out records when selection.on is 'sites'",
        ),
    ],
)
def test_a_score_that_is_not_there_is_refused_before_the_run(
    plan: Plan, selection: dict[str, Any], data: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check(plan(selection=selection, data=data))


@pytest.mark.parametrize("text", ["accuracy", "accuracy.deep.x", "Accuracy.deep", "accuracy."])
def test_a_score_of_another_form_is_refused_by_the_key(
    plan: Callable[..., Scenario], text: str
) -> None:
    with pytest.raises(ScenarioError, match=r"selection.score: must be empty, or a score"):
        plan(selection={"score": text})


@pytest.mark.long
def test_the_record_of_a_run_says_which_round_was_kept(plan: Plan, tmp_path: Path) -> None:
    from fedlite.reporting import wording

    summary = play(wild(plan, keep="best", patience=2), tmp_path)
    told = " ".join(wording.verdict(summary))
    assert f"The model is of round {summary['selection']['round']}, the best by accuracy" in told
    assert "its score on them flatters it" in told
    assert f"The run ended after round {summary['rounds']} of 8: 2 scored rounds" in told
    assert wording.selected(play(wild(plan), tmp_path / "other")) == []
