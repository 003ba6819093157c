"""What very many sites cost of which few are asked: time, memory and disk, by registered sites.

`python -m simulations.benchmarks.crossdevice` plays the same rounds of a hundred sites with 1,000,
10,000 and 100,000 registered, on made-up records of 64 values, and then the scenario
`cross-device`. Each run is a process of its own. Printed are processor seconds of a round, of the
server for one update, updates a second, the most memory, and what is left on the disk. Rounds
count from the third on: the first ones open what is used later.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.reporting.record import read_rounds
from fedlite.scenario import Scenario, from_dict, load
from server.summary import machine
from simulations import engines, node
from simulations.run import scenario_path, simulate

REGISTERED = (1_000, 10_000, 100_000)
ASKED, EACH = 100, 5
SCENARIO = "cross-device"


def records(
    sites: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return records of noisy patterns for so many sites, and a small test set: x, y, x, y."""
    rng = np.random.default_rng(7)
    patterns = rng.normal(size=(10, 64)).astype(np.float32)
    n = sites * EACH
    y = rng.integers(0, 10, n + 100)
    x = patterns[y] + rng.standard_normal((len(y), 64), dtype=np.float32)
    return x[:n], y[:n], x[n:], y[n:]


def configure(registered: int, rounds: int) -> Scenario:
    """Return the scenario of a run; 0 registered: the house's own."""
    if not registered:
        overrides = [f"federation.rounds={rounds}", "federation.evaluate_every=0"]
        return load(scenario_path(SCENARIO), overrides)
    return from_dict(
        {
            "federation": {
                "rounds": rounds,
                "sites": registered,
                "participation": ASKED / registered,
                "evaluate_every": 0,
            },
            "data": {
                "name": "simulations.benchmarks.crossdevice:records",
                "options": {"sites": registered},
                "test_fraction": 0.0,
            },
            "model": {"name": "mlp"},
            "training": {"batch_size": EACH},
            "uplink": {"compressor": "rotated-topk", "density": 0.1, "error_feedback": False},
            "downlink": {"compressor": "dense"},
        }
    )


def play(registered: int, rounds: int, engine: str) -> dict[str, Any]:
    """Play a run in this process and return its figures; memory in MB, times in seconds."""
    made: list[engines.Engine] = []
    make = engines.make_engine
    engines.make_engine = lambda *a, **k: made.append(make(*a, **k)) or made[-1]  # type: ignore[func-returns-value]
    scenario, started = configure(registered, rounds), time.process_time()
    with tempfile.TemporaryDirectory(prefix="fedlite-crossdevice-") as folder:
        directory = Path(folder) / "run"
        simulate(scenario, directory, engine=engine, quiet=True)
        rows = read_rounds(directory)
        disk = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        files = sum(1 for path in directory.rglob("*") if path.is_file())
    nodes = range(node.FIRST_NODE, node.FIRST_NODE + scenario.federation.sites)
    sites = sum(made[0].site_seconds(node) for node in nodes)
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    later, used = rows[2:], sum(row.accepted for row in rows)
    total = sum(row.cpu_seconds for row in rows)
    return {
        "registered": scenario.federation.sites,
        "asked": scenario.federation.participants,
        "rounds": len(rows),
        "cpu": median(row.cpu_seconds for row in later),
        "server": (total - sites) / used,
        "per_cpu": sum(row.accepted for row in later) / sum(row.cpu_seconds for row in later),
        "per_second": sum(row.accepted for row in later) / sum(row.seconds for row in later),
        "whole": time.process_time() - started,
        "memory": [resource.getrusage(one).ru_maxrss / 1e3 for one in who],
        "disk": disk / 1e6,
        "files": files,
        "up": sum(row.bytes_up for row in rows) / used,
    }


def render(rows: Sequence[dict[str, Any]]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| registered | asked | CPU s a round | of the server, ms an update | updates a CPU second "
        "| updates a second | CPU s in all | most memory, MB | disk, MB | files |",
        "|" + "---|" * 10,
    ]
    for row in rows:
        memory = " + ".join(f"{one:,.0f}" for one in row["memory"] if one > 1)
        lines.append(
            f"| {row['registered']:,} | {row['asked']} | {row['cpu']:.2f} "
            f"| {1e3 * row['server']:.1f} | {row['per_cpu']:.0f} | {row['per_second']:.0f} "
            f"| {row['whole']:.0f} | {memory} | {row['disk']:.1f} | {row['files']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--registered", type=int, nargs="+", default=[*REGISTERED, 0])
    parser.add_argument("--engine", default="serial", choices=("serial", "pool"))
    parser.add_argument("--quick", action="store_true", help="1,000 sites, 3 rounds")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    parser.add_argument("--one", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else arguments.rounds
    if arguments.one is not None:
        print(json.dumps(play(arguments.one, rounds, arguments.engine)))
        return
    rows = []
    for registered in REGISTERED[:1] if arguments.quick else arguments.registered:
        words = ["--one", registered, "--rounds", rounds, "--engine", arguments.engine]
        done = subprocess.run(
            [sys.executable, "-m", "simulations.benchmarks.crossdevice", *map(str, words)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{rows[-1]['registered']:,} registered: done", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"{rounds} rounds, engine {arguments.engine}, {machine()}\n\n{render(rows)}")


if __name__ == "__main__":
    main()
