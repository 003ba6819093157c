"""Workers that begin as copies of the process that simulates. Covers simulations/forking.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from simulations import forking
from tests.simulations.running import Plan

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux")

# A process with one thread, as that of the command is.
_ALONE = """
import json, os, sys, time
os.environ["OPENBLAS_NUM_THREADS"] = "1"
from pathlib import Path
import clients.app
from fedlite.scenario import load
from fedlite.training.share import settle_process
from simulations import engines, forking, run
settle_process()
folder, held = Path(sys.argv[1]), bytearray(200_000_000)
held[::4096] = b"x" * len(held[::4096])
"""
_RUNS = """
kinds = []
start = engines.Pool._start
def noted(pool):
    kinds.append(pool._context.get_start_method())
    return start(pool)
engines.Pool._start = noted
scenario = load(folder / "plan.toml")
for engine in ("serial", "pool"):
    run.simulate(scenario, folder / engine, engine=engine, quiet=True)
print(json.dumps(kinds))
"""
_POOL = """
from fedlite import flower
from simulations.grid import SimulationGrid
config = load(folder / "plan.toml").to_run_config()
pool = engines.Pool(2, (77, 3, config, folder))
def hellos():
    grid = SimulationGrid(77, 3, pool)
    asked = [flower.ask(b"?", node, "query", "hello") for node in grid.get_node_ids()]
    return [str(flower.code_of(reply)) for reply in grid.send_and_receive(asked, timeout=300)]
first, pids = hellos(), [process.pid for process, _ in pool._workers]
def held_by(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
own = [held_by(pid) for pid in pids]
pool._workers[0][0].kill()
pool._workers[0][0].join()
print(json.dumps([first, hellos(), own, [process.pid for process, _ in pool._workers]]), flush=True)
time.sleep(600)
"""


def begin(body: str, folder: Path, scenario: Any) -> subprocess.Popen[str]:
    (folder / "plan.toml").write_text(scenario.to_toml())
    command = [sys.executable, "-c", _ALONE + body, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_process_with_another_thread_is_not_copied() -> None:
    gate = threading.Event()
    other = threading.Thread(target=gate.wait)
    other.start()
    try:
        assert not forking.possible()
    finally:
        gate.set()
        other.join()


@pytest.mark.parametrize("wrong", ["platform", "gpu", "proc"])
def test_nor_is_one_where_it_would_not_be_safe(
    wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "1").mkdir()
    monkeypatch.setattr(forking, "_THREADS", tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert forking.possible()
    if wrong == "platform":
        monkeypatch.setattr(sys, "platform", "darwin")
    elif wrong == "gpu":
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    else:
        monkeypatch.setattr(forking, "_THREADS", tmp_path / "none")
    assert not forking.possible()


@pytest.mark.long
def test_copies_train_to_the_same_bits(plan: Plan, tmp_path: Path) -> None:
    process = begin(_RUNS, tmp_path, plan())
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert set(json.loads(out)) == {"fork"}
    models = [(tmp_path / e / "model.safetensors").read_bytes() for e in ("serial", "pool")]
    assert models[0] == models[1]


@pytest.mark.long
def test_no_copy_outlives_who_made_it_and_one_that_was_killed_is_replaced(
    plan: Plan, tmp_path: Path
) -> None:
    process = begin(_POOL, tmp_path, plan())
    assert process.stdout is not None
    first, second, own, pids = json.loads(process.stdout.readline())
    assert first == second == ["None"] * 3
    # Of the 200 MB that are there before, and of what is imported, a copy has next to nothing.
    assert max(own) < 100_000
    # No signal reaches the workers: each has to see that its own connection has ended.
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 30
    while time.monotonic() < until and any(map(_alive, pids)):
        time.sleep(0.05)
    left = [pid for pid in pids if _alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
