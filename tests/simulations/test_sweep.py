from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedlite.reporting.record import read_rounds, read_summary
from fedlite.scenario import ScenarioError, load, read
from simulations import sweep as sweeps
from simulations.run import scenario_path, simulate
from simulations.sweep import Sweep, choices_of, compared, grid, opened, play, seeds_of

BASE = {
    "federation": {"name": "tiny", "rounds": 3, "sites": 3},
    "model": {"name": "mlp"},
    "training": {"steps": 2},
    "data": {"test_fraction": 0.2},
}
PRIVATE = {"privacy": {"unit": "record", "epsilon": 1.0, "clip": 0.5}}


def quick(tables: dict[str, Any], *settings: str, seeds: str = "") -> Sweep:
    return grid(tables, choices_of(settings), seeds_of(seeds))


def model(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def test_a_grid_is_every_combination_with_every_seed() -> None:
    found = quick(BASE, "training.learning_rate=0.1,0.3", "training.epochs=2", seeds="1-2")
    assert [trial.name for trial in found.trials] == [
        "001-learning_rate=0.1-seed=1",
        "002-learning_rate=0.1-seed=2",
        "003-learning_rate=0.3-seed=1",
        "004-learning_rate=0.3-seed=2",
    ]
    last = found.scenario(found.trials[-1])
    assert (last.training.learning_rate, last.training.epochs) == (0.3, 2)
    assert (last.federation.seed, last.federation.rounds) == (2, 3)
    assert [t.name for t in quick(BASE).trials] == ["001"]


def test_a_trial_is_the_scenario_that_set_would_make(tmp_path: Path) -> None:
    # What was left open stays open: a small model's links are chosen when its size is known.
    path = scenario_path("fashion")
    overrides = ["model.name=mlp", "training.learning_rate=0.3", "federation.seed=7"]
    found = quick(read(path), "model.name=mlp", "training.learning_rate=0.1,0.3", seeds="7")
    expected = load(path, overrides)
    trial = found.scenario(found.trials[1])
    assert trial == expected and trial.open_links == expected.open_links
    assert trial.notes == expected.notes
    tmp_path.joinpath("x").mkdir()
    found.save(tmp_path / "x")
    again = opened(tmp_path / "x")
    assert again == found and again.scenario(again.trials[1]) == expected


def test_a_path_means_the_same_when_the_sweep_is_taken_up_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = quick(BASE, "simulation.sites=homes,others")
    assert [trial.settings["simulation.sites"] for trial in found.trials] == [
        str(tmp_path / "homes"),
        str(tmp_path / "others"),
    ]


@pytest.mark.parametrize(
    ("settings", "seeds", "message"),
    [
        (["training.learnin_rate=1,2"], "", r"trial 001-.*did you mean learning_rate"),
        (["training.learning_rate=0.1,fast"], "", r"trial 002-.*must be a number, got 'fast'"),
        (["federation.quorum=1,9"], "", r"trial 002-quorum=9: federation.quorum: must be at most"),
        (["federation.seed=1,2"], "", "give --seeds 1,2"),
        (["training.epochs=1,1"], "", "each of its values once"),
        (["training.epochs=1", "training.epochs=2"], "", "must name a key once"),
        (["epochs=1"], "", "must be section.key=value,value"),
        (["training.epochs"], "", "must be section.key=value,value"),
        ([], "5-1", "--seeds: must be as in 1-5"),
        ([], "one", "--seeds: must be as in 1-5"),
        ([], "1,1-2", "name each seed once"),
        (["training.steps=" + ",".join(map(str, range(1, 200)))], "1-100", "at most 10,000 trials"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_runs(
    settings: list[str], seeds: str, message: str
) -> None:
    with pytest.raises(ScenarioError, match=message):
        quick(BASE, *settings, seeds=seeds)


def test_names_are_safe_whatever_the_values_are() -> None:
    long = sweeps.name_of(1, ["path=../../etc/passwd", "x=" + "y" * 300])
    assert "/" not in long and len(long) < 100 and long.startswith("001-path=.._.._etc_passwd")


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_trials_are_runs_as_they_would_be_alone_also_side_by_side(tmp_path: Path) -> None:
    found = quick(BASE, "training.learning_rate=0.1,0.5")
    told: list[str] = []
    outcomes = play(found, tmp_path / "one", found.trials, tell=lambda t, _: told.append(t.name))
    assert told == [trial.name for trial in found.trials]
    assert not any(outcome.error for outcome in outcomes.values())
    alone = found.scenario(found.trials[1])
    simulate(alone, tmp_path / "alone", engine="serial", quiet=True)
    assert model(tmp_path / "alone") == model(tmp_path / "one" / found.trials[1].name)
    play(found, tmp_path / "two", found.trials, jobs=2)
    for trial in found.trials:
        assert model(tmp_path / "one" / trial.name) == model(tmp_path / "two" / trial.name)


@pytest.mark.usefixtures("undrawn")
def test_a_failed_trial_is_named_and_stops_no_other(tmp_path: Path) -> None:
    found = quick(BASE, "training.learning_rate=1e30,0.1")
    outcomes = play(found, tmp_path, found.trials)
    assert "federation.quorum" in outcomes[found.trials[0].name].error
    assert outcomes[found.trials[1].name].error == ""
    # What its sites had to say is kept with it, and not on the terminal.
    assert "training diverged" in (tmp_path / found.trials[0].name / sweeps.LOG).read_text()


@pytest.mark.usefixtures("undrawn")
def test_foreign_code_that_raises_anything_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = quick(BASE, "training.learning_rate=0.1,0.2")
    real = sweeps.simulate

    def raising(scenario: Any, directory: Path, **named: Any) -> None:
        if scenario.training.learning_rate == 0.1:
            raise KeyError("mine")
        real(scenario, directory, **named)

    monkeypatch.setattr(sweeps, "simulate", raising)
    outcomes = play(found, tmp_path, found.trials)
    assert [outcome.error for outcome in outcomes.values()] == ["KeyError: 'mine'", ""]


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_sweep_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = quick(BASE, "training.learning_rate=0.1,0.5")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    play(found, whole, found.trials)
    from server.asking import Asking

    real, rounds = Asking.round, []

    def stopping(self: Asking, number: int) -> Any:
        rounds.append(number)
        if len(rounds) == 5:  # the second round of the second trial
            raise KeyboardInterrupt
        return real(self, number)

    monkeypatch.setattr(Asking, "round", stopping)
    with pytest.raises(KeyboardInterrupt):
        play(found, cut, found.trials)
    before = (cut / found.trials[0].name / "summary.json").stat().st_mtime_ns
    assert len(read_rounds(cut / found.trials[1].name)) == 1
    outcomes = play(found, cut, found.trials)
    assert rounds == [1, 2, 3, 1, 2, 2, 3] and not any(o.error for o in outcomes.values())
    assert (cut / found.trials[0].name / "summary.json").stat().st_mtime_ns == before
    for trial in found.trials:
        assert model(whole / trial.name) == model(cut / trial.name)


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_sites_that_keep_their_ledgers_stop_a_sweep_at_their_ceiling(tmp_path: Path) -> None:
    keeping = {"sites": str(tmp_path / "sites"), "ceiling": 1.2}
    found = quick(
        BASE | PRIVATE | {"simulation": keeping}, "training.learning_rate=0.1,0.2,0.3,0.4"
    )
    outcomes = play(found, tmp_path / "sweep", found.trials)
    errors = [outcome.error for outcome in outcomes.values()]
    # The ceiling lets a part of a second plan in, and nothing of a third.
    assert errors[0] == "" and "no site's own budget lets one round" in errors[-1]
    assert 2 <= len(outcomes) < len(found.trials), "what would be refused is not tried"
    for run in sorted((tmp_path / "sweep").iterdir()):
        if (run / "summary.json").exists():
            assert read_summary(run)["privacy"]["claimed"]
    rows = (tmp_path / "sites" / "site-01" / "ledgers" / "digits.jsonl").read_text().splitlines()
    plans = [row["body"] for row in map(json.loads, rows) if row["kind"] in ("genesis", "plan")]
    charged = [body["plan"]["charged"] for body in plans if body.get("plan")]
    assert charged and max(charged) <= 1.2


def test_sites_that_keep_their_ledgers_have_one_seed_and_one_run_at_a_time(tmp_path: Path) -> None:
    keeping = BASE | PRIVATE | {"simulation": {"sites": str(tmp_path / "sites")}}
    with pytest.raises(ScenarioError, match=r"--seeds: must be one where simulation\.sites is set"):
        quick(keeping, seeds="1-2")
    found = quick(keeping, "training.learning_rate=0.1,0.2")
    with pytest.raises(ScenarioError, match=r"--jobs: must be 1 where simulation\.sites is set"):
        play(found, tmp_path / "sweep", found.trials, jobs=2)


def test_a_folder_that_holds_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"no sweep.json there; give the folder of a sweep"):
        opened(tmp_path)
    for text in ("{", "{}", '{"tables": {}, "trials": 3, "search": null}'):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(ScenarioError, match="cannot be read"):
            opened(tmp_path)


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_a_sweep_is_compared_and_its_cost_is_that_of_plans_fixed_beforehand(tmp_path: Path) -> None:
    found = quick(BASE | PRIVATE, "training.learning_rate=0.1,0.2")
    found.save(tmp_path)
    play(found, tmp_path, found.trials)
    comparison = compared(tmp_path)
    assert [group.name for group in comparison.groups] == [
        "learning_rate 0.1",
        "learning_rate 0.2",
    ]
    assert comparison.cost is not None and comparison.cost.bound == "pld"
    assert 1.0 < comparison.cost.epsilon < 2.0
