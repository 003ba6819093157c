"""Seconds per round of a deployment with three sites: plain Flower beside fedlite, one machine.

Run `python -m simulations.benchmarks.deployment [--quick] [--json FILE]`. Both train next to
nothing, so that the seconds are those of the machinery. Flower: `flower-superlink`, a
`flower-supernode` a site, `flwr run`, stock FedAvg, without TLS or node keys; its client imports
torch and returns the arrays. fedlite: a coordinator behind its gateway, TLS, node keys, bundles
approved at the sites, one clear step on digits. The first round of each is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from server.summary import machine
from simulations.benchmarks.lab import (
    PROGRAMS,
    Lab,
    cpu_seconds,
    end,
    free_port,
    lines,
    start,
    tail,
    wait_for,
)

SITES = 3
ROUNDS, QUICK_ROUNDS = {"flower": 8, "fedlite": 12}, {"flower": 4, "fedlite": 8}
SETTINGS = (
    *("--set", f"federation.sites={SITES}", "--set", f"federation.quorum={SITES}"),
    *("--set", "privacy.unit=none", "--set", "training.learning_rate=1.0"),
)
_LOOK_SECONDS = 0.02
_LONGEST = 900.0
_START_SECONDS = 120.0

_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "trivial"
version = "1.0.0"
dependencies = []
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "trivial.task:server"
clientapp = "trivial.task:client"
[tool.flwr.app.config]
rounds = 6
sites = 3
times = ""
"""
_TASK = """\
import time
import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message, context):
    torch.zeros(1)
    metrics = MetricRecord({"num-examples": 1})
    return Message(
        RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message
    )


class Timed(FedAvg):
    def configure_train(self, *args, **kwargs):
        mark(self.times)
        return super().configure_train(*args, **kwargs)


def mark(path):
    with open(path, "a") as file:
        file.write(f"{time.time()}\\n")


@server.main()
def main(grid, context):
    sites = int(context.run_config["sites"])
    strategy = Timed(
        fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites
    )
    strategy.times = context.run_config["times"]
    arrays = ArrayRecord([np.zeros(100, np.float32)])
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(context.run_config["rounds"]))
    mark(strategy.times)
"""


@dataclass(frozen=True)
class Mark:
    """The end of a round: when, and the processor seconds used by then."""

    seconds: float
    coordinator: float
    sites: float


def spacing(marks: Sequence[float]) -> list[float]:
    """Return what lies between successive marks.

    >>> spacing([1.0, 1.5, 3.5])
    [0.5, 2.0]
    """
    return [after - before for before, after in pairwise(marks)]


def row(system: str, sites: int, marks: Sequence[Mark]) -> dict[str, Any]:
    """Return a system's row; the first mark is the end of the round that is left out.

    Raises ValueError when there is no other.
    """
    if len(marks) < 2:
        raise ValueError(f"marks: {system} needs two rounds or more, got {len(marks)}")
    seconds, count = spacing([mark.seconds for mark in marks]), len(marks) - 1
    return {
        "system": system,
        "sites": sites,
        "rounds": count,
        "median": median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "coordinator_cpu": (marks[-1].coordinator - marks[0].coordinator) / count,
        "site_cpu": (marks[-1].sites - marks[0].sites) / count / sites,
    }


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with `ratio`: how many times shorter the median is than the first row's."""
    return [one | {"ratio": rows[0]["median"] / one["median"]} for one in rows]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    head = (
        "| system | sites | rounds | median s | min s | max s | times faster "
        "| CPU s a round, coordinator | CPU s a round, each site |\n|" + "---|" * 9
    )
    return "\n".join(
        [head]
        + [
            f"| {r['system']} | {r['sites']} | {r['rounds']} | {r['median']:.2f} | {r['min']:.2f} "
            f"| {r['max']:.2f} | {r['ratio']:.1f} | {r['coordinator_cpu']:.2f} "
            f"| {r['site_cpu']:.2f} |"
            for r in rows
        ]
    )


def watch(
    process: subprocess.Popen[bytes],
    ended: Callable[[], int],
    coordinator: Sequence[int],
    sites: Sequence[int],
    root: Path,
) -> list[Mark]:
    """Return a mark for every round that ends before the process does, which must succeed."""
    marks: list[Mark] = []
    until = time.monotonic() + _LONGEST
    while True:
        over = process.poll() is not None
        if ended() > len(marks):
            now = time.monotonic()
            marks.append(Mark(now, cpu_seconds(coordinator), cpu_seconds(sites)))
        elif over:
            break
        if time.monotonic() > until:
            process.kill()
        time.sleep(_LOOK_SECONDS)
    if process.returncode:
        raise RuntimeError(f"the run ended with {process.returncode}: {tail(root)}")
    return marks


def flower(rounds: int, root: Path) -> dict[str, Any]:
    """Return plain Flower's row; `rounds` includes the one that is left out."""
    (root / "app" / "trivial").mkdir(parents=True)
    (root / "app" / "pyproject.toml").write_text(_PROJECT)
    (root / "app" / "trivial" / "__init__.py").write_text("")
    (root / "app" / "trivial" / "task.py").write_text(_TASK)
    address, times = f"127.0.0.1:{free_port()}", root / "times"
    (root / "home").mkdir()
    (root / "home" / "config.toml").write_text(
        f'[superlink]\ndefault = "lab"\n[superlink.lab]\naddress = "{address}"\ninsecure = true\n'
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLWR_")} | {
        "FLWR_HOME": str(root / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    started: list[subprocess.Popen[bytes]] = []

    def begin(*words: object) -> subprocess.Popen[bytes]:
        started.append(start([PROGRAMS / str(words[0]), *words[1:]], environment, root))
        return started[-1]

    host, _, port = address.partition(":")
    try:
        superlink = begin("flower-superlink", "--insecure", "--host", host, "--port", port)
        wait_for("SuperLink", lambda: _listens(host, int(port)), _START_SECONDS)
        sites = [
            begin(
                *("flower-supernode", "--insecure", "--superlink", address),
                *("--host", host, "--port", free_port()),
            )
            for _ in range(SITES)
        ]
        settings = f'rounds={rounds} sites={SITES} times="{times}"'
        run = begin("flwr", "run", root / "app", "lab", "--run-config", settings, "--stream")
        # Every round marks its beginning, so the second mark is the end of the first round.
        marks = watch(run, lambda: lines(times), [superlink.pid], [s.pid for s in sites], root)
    finally:
        end(started)
    return row("plain Flower 1.41", SITES, marks[1:])


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def fedlite(rounds: int, root: Path) -> dict[str, Any]:
    """Return the row of fedlite's deployment; `rounds` includes the one that is left out."""
    with Lab(root) as lab:
        wanted = ("quickstart", *SETTINGS, "--rounds", rounds)
        bundle = root / "run.fab"
        lab.fedlite("server", "bundle", *wanted, "--out", bundle)
        homes = [root / f"site-{number:02}" for number in range(1, SITES + 1)]
        for home in homes:
            _join(lab, home, bundle)
        sites = [lab.start("site", "start", home) for home in homes]
        for home in homes:
            wait_for(f"{home.name} on line", partial(_online, home), _START_SECONDS)
        submit = lab.start("server", "submit", *wanted)
        path = lab.rounds("quickstart")
        marks = watch(submit, lambda: lines(path), [lab.pid], [s.pid for s in sites], root)
        accepted = [json.loads(line)["accepted"] for line in path.read_text().splitlines()]
        if accepted != [SITES] * rounds:
            raise RuntimeError(f"every site must take part in every round, got {accepted}")
    return row("fedlite, TLS and node keys", SITES, marks)


def _join(lab: Lab, home: Path, bundle: Path) -> None:
    """Enrol a site and approve the bundle there, as both operators would."""
    lab.fedlite(
        *("site", "init", home, "--name", home.name, "--data", "digits", "--part", home.name)
    )
    policy = home / "site.toml"
    policy.write_text(policy.read_text().replace('units = ["record"]', 'units = ["none"]'))
    invitation = lab.coordinator / "invitation.json"
    joined = lab.json("site", "join", home, invitation, "--fingerprint", lab.fingerprint)
    request = home / "request.json"
    lab.fedlite("server", "approve", request, "--fingerprint", joined["node_key"])
    lab.fedlite("site", "approve", home, bundle, "--yes")


def _online(home: Path) -> bool:
    try:
        return bool(json.loads((home / "status.json").read_bytes())["state"] == "connected")
    except (OSError, ValueError):
        return False


def measure(rounds: dict[str, int]) -> list[dict[str, Any]]:
    """Return both rows, plain Flower's first."""
    found = []
    for name, play in (("flower", flower), ("fedlite", fedlite)):
        with tempfile.TemporaryDirectory(prefix="fedlite-bench-") as root:
            found.append(play(rounds[name], Path(root)))
    return with_ratios(found)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="4 rounds of Flower, 8 of fedlite")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    arguments = parser.parse_args()
    rows = measure(QUICK_ROUNDS if arguments.quick else ROUNDS)
    print(f"{machine()}\n\n{table(rows)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
