"""A run whose process was killed goes on as if it had not been.

Covers server/closing.py.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedlite.privacy.budget import Budget
from fedlite.privacy.ledger import read
from fedlite.scenario import with_values
from simulations import run
from simulations.run import simulate
from tests.simulations.running import Killed, Outcome, Plan, Trap

ROOT = Path(__file__).parents[2]


# A process that is killed ------------------------------------------------------------------------


def points() -> Iterator[tuple[str, str, int, str]]:
    # Every durable change is one rename: scenario, record, 3 x 3 site states, 3 checkpoints.
    for call, when in ((2, "after"), (4, "before"), (5, "after"), (9, "before"), (13, "after")):
        yield "os", "replace", call, when
    # Between the last site's save and the server's checkpoint; between record and checkpoint.
    yield "server.checkpoint", "save", 2, "before"
    yield "server.rounds", "append_round", 3, "after"
    # When all rounds are done, but the summary is not written.
    yield "server.closing", "write_summary", 1, "before"


@pytest.fixture(scope="module")
def truths() -> dict[bool, tuple[bytes, list[dict[str, Any]]]]:
    return {}


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("private", "module", "name", "call", "when"),
    [
        *[(False, *point) for point in points()],
        (True, "server.checkpoint", "save", 2, "before"),
        (True, "server.rounds", "append_round", 2, "after"),
    ],
)
def test_a_killed_run_that_goes_on_equals_one_that_was_not_killed(
    killed: Killed,
    trap: Trap,
    plan: Plan,
    tmp_path: Path,
    outcome: Outcome,
    truths: dict[bool, Any],
    private: bool,
    module: str,
    name: str,
    call: int,
    when: str,
) -> None:
    if private not in truths:
        simulate(plan(private), tmp_path / "whole", engine="serial", quiet=True)
        truths[private] = outcome(tmp_path / "whole")
    directory = tmp_path / "run"
    arm = trap(sys.modules[module], name, call, when)
    assert killed(lambda: simulate(plan(private), directory, engine="serial", quiet=True), arm)
    assert not (directory / "summary.json").exists()
    simulate(run.resume_scenario(directory), directory, engine="serial", quiet=True)
    assert outcome(directory) == truths[private]


@pytest.mark.usefixtures("undrawn")
def test_a_kill_after_the_reservation_costs_that_round_and_never_more_than_the_plan(
    killed: Killed, trap: Trap, plan: Plan, tmp_path: Path, outcome: Outcome
) -> None:
    directory = tmp_path / "run"
    real = with_values(plan(True), "privacy", simulate_seed=-1)
    # The second site's reservation in the first round.
    arm = trap(Budget, "reserve", 2, "after")
    assert killed(lambda: simulate(real, directory, engine="serial", quiet=True), arm)
    simulate(run.resume_scenario(directory), directory, engine="serial", quiet=True)
    rows = outcome(directory)[1]
    assert [row["dropped"] for row in rows] == [{}, {}, {"site-02": "budget"}]
    for number in (1, 2, 3):
        kinds = [row.kind for row in read(directory / "ledgers" / f"site-0{number}.jsonl")]
        assert kinds.count("reserve") == 3
        assert kinds.count("release") == (2 if number == 2 else 3)


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_sigkill_at_a_random_moment(plan: Plan, tmp_path: Path, outcome: Outcome) -> None:
    many = plan(federation={"rounds": 30, "evaluate_every": 10})
    file = tmp_path / "small.toml"
    file.write_text(many.to_toml())
    directory = tmp_path / "run"
    command = [sys.executable, "-c", "from fedlite.cli import main; main()", "simulate", str(file)]
    command += ["--engine", "serial", "--json", "--out", str(directory)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    record = directory / "rounds.jsonl"
    until = time.monotonic() + 60
    while not (record.exists() and record.stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(random.uniform(0.0, 0.15))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(record.read_text().splitlines())
    assert 1 <= done < 30
    simulate(run.resume_scenario(directory), directory, engine="serial", quiet=True)
    simulate(many, tmp_path / "whole", engine="serial", quiet=True)
    assert outcome(directory) == outcome(tmp_path / "whole")
