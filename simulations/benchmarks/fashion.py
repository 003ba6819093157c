"""What top-k compression costs on Fashion-MNIST, against the same federation sent dense.

`python -m simulations.benchmarks.fashion` trains the scenario `fashion` for every seed, dense and
at each pair of densities, through the product's own path, and prints points lost (deep and exit)
beside the measured ratios. Paired: a seed fixes partition, first model and batch order.
Runs are kept in `--out`, so an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fedlite.config import Scenario, load, with_values
from fedlite.reporting.record import read_summary
from server.summary import machine
from simulations.run import resume_scenario, scenario_path, simulate

# Density up and down; dense float32 both ways is always the twin.
DENSE = (0.0, 0.0)
BRANCHES = ("deep", "shallow")
PAIRS = ("0.1/0.1", "0.03/0.03", "0.01/0.01")


@dataclass(frozen=True)
class Job:
    """One training run; density 0 stands for dense float32."""

    scenario: str
    seed: int
    pair: tuple[float, float]
    rounds: int
    directory: Path


def configure(job: Job) -> Scenario:
    """Return the scenario of one run."""
    scenario = load(scenario_path(job.scenario))
    scenario = with_values(scenario, "federation", seed=job.seed, rounds=job.rounds)
    for direction, density in zip(("uplink", "downlink"), job.pair, strict=True):
        link: dict[str, Any] = {"compressor": "dense"}
        if density:
            link = {"compressor": "topk", "density": density}
        scenario = with_values(scenario, direction, **link)
    return scenario


def run(job: Job) -> dict[str, Any]:
    """Return a finished run's summary; train it, or go on with it, when it is not finished."""
    if not (job.directory / "summary.json").exists():
        started = (job.directory / "scenario.toml").exists()
        scenario = resume_scenario(job.directory) if started else configure(job)
        simulate(scenario, job.directory, engine="serial", quiet=True)
    return read_summary(job.directory)


def table(jobs: list[Job], summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for every pair of densities: means over seeds, and points lost to the twin."""
    found = {(j.seed, j.pair): s for j, s in zip(jobs, summaries, strict=True)}
    rows = []
    for pair in dict.fromkeys(j.pair for j in jobs):
        mine = {seed: s for (seed, p), s in found.items() if p == pair}
        row: dict[str, Any] = {"up": _name(pair[0]), "down": _name(pair[1]), "seeds": len(mine)}
        for branch in BRANCHES:
            scores = [100 * s["accuracy"][branch] for s in mine.values()]
            lost = [
                100 * (found[seed, DENSE]["accuracy"][branch] - s["accuracy"][branch])
                for seed, s in mine.items()
            ]
            row[branch] = mean(scores)
            row[f"{branch}_lost"] = mean(lost)
            row[f"{branch}_lost_sd"] = stdev(lost) if len(lost) > 1 else 0.0
        for key in ("up_ratio", "down_ratio"):
            row[key] = mean(s["bytes"][key] for s in mine.values())
        row["round_seconds"] = mean(s["seconds"]["round_median"] for s in mine.values())
        rows.append(row)
    return rows


def _name(density: float) -> str:
    return f"top {100 * density:g} %" if density else "dense"


def render(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| up | down | deep | exit | deep lost | exit lost | up ratio | down ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['up']} | {row['down']} | {row['deep']:.2f} | {row['shallow']:.2f} "
            f"| {row['deep_lost']:+.2f} ± {row['deep_lost_sd']:.2f} "
            f"| {row['shallow_lost']:+.2f} ± {row['shallow_lost_sd']:.2f} "
            f"| {row['up_ratio']:.1f} | {row['down_ratio']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--scenario", default="fashion")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", nargs="+", default=PAIRS, metavar="UP/DOWN")
    parser.add_argument("--rounds", type=int, default=0, help="0: as the scenario says")
    parser.add_argument("--quick", action="store_true", help="1 seed, 3 rounds, top 10 %% only")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    seeds = 1 if arguments.quick else arguments.seeds
    wanted = arguments.pairs[:1] if arguments.quick else arguments.pairs
    pairs = [(float(up), float(down)) for up, _, down in (p.partition("/") for p in wanted)]
    rounds = arguments.rounds or (
        3 if arguments.quick else load(scenario_path(arguments.scenario)).federation.rounds
    )
    if arguments.quick:
        # Kept runs would answer for code that has changed since.
        out = arguments.out or Path(tempfile.mkdtemp(prefix="fedlite-bench-"))
    else:
        out = arguments.out or Path("runs") / f"bench-{arguments.scenario}-{rounds}"
    jobs = [
        Job(arguments.scenario, seed, pair, rounds, out / f"seed{seed}-{pair[0]:g}-{pair[1]:g}")
        for seed in range(1, seeds + 1)
        for pair in (DENSE, *pairs)
    ]
    with multiprocessing.get_context("spawn").Pool(min(arguments.workers, len(jobs))) as pool:
        summaries = []
        for job, summary in zip(jobs, pool.imap(run, jobs), strict=True):
            summaries.append(summary)
            scores = " ".join(
                f"{branch} {100 * summary['accuracy'][branch]:.2f}" for branch in BRANCHES
            )
            up, down = (_name(density) for density in job.pair)
            print(f"seed {job.seed}, {up} up, {down} down: {scores}", flush=True)
    rows = table(jobs, summaries)
    print(f"\n{arguments.scenario}, {rounds} rounds, {seeds} seeds, {machine()}\n")
    print(render(rows))
    if arguments.json:
        figures = [
            {
                "what": "accuracy against bytes",
                "parameters": {"scenario": arguments.scenario, "rounds": rounds},
                "units": {"deep": "%", "shallow": "%", "round_seconds": "s"},
                "figures": row,
            }
            for row in rows
        ]
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
