"""Workers go on from run to run of a sweep, begin each as new ones would, and end with it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from simulations import engines, kept
from simulations.kept import Begin
from simulations.sweep import LOG, begin, grid, play
from tests.simulations.running import Outcome, Plan

ROOT = Path(__file__).parents[2]


def worker() -> tuple[Any, Any, list[str]]:
    """Return a worker that does nothing, the other end of its connection, and what befell it."""
    here, there = Pipe()
    told: list[str] = []
    process = SimpleNamespace(
        terminate=lambda: told.append("terminated"), join=lambda: told.append("joined")
    )
    return (process, here), there, told


def test_a_worker_waits_for_the_next_run_and_is_told_of_it() -> None:
    one, there, told = worker()
    with kept.keeping():
        assert kept.keep(one) and there.recv() is None
        assert kept.connections() == [one[1]]
        assert kept.take(3, (7, "next")) == [one] and not kept.connections()
        assert there.recv() == Begin((7, "next"), ())
        assert kept.keep(one) and not told
    assert told == ["terminated", "joined"]


def test_nobody_waits_where_no_run_may_follow() -> None:
    one, _, told = worker()
    assert not kept.keep(one) and kept.take(1, ()) == [] and not told
    with kept.keeping(), kept.keeping():
        assert kept.keep(one)
    # The inner one ends nothing that the outer one still wants.
    assert told == ["terminated", "joined"] and not kept.keep(one)


def test_a_worker_that_ended_while_it_waited_is_passed_over() -> None:
    (one, there, told), (other, far, _) = worker(), worker()
    with kept.keeping():
        kept.keep(one), kept.keep(other)
        there.close()
        assert kept.take(2, ()) == [other]
        assert told == ["joined"]
        far.close()
        assert not kept.keep(other)


def test_what_is_said_goes_to_the_run_that_it_is_of(tmp_path: Path) -> None:
    logger = logging.getLogger("fedlite")
    before = logger.propagate
    try:
        kept.log_into((str(tmp_path / "one"),))
        logger.warning("first")
        assert kept._logs() == (str(tmp_path / "one"),)
        kept.log_into((str(tmp_path / "two"),))
        logger.warning("second")
    finally:
        kept.log_into(())
        logger.propagate = before
    assert (tmp_path / "one").read_text() == "first\n"
    assert (tmp_path / "two").read_text() == "second\n"


def test_a_worker_with_a_reply_that_nobody_has_read_is_not_kept() -> None:
    """The first thing that the next run read of it would be of the run before."""
    one, there, _ = worker()
    there.send((0.0, [b"of the run before"], 0.1, 1, {}))
    with kept.keeping():
        assert not kept.keep(one) and not kept.connections()


SWEEP = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from simulations.sweep import begin, grid, play

# Who plays the tests in the background may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def tell(trial, outcome):
    # Between two runs: workers wait.
    print(*(one.pid for one in multiprocessing.active_children()), flush=True)
    time.sleep(60)

os.cpu_count = lambda: 2
tables = {"federation": {"sites": 2, "rounds": 1}, "data": {"name": "digits"}}
sweep, out = grid(tables, {"training.learning_rate": ["0.1", "0.2"]}, [1]), Path(sys.argv[1])
begin(sweep, out)
play(sweep, out, sweep.trials, engine="pool", tell=tell)
"""


def lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_a_sweep_that_is_ended_leaves_no_worker_behind(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", SWEEP, str(tmp_path / "sweep")]
    quiet, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=quiet, text=True) as process:
        assert process.stdout is not None
        pids = process.stdout.readline().split()
        process.send_signal(getattr(signal, name))
        process.wait(60)
    assert len(pids) == 2
    until = time.monotonic() + 30
    while any(lives(int(pid)) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    left = [pid for pid in pids if lives(int(pid))]
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    assert not left


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_the_runs_of_a_sweep_have_the_same_workers_and_the_results_of_others(
    plan: Plan, tmp_path: Path, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[list[int]] = []
    init = engines.Pool.__init__

    def noting(self: engines.Pool, *given: Any, **named: Any) -> None:
        init(self, *given, **named)
        pids.append(sorted(process.pid for process, _ in self._workers))

    monkeypatch.setattr(engines.Pool, "__init__", noting)
    tables = plan(federation={"sites": 4, "rounds": 3}).to_dict()
    sweep = grid(tables, {"training.learning_rate": ["0.1", "0.2"]}, [1])
    for engine in ("pool", "serial"):
        begin(sweep, tmp_path / engine)
        found = play(sweep, tmp_path / engine, sweep.trials, engine=engine)
        assert not any(one.error for one in found.values()), found
    assert len(pids) == 2 and pids[0] == pids[1]
    for trial in sweep.trials:
        runs = [outcome(tmp_path / engine / trial.name) for engine in ("pool", "serial")]
        assert runs[0] == runs[1]
        assert not (tmp_path / "pool" / trial.name / LOG).exists()
