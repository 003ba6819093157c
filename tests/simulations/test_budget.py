"""Sites with budgets of their own, through whole runs: two servers, a restart, and the audit."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.privacy.accounting import pld
from fedlite.privacy.budget import Budget
from fedlite.privacy.ledger import read
from fedlite.privacy.ledger.rows import Row
from fedlite.reporting.record import encode_summary
from fedlite.scenario import Scenario, ScenarioError, load
from server import checkpoint, closing
from server.witness import Witness
from simulations import run
from simulations.run import simulate

Plan = Callable[..., Scenario]
Arm = Callable[[pytest.MonkeyPatch], None]
Killed = Callable[[Callable[[], None], Arm], bool]
Trap = Callable[[Any, str, int, str], Arm]
SITES = ("site-01", "site-02", "site-03")
"""The scenario's three sites."""


def private(plan: Plan, epsilon: float, rounds: int, **simulation: Any) -> Scenario:
    """Return a run with real noise that asks for `epsilon` over `rounds` steps."""
    return plan(
        federation={"rounds": rounds, "evaluate_every": 0},
        training={"steps": 1, "learning_rate": 0.5},
        privacy={"unit": "record", "epsilon": epsilon, "delta": 1e-5, "clip": 0.5},
        simulation=simulation,
    )


def steps(rows: list[Row], number: int) -> int:
    """Return how many steps were reserved in plan `number`."""
    reserved = [row.body for row in rows if row.kind == "reserve"]
    return sum(body["steps"] for body in reserved if body["plan"] == number)


def plans(rows: list[Row]) -> list[dict[str, Any]]:
    return [dict(row.body["plan"]) for row in rows if row.kind in ("genesis", "plan")]


def audited(*paths: Path) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, ["audit", "ledgers", *map(str, paths), "--json"])
    return result.exit_code, json.loads(result.output)


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_sites_stop_at_their_own_ceiling_across_two_servers_and_a_restart(
    plan: Plan, tmp_path: Path, killed: Killed, trap: Trap
) -> None:
    homes = tmp_path / "homes"
    settings = {"sites": str(homes), "ceiling": 1.0}
    first = private(plan, 0.5, 4, witness=str(tmp_path / "first.jsonl"), **settings)
    simulate(first, tmp_path / "first", engine="serial", quiet=True)

    # The second server asks for three times the ceiling; its run is killed and goes on.
    second = private(plan, 3.0, 30, witness=str(tmp_path / "second.jsonl"), **settings)
    directory = tmp_path / "second"
    arm = trap(sys.modules["server.checkpoint"], "save", 2, "after")
    assert killed(lambda: simulate(second, directory, engine="serial", quiet=True), arm)
    simulate(run.resume_scenario(directory), directory, engine="serial", quiet=True)

    summary = json.loads((directory / "summary.json").read_text())
    assert 2 < summary["rounds"] < 30 == summary["planned_rounds"]
    for site in SITES:
        rows = read(homes / site / "ledgers" / "digits.jsonl")
        (a, b) = plans(rows)
        assert (a["bound"], b["bound"]) == ("pld", "rdp")
        assert a["steps"] == a["asked"] == 4 and b["steps"] < b["asked"] == 30
        assert 0.5 < b["charged"] <= 1.0
        assert steps(rows, 0) == 4 and steps(rows, 1) == b["steps"]
        # An independent upper bound: Gaussians compose, whoever chose them.
        together = 4 / a["noise_multiplier"] ** 2 + b["steps"] / b["noise_multiplier"] ** 2
        assert pld(together**-0.5, 1.0, 1, 1e-5) <= 1.0
        # Whatever left is on record, and the site declined politely once its plan was spent.
        releases = [row for row in rows if row.kind == "release"]
        assert len(releases) <= steps(rows, 0) + steps(rows, 1)
        assert [row.body["why"] for row in rows if row.kind == "refuse"] == ["plan-spent"]
        assert summary["privacy"]["sites"][site]["out_of_budget"]
        # The server does not know the site's own plan: it tells the bound of the whole one.
        said = summary["privacy"]["sites"][site]
        assert 2.99 < said["epsilon"]["pld"] <= 3.0
        assert said["prefix"]["steps"] == b["steps"] and said["prefix"]["epsilon"] <= 1.0

    code, found = audited(tmp_path / "first", directory, homes)
    assert code == 0, json.dumps(found, indent=1)
    assert "its own ceiling 1" in json.dumps(found)


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_one_plan_above_the_ceiling_is_cut_to_the_most_that_fits(
    plan: Plan, tmp_path: Path
) -> None:
    asked = private(plan, 3.0, 30, ceiling=1.0)
    simulate(asked, tmp_path / "run", engine="pool", quiet=True)
    for site in SITES:
        (only,) = plans(read(tmp_path / "run" / "ledgers" / f"{site}.jsonl"))
        sigma = only["noise_multiplier"]
        assert only["bound"] == "pld"
        assert pld(sigma, 1.0, only["steps"], 1e-5) <= 1.0
        assert pld(sigma, 1.0, only["steps"] + 1, 1e-5) > 1.0
    code, found = audited(tmp_path / "run")
    assert code == 0, json.dumps(found, indent=1)


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_a_site_whose_machine_was_restored_from_a_copy_takes_no_step(
    plan: Plan, tmp_path: Path
) -> None:
    homes, copy = tmp_path / "homes", tmp_path / "copy"
    settings = {"sites": str(homes), "ceiling": 8.0, "witness": str(tmp_path / "seen.jsonl")}
    simulate(private(plan, 1.0, 2, **settings), tmp_path / "first", engine="serial", quiet=True)
    shutil.copytree(homes / "site-02", copy)
    simulate(private(plan, 1.0, 3, **settings), tmp_path / "second", engine="serial", quiet=True)
    shutil.rmtree(homes / "site-02")
    shutil.copytree(copy, homes / "site-02")
    before = (copy / "ledgers" / "digits.jsonl").read_bytes()
    from fedlite.privacy.ledger import forget

    forget(homes / "site-02" / "ledgers" / "digits.jsonl")
    third = private(plan, 1.0, 4, **settings)
    third_run = tmp_path / "third"
    simulate(third, third_run, engine="serial", quiet=True)
    reserved = [
        row
        for row in read(homes / "site-02" / "ledgers" / "digits.jsonl")
        if row.kind in ("plan", "reserve")
    ]
    assert len(reserved) == before.count(b'"kind":"reserve"')
    summary = json.loads((third_run / "summary.json").read_text())
    assert len(summary["privacy"]["sites"]) == 2 and summary["refused"] == ["ledger"]
    code, found = audited(third_run, homes)
    assert code == 1 and "regress" in json.dumps(found)


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("noise_at", ["site", "server"])
def test_a_private_run_of_either_client_unit_audits_clean(
    plan: Plan, tmp_path: Path, noise_at: str
) -> None:
    asked = plan(
        federation={"rounds": 3, "evaluate_every": 0},
        training={"steps": 4, "learning_rate": 0.5},
        uplink={"density": 0.05, "error_feedback": noise_at == "site"},
        privacy={"unit": "client", "noise_at": noise_at, "epsilon": 8.0, "clip": 0.5},
    )
    simulate(asked, tmp_path / "run", engine="serial", quiet=True)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["privacy"]["unit"] == "client" and summary["privacy"]["claimed"]
    for site in SITES:
        assert 7.9 < summary["privacy"]["sites"][site]["epsilon"]["pld"] <= 8.0
    code, found = audited(tmp_path / "run")
    assert code == 0, json.dumps(found, indent=1)


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_one_flipped_byte_in_a_ledger_of_a_run_is_found(plan: Plan, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    simulate(private(plan, 1.0, 2), directory, engine="serial", quiet=True)
    assert audited(directory)[0] == 0
    path = directory / "ledgers" / "site-02.jsonl"
    data = path.read_bytes()
    for place in (3, len(data) // 3, len(data) - 100, len(data) - 2):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert audited(directory)[0] == 1
    path.write_bytes(data)
    assert audited(directory)[0] == 0


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_a_site_with_a_new_key_is_followed_by_old_and_new_servers(
    plan: Plan, tmp_path: Path
) -> None:
    homes = tmp_path / "homes"
    old = {"sites": str(homes), "ceiling": 8.0, "witness": str(tmp_path / "seen.jsonl")}
    simulate(private(plan, 1.0, 2, **old), tmp_path / "first", engine="serial", quiet=True)
    for site in SITES:
        result = CliRunner().invoke(app, ["site", "rotate", str(homes / site)])
        assert result.exit_code == 0, result.output
    for name, settings in (("old", old), ("new", old | {"witness": str(tmp_path / "b.jsonl")})):
        run_here = tmp_path / name
        simulate(private(plan, 1.0, 3, **settings), run_here, engine="serial", quiet=True)
        summary = json.loads((run_here / "summary.json").read_text())
        assert summary["updates"] == {"accepted": 9, "dropped": 0, "missing": 0, "cut": 0}
    code, found = audited(*(tmp_path / name for name in ("first", "old", "new")), homes)
    assert code == 0, json.dumps(found["findings"], indent=1)


@pytest.mark.usefixtures("undrawn")
def test_two_ledgers_of_one_site_and_data_set_are_pointed_out(plan: Plan, tmp_path: Path) -> None:
    for name in "ab":
        simulate(private(plan, 1.0, 2), tmp_path / name, engine="serial", quiet=True)
    code, found = audited(tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert sum("adds up" in note["text"] for note in found["notes"]) == len(SITES)


@pytest.mark.usefixtures("undrawn")
def test_folders_are_kept_as_absolute_paths_wherever_a_run_goes_on(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = private(plan, 1.0, 1, sites="homes", witness="seen.jsonl")
    simulate(asked, tmp_path / "run", engine="serial", quiet=True)
    kept = load(tmp_path / "run" / "scenario.toml").simulation
    assert (kept.sites, kept.witness) == (str(tmp_path / "homes"), str(tmp_path / "seen.jsonl"))
    assert (tmp_path / "homes" / "site-01" / "site.toml").exists()
    with pytest.raises(ScenarioError, match=r"simulation\.sites: must be set"):
        private(plan, 1.0, 1, witness="seen.jsonl")


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_a_run_that_no_site_can_afford_fails_and_says_why(plan: Plan, tmp_path: Path) -> None:
    asked = private(plan, 8.0, 1, ceiling=0.1)
    with pytest.raises(RuntimeError, match=r"no site's own budget.*site-01 budget"):
        simulate(asked, tmp_path / "run", engine="serial", quiet=True)
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda s: s.update(run="ff" * 8), "summary-mismatch"),
        (lambda s: s["privacy"].update(unit="none"), "summary-mismatch"),
        (lambda s: s["privacy"].update(claimed=False), "summary-mismatch"),
        (lambda s: s["privacy"].update(claimed="yes"), "summary-damaged"),
        (lambda s: s["privacy"].pop("noise_multiplier"), "summary-damaged"),
        (lambda s: s["privacy"].update(noise_multiplier=10**400), "summary"),
    ],
)
def test_an_edited_summary_is_found(
    plan: Plan, tmp_path: Path, change: Callable[[dict[str, Any]], object], rule: str
) -> None:
    directory = tmp_path / "run"
    simulate(private(plan, 1.0, 2), directory, engine="serial", quiet=True)
    summary = json.loads((directory / "summary.json").read_text())
    change(summary)
    (directory / "summary.json").write_text(json.dumps(summary))
    code, found = audited(directory)
    assert code == 1 and rule in json.dumps(found["findings"])


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("target", "name", "call", "when"),
    [
        # A site in the second round, between its reservation, its release, and the checkpoint.
        (Budget, "reserve", 5, "after"),
        (Budget, "release", 5, "before"),
        (Budget, "release", 5, "after"),
        # The server, between what it has seen and its checkpoint.
        (Witness, "flush", 2, "before"),
        (Witness, "flush", 2, "after"),
        (checkpoint, "save", 2, "before"),
        # And at the end: before the run is closed, and between its closing and its summary.
        (Witness, "close", 1, "before"),
        (closing, "write_summary", 1, "before"),
    ],
)
def test_an_honest_run_that_was_killed_and_goes_on_audits_clean(
    plan: Plan,
    tmp_path: Path,
    killed: Killed,
    trap: Trap,
    target: Any,
    name: str,
    call: int,
    when: str,
) -> None:
    asked, directory = private(plan, 1.0, 3), tmp_path / "run"
    arm = trap(target, name, call, when)
    assert killed(lambda: simulate(asked, directory, engine="serial", quiet=True), arm)
    assert not (directory / "summary.json").exists()
    simulate(run.resume_scenario(directory), directory, engine="serial", quiet=True)
    code, found = audited(directory)
    assert code == 0, json.dumps(found["findings"] + found["unchecked"], indent=1)
    summary = json.loads((directory / "summary.json").read_text())
    for site in SITES:
        rows = read(directory / "ledgers" / f"{site}.jsonl")
        # Whatever was lost, the bound is that of all that may have been spent.
        (only,) = plans(rows)
        spent = pld(only["noise_multiplier"], 1.0, steps(rows, 0), 1e-5)
        assert spent <= summary["privacy"]["sites"][site]["epsilon"]["pld"] <= 1.0


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_was_closed_is_not_closed_twice(plan: Plan, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    simulate(private(plan, 1.0, 1), directory, engine="serial", quiet=True)
    before = (directory / "witness.jsonl").read_bytes()
    summary = json.loads((directory / "summary.json").read_text())
    witness = closing.witness_of(load(directory / "scenario.toml"), directory)
    closing.finish(directory, summary, witness)
    assert (directory / "witness.jsonl").read_bytes() == before
    # A summary that was added to is closed anew, and may be either of the two if that is killed.
    more = summary | {"home_head": {}}
    closing.finish(directory, more, witness)
    assert audited(directory)[0] == 0
    (directory / "summary.json").write_bytes(encode_summary(summary))
    assert audited(directory)[0] == 0
    (directory / "summary.json").write_bytes(encode_summary(summary | {"home_head": 1}))
    assert audited(directory)[0] == 1
