from __future__ import annotations

import copy
import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedlite import flower
from fedlite.scenario import Scenario, from_dict
from server import checkpoint
from simulations.grid import SimulationGrid

PRIVATE = {"unit": "record", "epsilon": 1.0, "delta": 1e-5, "clip": 0.5}


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[checkpoint.Checkpoint]:
    """Return what is kept after each round of the runs of a test."""
    found: list[checkpoint.Checkpoint] = []
    save = checkpoint.save

    def noted(directory: Path, point: checkpoint.Checkpoint) -> None:
        found.append(copy.deepcopy(point))
        save(directory, point)

    monkeypatch.setattr(checkpoint, "save", noted)
    return found


@pytest.fixture
def plan() -> Callable[..., Scenario]:
    """Return a maker of small digits scenarios: `plan(private=True, federation={...})`."""

    def make(private: bool = False, seed: int = 0, **tables: Any) -> Scenario:
        federation = {"name": "small", "rounds": 3, "sites": 3, "server_momentum": 0.5}
        privacy = PRIVATE | {"simulate_seed": seed} if private else {}
        return from_dict(
            {
                "model": {"name": "mlp"},
                "training": {"steps": 1 if private else 4, "learning_rate": 0.5},
                "uplink": {"density": 0.05},
                "downlink": {"density": 0.05},
                "privacy": privacy,
            }
            | tables
            | {"federation": federation | tables.get("federation", {})}
        )

    return make


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[Any, Any]]:
    """Record what crosses the grid: payload hashes by (round, node), bytes by round."""
    seen: dict[str, dict[Any, Any]] = {"hashes": {}, "up": {}, "down": {}}
    push, pull = SimulationGrid.push_messages, SimulationGrid.pull_messages

    def watch_push(self: SimulationGrid, messages: Any) -> list[str]:
        kept = list(messages)
        for message in kept:
            if message.metadata.message_type == "train":
                number = int(message.metadata.group_id)
                seen["down"][number] = seen["down"].get(number, 0) + len(flower.unwrap(message))
        return push(self, kept)

    def watch_pull(self: SimulationGrid, ids: Any) -> Any:
        replies = pull(self, ids)
        for reply in replies:
            if reply.metadata.message_type == "train" and not reply.has_error():
                blob, number = flower.unwrap(reply), int(reply.metadata.group_id)
                key = (number, reply.metadata.src_node_id)
                seen["hashes"][key] = hashlib.sha256(blob).hexdigest()
                seen["up"][number] = seen["up"].get(number, 0) + len(blob)
        return replies

    monkeypatch.setattr(SimulationGrid, "push_messages", watch_push)
    monkeypatch.setattr(SimulationGrid, "pull_messages", watch_pull)
    return seen


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out: they take longer than the runs."""
    monkeypatch.setattr("server.app.report", lambda directory: {})


@pytest.fixture
def outcome() -> Callable[[Path], tuple[bytes, list[dict[str, Any]]]]:
    """Return what must be equal between two runs: the model's bytes and the record."""
    import json

    def read(directory: Path) -> tuple[bytes, list[dict[str, Any]]]:
        rows = [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]
        for row in rows:
            del row["seconds"], row["cpu_seconds"]
        return (directory / "model.safetensors").read_bytes(), rows

    return read


def _killed(work: Callable[[], None], arm: Callable[[pytest.MonkeyPatch], None]) -> bool:
    """Run `work` in a child in which `arm` has set a trap; say whether the trap killed it."""
    torch.set_num_threads(1)
    child = os.fork()
    if child == 0:
        try:
            arm(pytest.MonkeyPatch())
            work()
        finally:
            os._exit(0)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child did not end")


def _trap(target: Any, name: str, call: int, when: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Return what makes the process kill itself before or after a call of a function."""

    def arm(patch: pytest.MonkeyPatch) -> None:
        real, count = getattr(target, name), iter(range(1, 10_000))

        def fatal(*arguments: Any, **named: Any) -> Any:
            hit = next(count) == call
            if hit and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **named)
            if hit and when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        patch.setattr(target, name, fatal)

    return arm


@pytest.fixture
def killed() -> Callable[[Callable[[], None], Callable[[pytest.MonkeyPatch], None]], bool]:
    """Return a runner of work in a child that a trap kills."""
    return _killed


@pytest.fixture
def trap() -> Callable[[Any, str, int, str], Callable[[pytest.MonkeyPatch], None]]:
    """Return a maker of traps: `trap(module, name, call, "before" | "after")`."""
    return _trap
