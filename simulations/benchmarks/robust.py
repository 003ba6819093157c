"""What strategies withstand: attacks on Fashion-MNIST, against the same federation without any.

`python -m simulations.benchmarks.robust` trains the scenario `fashion` at twenty sites, of which
four are hostile, by every strategy under every attack, and prints how many points each loses to
FedAvg without attackers. Updates are compressed; the server's own bounds are on in all rows.
Finished runs are kept in `--out`, so an interrupted study goes on; a run that was not finished
begins anew, as attackers keep nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fedlite import plan as plans
from fedlite.reporting.record import read_summary
from fedlite.scenario import Scenario, load
from server.summary import machine
from simulations.attackers import ATTACKS, hostile
from simulations.run import scenario_path, simulate

SITES, HOSTILE = 20, 4
NONE = "none"
BASE = "fedavg"
RULES = (
    BASE,
    "norm-bound",
    "median",
    "trimmed-mean",
    "geometric-median",
    "multi-krum",
    "krum",
)
SETTINGS = (
    f"federation.sites={SITES}",
    # Of 4 hostile among 20 Krum needs 11.
    "federation.quorum=11",
    "federation.weighting=uniform",
    "federation.evaluate_every=0",
    "data.partition=iid",
    "training.steps=10",
    "training.batch_size=32",
    "uplink.compressor=rotated-topk",
    "uplink.error_feedback=false",
)


@dataclass(frozen=True)
class Job:
    """One training run."""

    strategy: str
    attack: str
    seed: int
    rounds: int
    directory: Path
    settings: tuple[str, ...] = ()


def configure(job: Job) -> Scenario:
    """Return the scenario of one run."""
    own = (
        f"federation.strategy={job.strategy}",
        f"federation.seed={job.seed}",
        f"federation.rounds={job.rounds}",
    )
    return load(scenario_path("fashion"), (*SETTINGS, *own, *job.settings))


def run(job: Job) -> dict[str, Any]:
    """Return a run's summary; train it when it is not finished."""
    if not (job.directory / "summary.json").exists():
        shutil.rmtree(job.directory, ignore_errors=True)
        scenario = configure(job)
        names = sorted(site.name for site in plans.simulated(scenario)[2])[-HOSTILE:]
        attackers = nullcontext() if job.attack == NONE else hostile(ATTACKS[job.attack], names)
        with attackers:
            simulate(scenario, job.directory, engine="serial", quiet=True)
    return read_summary(job.directory)


def table(jobs: list[Job], summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for every attack and strategy: the mean, and points lost to clean FedAvg."""
    found = {(j.seed, j.attack, j.strategy): s for j, s in zip(jobs, summaries, strict=True)}
    rows = []
    for attack, strategy in dict.fromkeys((j.attack, j.strategy) for j in jobs):
        seeds = [j.seed for j in jobs if (j.attack, j.strategy) == (attack, strategy)]
        deep = {seed: 100 * found[seed, attack, strategy]["accuracy"]["deep"] for seed in seeds}
        clean = {seed: 100 * found[seed, NONE, BASE]["accuracy"]["deep"] for seed in seeds}
        lost = [clean[seed] - deep[seed] for seed in seeds]
        ratios = [found[seed, attack, strategy]["bytes"]["up_ratio"] for seed in seeds]
        rows.append(
            {
                "attack": attack,
                "strategy": strategy,
                "seeds": len(seeds),
                "deep": mean(deep.values()),
                "lost": mean(lost),
                "lost_sd": stdev(lost) if len(lost) > 1 else 0.0,
                "up_ratio": mean(ratios),
            }
        )
    return rows


def render(rows: list[dict[str, Any]]) -> str:
    """Return points lost as a Markdown table: a row an attack, a column a strategy."""
    rules = list(dict.fromkeys(row["strategy"] for row in rows))
    lines = [f"| attack | {' | '.join(rules)} |", "|---" * (len(rules) + 1) + "|"]
    for attack in dict.fromkeys(row["attack"] for row in rows):
        mine = {row["strategy"]: row for row in rows if row["attack"] == attack}
        cells = [f"{mine[rule]['lost']:.2f}" if rule in mine else "" for rule in rules]
        lines.append(f"| {attack} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    attacks = (NONE, *ATTACKS)
    parser.add_argument("--attacks", nargs="+", choices=attacks, default=attacks)
    parser.add_argument("--strategies", nargs="+", default=RULES)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="2 rounds, one attack, two strategies")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    rounds, seeds = arguments.rounds, arguments.seeds
    chosen, rules = arguments.attacks, arguments.strategies
    out = arguments.out or Path("runs") / "-".join(["bench-robust", str(rounds), *arguments.set])
    if arguments.quick:
        rounds, seeds, chosen, rules = 2, 1, ("support",), (BASE, "median")
        # Kept runs would answer for code that has changed since.
        out = arguments.out or Path(tempfile.mkdtemp(prefix="fedlite-bench-"))
    cells = dict.fromkeys([(NONE, BASE), *((a, s) for a in chosen for s in rules)])
    settings = tuple(arguments.set)
    jobs = [
        Job(strategy, attack, seed, rounds, out / f"{attack}-{strategy}-{seed}", settings)
        for seed in range(1, seeds + 1)
        for attack, strategy in cells
    ]
    with multiprocessing.get_context("spawn").Pool(min(arguments.workers, len(jobs))) as pool:
        summaries = []
        for job, summary in zip(jobs, pool.imap(run, jobs), strict=True):
            summaries.append(summary)
            score, ratio = 100 * summary["accuracy"]["deep"], summary["bytes"]["up_ratio"]
            print(
                f"seed {job.seed}, {job.attack}, {job.strategy}: {score:.2f} at {ratio:.1f}",
                flush=True,
            )
    rows = table(jobs, summaries)
    print(f"\n{' '.join(arguments.set)} {rounds} rounds, {seeds} seeds, {machine()}\n")
    print(render(rows))
    if arguments.json:
        figures = [
            {
                "what": "points lost to attackers",
                "parameters": {"rounds": rounds, "sites": SITES, "hostile": HOSTILE}
                | {"set": arguments.set},
                "units": {"deep": "%", "lost": "points", "up_ratio": "times fewer bytes"},
                "figures": row,
            }
            for row in rows
        ]
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
