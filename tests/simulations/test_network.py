"""Runs in virtual time: the same by any engine and after a crash, and the arrivals that they claim.

Covers server/asking.py, server/buffered.py.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite import plan as plans
from fedlite.scenario import Scenario, from_dict
from server import buffered, checkpoint
from server.clock import Clock
from server.updates import Aged
from simulations import run
from simulations.run import check, simulate
from tests.simulations.running import Killed, Outcome, Trap

DENSE = {"compressor": "dense", "error_feedback": False}
LINE = {"profile": "own", "up_kbps": 40.0, "down_kbps": 80.0, "latency_ms": 100.0, "speed": 1.0}


def scenario(federation: dict[str, Any] | None = None, **network: Any) -> Scenario:
    return from_dict(
        {
            "federation": {"rounds": 5, "sites": 8, "participation": 0.5} | (federation or {}),
            "model": {"name": "mlp"},
            "training": {"steps": 2, "learning_rate": 0.3},
            "uplink": DENSE,
            "downlink": DENSE,
            "network": LINE | network,
        }
    )


def rows_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]


KINDS = [
    {"over_selection": 0.5, "dropout": 0.2, "spread": 1.0},
    {"hours": 9.0, "spread": 0.5},
    {"buffer": 3, "dropout": 0.1, "spread": 1.0, "hours": 18.0},
]


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("network", KINDS)
def test_serial_pool_and_a_resumed_run_have_the_same_times_and_model(
    network: dict[str, Any], tmp_path: Path, outcome: Outcome, killed: Killed, trap: Trap
) -> None:
    one = scenario({"deadline_seconds": 60.0}, **network)
    simulate(one, tmp_path / "serial", engine="serial", quiet=True)
    arm = trap(checkpoint, "save", 3, "before")
    assert killed(lambda: simulate(one, tmp_path / "cut", engine="serial", quiet=True), arm)
    simulate(one, tmp_path / "cut", engine="serial", quiet=True)
    truth = outcome(tmp_path / "serial")
    assert outcome(tmp_path / "cut") == truth
    simulate(one, tmp_path / "pool", engine="pool", quiet=True)
    assert outcome(tmp_path / "pool") == truth
    assert all(row["simulated_seconds"] > 0 for row in truth[1])


@pytest.mark.usefixtures("undrawn")
def test_the_first_to_answer_are_used_and_the_round_ends_with_them(tmp_path: Path) -> None:
    one = scenario(over_selection=1.0, spread=1.0)
    simulate(one, tmp_path / "run", engine="serial", quiet=True)
    plan, _, sites = plans.simulated(one)
    clock = Clock.of(plan, sites)
    for row in rows_of(tmp_path / "run"):
        # All eight are asked, and dense frames are equally long at all of them.
        up = row["bytes_up"] // 8
        down = row["bytes_down"] // 8
        assert row["bytes_up"] == 8 * up and row["bytes_down"] == 8 * down
        times = {site.name: clock.seconds(site.name, down=down, up=up) for site in sites}
        order = sorted(times, key=times.__getitem__)
        assert set(row["late"]) == {*order[4:]}
        assert row["accepted"] == 4
        assert row["simulated_seconds"] == pytest.approx(times[order[3]], abs=1e-5)


@pytest.mark.usefixtures("undrawn")
def test_of_too_many_asked_those_that_never_answer_are_missing_and_not_late(tmp_path: Path) -> None:
    one = scenario(over_selection=1.0, dropout=0.3, spread=1.0)
    simulate(one, tmp_path / "run", engine="serial", quiet=True)
    plan, _, sites = plans.simulated(one)
    clock = Clock.of(plan, sites)
    never = 0
    for row in rows_of(tmp_path / "run"):
        lost = {site.name for site in sites if clock.drops_out(site.name, row["round"])}
        assert {*row["missing"]} == lost
        assert not lost & {*row["late"]} and not row["out"]
        if len(lost) <= 4:
            assert row["accepted"] == 4 and len(row["late"]) == 4 - len(lost)
        never += len(lost)
    assert never > 0


@pytest.mark.usefixtures("undrawn")
def test_network_keys_change_times_and_no_model(tmp_path: Path, outcome: Outcome) -> None:
    plain = from_dict(scenario().to_dict() | {"network": {}})
    simulate(plain, tmp_path / "plain", engine="serial", quiet=True)
    simulate(scenario(spread=2.0), tmp_path / "timed", engine="serial", quiet=True)
    model, rows = outcome(tmp_path / "plain")
    timed, later = outcome(tmp_path / "timed")
    assert model == timed and {row["simulated_seconds"] for row in rows} == {0.0}
    for row, late in zip(rows, later, strict=True):
        assert row | {"simulated_seconds": late["simulated_seconds"]} == late
    told = json.loads((tmp_path / "timed" / "summary.json").read_text())["network"]
    assert told["seconds"] == pytest.approx(sum(r["simulated_seconds"] for r in later), abs=1e-3)
    assert "network" not in json.loads((tmp_path / "plain" / "summary.json").read_text())


@pytest.mark.usefixtures("undrawn")
def test_a_buffer_for_all_sites_of_one_speed_is_federated_averaging(
    tmp_path: Path, outcome: Outcome
) -> None:
    everyone = {"participation": 1.0, "rounds": 4}
    # Steps by batches and not by records: then all sites take equally long.
    simulate(scenario(everyone), tmp_path / "rounds", engine="serial", quiet=True)
    simulate(scenario(everyone, buffer=8), tmp_path / "buffer", engine="serial", quiet=True)
    model, rows = outcome(tmp_path / "rounds")
    found, steps = outcome(tmp_path / "buffer")
    assert found == model
    seconds = [row["simulated_seconds"] for row in rows]
    assert [row["simulated_seconds"] for row in steps] == pytest.approx(seconds, abs=1e-5)
    assert {row["staleness"] for row in steps} == {0.0}


def arrivals(one: Scenario, steps: int, down: int, up: int) -> list[tuple[list[str], float, float]]:
    """Play FedBuff's arrivals by hand, of frames of known length: who, when, and how old.

    With all sites at work none is drawn: who has arrived begins again with the model of the moment,
    once it may, which is after the next step for one that had this step's model already.
    """
    plan, _, sites = plans.simulated(one)
    clock = Clock.of(plan, sites)
    took = {s.name: clock.seconds(s.name, down=down, up=up) for s in sites}
    ends = {name: (seconds, 1) for name, seconds in took.items()}
    waiting: set[str] = set()
    found, now = [], 0.0
    for step in range(1, steps + 1):
        began = now
        for name in sorted(waiting):
            ends[name] = (now + took[name], step)
        waiting, names, ages = set(), [], []
        while len(names) < one.network.buffer and ends:
            name = min(ends, key=lambda n: (ends[n][0], n))
            at, version = ends.pop(name)
            now = max(now, at)
            names.append(name)
            ages.append(step - version)
            if version < step and len(names) < one.network.buffer:
                ends[name] = (now + took[name], step)
            else:
                waiting.add(name)
        found.append((sorted(set(names)), now - began, float(np.mean(ages))))
    return found


@pytest.mark.usefixtures("undrawn")
def test_arrivals_are_those_of_a_simulation_by_hand(tmp_path: Path) -> None:
    # The first instruction has no frame and later ones have, so the way down costs nothing here.
    one = scenario({"participation": 1.0, "rounds": 8}, buffer=3, spread=1.0, down_kbps=1e12)
    simulate(one, tmp_path / "run", engine="serial", quiet=True)
    rows = rows_of(tmp_path / "run")
    truth = arrivals(one, 8, 0, rows[0]["bytes_up"] // 8)
    for row, (names, seconds, age) in zip(rows, truth, strict=True):
        assert row["asked"] == names
        assert row["simulated_seconds"] == pytest.approx(seconds, abs=1e-4)
        assert row["staleness"] == pytest.approx(age, abs=1e-4)
    assert max(row["staleness"] for row in rows) > 0.5


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "network", [{"over_selection": 0.6}, {"buffer": 3, "hours": 12.0}], ids=["late", "buffer"]
)
def test_times_and_who_is_late_do_not_tell_how_many_records_a_private_site_has(
    network: dict[str, Any], tmp_path: Path
) -> None:
    found = []
    for many in (30, 45):
        rng, path = np.random.default_rng(1), tmp_path / f"{many}.csv"
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["site", "a", "y"])
            for site in range(8):
                for _ in range(many if site == 7 else 30):
                    rows.writerow([f"s{site}", round(rng.random(), 3), "ny"[rng.integers(2)]])
        tables = scenario({"rounds": 3, "quorum": 1}, spread=1.0, **network).to_dict()
        tables["training"] |= {"steps": 0, "epochs": 3}
        tables["model"] = {"name": "linear"}
        tables["data"] |= {
            "name": "csv",
            "path": str(path),
            "target": "y",
            "labels": "n, y",
            "columns": "a",
            "ranges": "a 0:1",
            "partition": "natural",
        }
        tables["network"] |= {"speed": 1e-4, "records": 40}
        tables["privacy"] |= {"unit": "client", "noise_at": "site", "clip": 1.0}
        simulate(from_dict(tables), tmp_path / f"run{many}", engine="serial", quiet=True)
        keys = ("simulated_seconds", "late", "staleness", "asked")
        found.append(
            [{key: row.get(key) for key in keys} for row in rows_of(tmp_path / f"run{many}")]
        )
    assert found[0] == found[1]
    assert all(row["simulated_seconds"] > 0 for row in found[0])


def test_an_old_update_counts_less() -> None:
    assert [float(Aged(1, b"", age).factor) for age in (0, 3, 8)] == pytest.approx(
        [1, 1 / 2, 1 / 3]
    )


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_private_sites_take_each_step_once_and_stay_within_their_plan(tmp_path: Path) -> None:
    tables = scenario({"rounds": 4}, buffer=3, spread=1.0).to_dict()
    tables["training"]["steps"] = 1
    tables["privacy"] |= {"unit": "record", "epsilon": 2.0, "clip": 0.5}
    simulate(from_dict(tables), tmp_path / "run", engine="serial", quiet=True)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    sites = summary["privacy"]["sites"]
    assert sum(site["releases"] for site in sites.values()) >= 12
    assert all(0 <= site["prefix"]["steps"] <= 4 for site in sites.values())
    assert not summary["updates"]["dropped"]


def test_a_model_with_running_statistics_has_no_updates_of_any_age() -> None:
    plan = plans.simulated(scenario(buffer=3))[0]
    buffered.check(plan)
    extras: Any = [type("Stretch", (), {"name": "running statistics"})]
    spoilt: Any = type("P", (), {"scenario": plan.scenario, "extras": extras, "turns": ()})
    with pytest.raises(ValueError, match=r"network\.buffer: must be 0 for a model with running"):
        buffered.check(spoilt)


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_nobody_checked_before_is_held_to_it_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's own command starts the app, and no `simulate` in front of it."""
    checked, real = [], buffered.check
    monkeypatch.setattr(run.buffered, "check", lambda plan: checked.append(real(plan)))
    simulate(scenario({"rounds": 1}, buffer=3), tmp_path / "run", engine="serial", quiet=True)
    assert len(checked) == 2, "once before the run, and once where its rounds begin"


@pytest.mark.parametrize("key", ["over_selection", "buffer"])
def test_a_deployment_refuses_what_goes_by_virtual_time(key: str) -> None:
    with pytest.raises(ValueError, match=rf"network\.{key}: must be 0 in a deployment"):
        check(scenario(**{key: 2}), deployed=True)
