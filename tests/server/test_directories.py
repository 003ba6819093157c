"""The run directory, taken by processes that start at once."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fedlite.scenario import ScenarioError
from server.directories import LOCK, free_directory, hold

ROOT = Path(__file__).parents[2]
SMALL = """
[federation]
rounds = {rounds}
sites = 2
evaluate_every = 0
[model]
name = "linear"
[data]
name = "csv"
path = "{table}"
target = "y"
"""


def _take(parent: Path, barrier: Any, taken: Any) -> None:
    barrier.wait()
    for _ in range(20):
        taken.put(str(free_directory(parent, "sweep")))


def test_processes_that_ask_at_once_get_different_directories(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, taken = context.Barrier(4), context.Queue()
    crowd = [context.Process(target=_take, args=(tmp_path, barrier, taken)) for _ in range(4)]
    for process in crowd:
        process.start()
    found = [taken.get(timeout=30) for _ in range(80)]
    for process in crowd:
        process.join(30)
    assert len(set(found)) == 80
    expected = {"sweep", *(f"sweep-{n}" for n in range(2, 81))}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_a_lock_left_by_a_process_that_is_gone_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).touch()
    with hold(tmp_path / "run", fresh=True):
        (tmp_path / "run" / "scenario.toml").touch()
        with pytest.raises(ScenarioError, match="another process runs"):
            hold(tmp_path / "run", fresh=False).__enter__()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["scenario.toml"]
    with hold(tmp_path / "run", fresh=False):
        pass


def test_a_directory_is_removed_where_nothing_was_written_and_kept_elsewhere(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="wrong"), hold(tmp_path / "a" / "run", fresh=True):
        raise ValueError("wrong")
    assert not (tmp_path / "a" / "run").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").touch()
    (tmp_path / "file").touch()
    for name in ("mine", "file"):
        with pytest.raises(ScenarioError, match=f"--out .*{name}: already exists.*directory$"):
            hold(tmp_path / name, fresh=True).__enter__()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter"]


def test_a_lock_that_is_taken_while_its_file_is_replaced_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = fcntl.flock, []

    def replaced(file: Any, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            (tmp_path / "run" / LOCK).unlink()
            (tmp_path / "run" / LOCK).touch()
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", replaced)
    with hold(tmp_path / "run", fresh=True):
        assert len(calls) == 2
        with (
            (tmp_path / "run" / LOCK).open("ab") as other,
            pytest.raises(BlockingIOError),
        ):
            real(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


# Whole runs --------------------------------------------------------------------------------------


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from fedlite.cli import main; main()", "simulate"]
    return subprocess.Popen(
        [*command, *arguments, "--engine", "serial"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _scenario(folder: Path, rounds: int) -> str:
    table = folder / "own.csv"
    table.write_text("a,b,y\n" + "".join(f"{n % 7},{n % 5},{n % 2}\n" for n in range(60)))
    file = folder / f"small-{rounds}.toml"
    file.write_text(SMALL.format(rounds=rounds, table=table))
    return str(file)


@pytest.mark.long
def test_two_runs_started_at_once_take_two_directories(tmp_path: Path) -> None:
    """They shared one: a seed sweep lost two of three, and rounds.jsonl held each round twice."""
    file = _scenario(tmp_path, 2)
    crowd = [_start(tmp_path, file, "--set", "federation.name=sweep") for _ in range(2)]
    for process in crowd:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    for name in ("sweep", "sweep-2"):
        rows = (tmp_path / "runs" / name / "rounds.jsonl").read_text().splitlines()
        assert [json.loads(row)["round"] for row in rows] == [1, 2]
        assert not (tmp_path / "runs" / name / LOCK).exists()


@pytest.mark.long
def test_a_directory_in_use_is_neither_resumed_nor_taken_until_its_process_is_gone(
    tmp_path: Path,
) -> None:
    file, directory = _scenario(tmp_path, 20_000), tmp_path / "run"
    running = _start(tmp_path, file, "--out", str(directory))
    try:
        record = directory / "rounds.jsonl"
        until = time.monotonic() + 60
        while not (record.exists() and record.stat().st_size) and time.monotonic() < until:
            time.sleep(0.02)
        # It is there, and takes no time from the others.
        running.send_signal(signal.SIGSTOP)
        other = _scenario(tmp_path, 2)
        for call in (["--resume", str(directory)], [other, "--out", str(directory)]):
            refused = _start(tmp_path, *call)
            _, said = refused.communicate(timeout=60)
            assert refused.returncode == 2 and "Traceback" not in said
            assert f"{directory}: another process runs a federation there" in said
            assert "wait until it ends" in said
        assert running.poll() is None
    finally:
        running.kill()
        running.communicate(timeout=60)
    rounds = [json.loads(row)["round"] for row in record.read_text().splitlines()[:-1]]
    assert rounds == list(range(1, len(rounds) + 1))
    with hold(directory, fresh=False):
        pass
