"""How long a round of many small sites takes: fedlite's engines beside a bare loop and others.

`python -m simulations.benchmarks.engine [--quick] [--json FILE] [--pfl PYTHON] [--flower]
[--networks NAMES] [--ways NAMES]` plays a hundred clients with fifty records each, all of them in
every round, one epoch in batches of ten and one torch thread a process. Every way runs in a process
of its own, one after the other. Seconds by the clock depend on what else the machine does;
processor seconds, of all processes of a way together, much less.

`--pfl` names the Python of an environment with pfl (`pip install torch==2.13.0 pfl==0.6.0`);
`--flower` plays plain Flower on Ray, whose actors' processor seconds nobody counts; it takes two
rounds, and no longer than ten minutes. What is not there, or does not end, is left out, and a line
says so. Where a site's time goes is told by `engine_stages`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from simulations.benchmarks import engine_work as work

if TYPE_CHECKING:
    from fedlite.scenario import Scenario

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NETWORKS = tuple(work.NETWORKS)
WAYS = (
    "bare",
    "serial dense",
    "serial recommended",
    "pool dense",
    "pool recommended",
    "serial rotated",
    "serial private",
    "alone dense",
    "alone private",
    "training dense",
    "training private",
)
LINKS: dict[str, dict[str, dict[str, Any]]] = {
    "dense": {"uplink": {"compressor": "dense"}, "downlink": {"compressor": "dense"}},
    "recommended": {},
    # What sites that come once get, which then remember nothing.
    "rotated": {
        "uplink": {"compressor": "rotated-topk", "density": 0.1, "error_feedback": False},
        "downlink": {"compressor": "dense"},
    },
}
_FLOWER_SECONDS = 600
# Of fifty records a fifth in each of five steps: as many gradients as in one epoch.
_PRIVATE = {"unit": "record", "sampling_rate": 0.2, "expected_batch": 10, "epsilon": 8.0}


def play(network: str, way: str, rounds: int) -> dict[str, Any]:
    """Run one way in this process; return lists of `seconds` and `cpu` by round, and more.

    way: `bare`, or an engine and links, where `private` is record-level privacy over dense ones.
    The engine `alone` is the serial one with sites that are never trained together; `training` is
    training alone, of sites that are: no messages, no state, no ledger.
    """
    if way == "bare":
        return _bare(network, rounds)
    engine, links = way.split()
    chosen = scenario(network, rounds, links)
    if engine == "training":
        return _training(chosen, rounds)
    from fedlite.training import together
    from simulations.run import simulate

    if engine == "alone":
        engine, together.MOST = "serial", 1
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedlite-engine-") as folder:
        directory = Path(folder) / "run"
        simulate(chosen, directory, engine=engine, quiet=True)
        lines = (directory / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
        summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in lines]
    if any(row["accepted"] != work.SITES for row in rows):
        raise RuntimeError(f"{network}, {way}: a site's update was not used; see its message")
    return {
        "seconds": [row["seconds"] for row in rows],
        "cpu": [row["cpu_seconds"] for row in rows],
        "whole": time.monotonic() - begun,
        "bytes": rows[-1]["bytes_up"] / work.SITES,
        "together": summary["trained"]["together"],
    }


def scenario(network: str, rounds: int, links: str) -> Scenario:
    """Return the scenario of a network with these links; `private` protects every record."""
    from fedlite.scenario import from_dict

    private = links == "private"
    code = HERE / "engine_work.py"
    training: dict[str, Any] = {"batch_size": work.BATCH, "learning_rate": work.RATE}
    return from_dict(
        {
            "federation": {"rounds": rounds, "sites": work.SITES, "evaluate_every": 0},
            "data": {
                "name": f"{code}:records",
                "options": {"work": network},
                "partition": "natural",
                "test_fraction": 0.0,
                "labels": ",".join(map(str, range(work.CLASSES))),
            },
            "model": {"name": f"{code}:{network}"},
            "training": training | ({"steps": 5} if private else {"epochs": 1}),
            "privacy": _PRIVATE if private else {},
            **LINKS.get(links, {}),
        }
    )


def _training(scenario: Scenario, rounds: int) -> dict[str, Any]:
    import torch

    from fedlite import plan as plans
    from fedlite.messages import site_id
    from fedlite.training import Learner, together
    from fedlite.training.share import Asked

    torch.set_num_threads(1)
    plan, _, sites = plans.simulated(scenario)
    learners = [Learner(plan, site.train) for site in sites]
    group, seconds, cpu = together.Together(plan), [], []
    for number in range(1, rounds + 1):
        asked = [
            Asked(learner, plan.first, number, site_id(site.name), plan.mechanism, {})
            for learner, site in zip(learners, sites, strict=True)
        ]
        started, spent = time.monotonic(), time.process_time()
        for at in range(0, len(asked), together.MOST):
            group.shares(asked[at : at + together.MOST])
        seconds.append(time.monotonic() - started)
        cpu.append(time.process_time() - spent)
    return {"seconds": seconds, "cpu": cpu, "whole": sum(seconds), "bytes": 0}


def _bare(network: str, rounds: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    x, y, *_ = work.records(network)
    torch.manual_seed(1)
    model = work.NETWORKS[network](work.SHAPES[network], work.CLASSES)
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    seconds, cpu = [], []
    for _ in range(rounds):
        started, spent = time.monotonic(), time.process_time()
        work.bare_round(model, inputs, labels, work.SITES, generator)
        seconds.append(time.monotonic() - started)
        cpu.append(time.process_time() - spent)
    return {"seconds": seconds, "cpu": cpu, "whole": sum(seconds), "bytes": 0}


def _child(network: str, way: str, rounds: int, python: str = "") -> dict[str, Any] | None:
    """Return what `play` finds in a process of its own, with `start` and `memory` beside it."""
    command = [sys.executable, "-m", "simulations.benchmarks.engine", "--one", network, way]
    if python:
        command = [python, str(HERE / "engine_pfl.py"), network]
    # Before NumPy is imported: see fedlite/cli.py.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--rounds", str(rounds)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"{network}, {way}: left out: {done.stderr.strip().splitlines()[-1:]}", flush=True)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak() -> float:
    """Return the most memory that this process, and the largest of its children, held, in MB."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(one).ru_maxrss for one in who) / 1e3


def row(network: str, way: str, found: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the figures of a way, medians of all rounds but the first; nothing of one left out."""
    if found is None:
        return []
    later = found["seconds"][1:] or found["seconds"]
    cpu = found["cpu"][1:] or found["cpu"]
    figures = {
        "network": network,
        "way": way,
        "seconds": median(later),
        "cpu": median(cpu) if cpu else None,
        "first": found["seconds"][0],
        "memory": found["memory"],
        "bytes": found["bytes"],
        "together": found.get("together"),
    }
    return [figures]


class _Late(Exception):
    """It takes longer than anybody would wait."""


def _late(*_: object) -> None:
    raise _Late


def flower(rounds: int) -> dict[str, Any] | None:
    """Return the seconds by round of plain Flower on Ray; None where it does not end here."""
    if importlib.util.find_spec("ray") is None:
        print("Flower on Ray: left out: ray is not installed; pip install 'fedlite[ray]'")
        return None
    from simulations.ray import flwr_run

    with tempfile.TemporaryDirectory(prefix="fedlite-engine-") as folder:
        out = Path(folder) / "seconds.json"
        config = {"rounds": rounds, "out": str(out)}
        told = ["it took too long"]
        signal.signal(signal.SIGALRM, _late)
        signal.alarm(_FLOWER_SECONDS)
        with contextlib.suppress(_Late):
            told = flwr_run(
                HERE / "engine_flower", config, work.SITES, state=Path(folder), path=[str(ROOT)]
            )
        signal.alarm(0)
        if not out.exists():
            print(f"Flower on Ray: left out: {told[-3:]}")
            return None
        seconds = json.loads(out.read_text(encoding="utf-8"))
    return {"seconds": seconds, "cpu": [], "bytes": 226_856, "memory": None}


def render(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown; ratios are to the bare loop of the same network."""
    lines = [
        "| network | way | s a round | CPU s a round | CPU / bare | first round, s | peak, MB "
        "| bytes up |",
        "|" + "---|" * 8,
    ]
    bare = {one["network"]: one for one in rows if one["way"] == "bare"}
    for one in rows:
        base = bare.get(one["network"])
        cpu = "" if one["cpu"] is None else f"{one['cpu']:.3f}"
        ratio = f"{one['cpu'] / base['cpu']:.2f}" if base and one["cpu"] else ""
        memory = "" if one["memory"] is None else f"{one['memory']:,.0f}"
        lines.append(
            f"| {one['network']} | {one['way']} | {one['seconds']:.3f} | {cpu} | {ratio} "
            f"| {one['first']:.2f} | {memory} | {one['bytes']:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="the mlp, serial, two rounds")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--pfl", default="", metavar="PYTHON", help="of an environment with pfl")
    parser.add_argument("--flower", action="store_true", help="plain Flower on Ray, too")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    parser.add_argument("--one", nargs=2, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    if arguments.one:
        network, way = arguments.one
        print(json.dumps(play(network, way, rounds) | {"memory": peak()}))
        return
    rows: list[dict[str, Any]] = []
    for network in ["mlp"] if arguments.quick else arguments.networks:
        for way in WAYS[:2] if arguments.quick else arguments.ways:
            rows += row(network, way, _child(network, way, rounds))
        if not arguments.pfl:
            print(f"{network}, pfl: left out: no environment was named by --pfl")
        else:
            rows += row(network, "pfl", _child(network, "pfl", rounds, arguments.pfl))
    if arguments.flower:
        rows += row("cnn", "Flower on Ray", flower(2))
    from server.summary import machine

    print(f"\n{rounds} rounds, {work.SITES} clients, {machine()}\n\n{render(rows)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
