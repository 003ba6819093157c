"""What compression costs on Fashion-MNIST, against the same federation sent dense.

`python -m simulations.benchmarks.fashion` trains the scenario `fashion` for every seed, dense and
with every pair of links, through the product's own path, and prints points lost (deep and exit)
beside the measured ratios. Paired: a seed fixes partition, first model and batch order.
Runs are kept in `--out`, so an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fedlite.data import catalog
from fedlite.data.dataset import Dataset, Source
from fedlite.reporting.record import read_summary
from fedlite.scenario import Scenario, ScenarioError, from_dict, load
from server.summary import machine
from simulations.run import resume_scenario, scenario_path, simulate

BRANCHES = ("deep", "shallow")
SIGNS = {"compressor": "topk", "values": "sign-per-tensor"}
LEVELS = {"compressor": "topk", "values": "levels-2"}
LINKS: dict[str, dict[str, Any]] = {
    "dense": {"compressor": "dense"},
    "fp16": {"compressor": "dense", "values": "fp16"},
    # What "top 10 % of the gradients" usually means: float32 values, and the rest is forgotten.
    "naive-10": {"compressor": "topk", "density": 0.1, "values": "fp32", "error_feedback": False},
    "topk-30": SIGNS | {"density": 0.3},
    "topk-10": SIGNS | {"density": 0.1},
    "topk-8": SIGNS | {"density": 0.08},
    "topk-3": SIGNS | {"density": 0.03},
    "topk-2.9": SIGNS | {"density": 0.029},
    "topk-1": SIGNS | {"density": 0.01},
    # Two magnitudes a sign, as dense as takes the bytes of one magnitude at 3 and at 8 %.
    "levels-2.7": LEVELS | {"density": 0.027},
    "levels-7": LEVELS | {"density": 0.07},
    "levels-3": {"compressor": "topk", "density": 0.03, "values": "levels-4"},
    "cafe-3": SIGNS | {"density": 0.03, "error_feedback": False, "aggregate_feedback": 1.0},
    "randk-10": {"compressor": "randk", "density": 0.1},
    "eden-1bit": {"compressor": "eden"},
    "rotated-10": {"compressor": "rotated-topk", "density": 0.1},
    "rotated-3": {"compressor": "rotated-topk", "density": 0.03},
    "rotated-1": {"compressor": "rotated-topk", "density": 0.01},
    "rotated-cafe-3": {"compressor": "rotated-topk", "density": 0.03, "aggregate_feedback": 0.4},
}
# Link up and link down; dense float32 both ways is always the twin.
DENSE = "dense/dense"
_HELD_OUT = 8_000
METHODS = (
    "naive-10/dense",
    "topk-10/dense",
    "topk-3/dense",
    "cafe-3/dense",
    "randk-10/dense",
    "eden-1bit/dense",
    "rotated-3/dense",
    "rotated-1/dense",
    "rotated-3/topk-10",
    "rotated-3/topk-8",
    "rotated-3/topk-3",
)


@dataclass(frozen=True)
class Job:
    """One training run."""

    scenario: str
    seed: int
    method: str
    rounds: int
    participation: float
    directory: Path
    settings: tuple[str, ...] = ()
    hold_out: int = 0


def configure(job: Job) -> Scenario:
    """Return the scenario of one run."""
    scenario = load(scenario_path(job.scenario), job.settings)
    tables: dict[str, dict[str, Any]] = scenario.to_dict()
    federation = tables["federation"]
    asked = job.participation * federation["sites"]
    federation |= {"seed": job.seed, "rounds": job.rounds, "participation": job.participation}
    federation |= {"quorum": min(federation["quorum"], max(1, int(asked) // 2))}
    # Scoring 10,000 images costs as much as a site's training; the end is always scored.
    federation |= {"evaluate_every": max(federation["evaluate_every"], job.rounds // 5)}
    up, down, step = parts(job.method)
    if step:
        federation["server_learning_rate"] = step
    return from_dict(tables | {"uplink": LINKS[up], "downlink": LINKS[down]})


def parts(method: str) -> tuple[str, str, float]:
    """Return link up, link down and the server's step, 0 for the scenario's, of UP/DOWN@STEP.

    Raises ValueError for a link that is not in `LINKS` and a step that is no number.

    >>> parts("rotated-3/topk-8@1.5")
    ('rotated-3', 'topk-8', 1.5)
    """
    links, _, step = method.partition("@")
    up, _, down = links.partition("/")
    for link in (up, down):
        if link not in LINKS:
            raise ValueError(f"a link must be one of {', '.join(LINKS)}, got {link!r}")
    return up, down, float(step or 0)


def hold_out(name: str, records: int) -> None:
    """Make the last `records` training images of a source its test set, in this process."""

    def load() -> Source:
        source = entry.load()
        train, test = (
            Dataset(source.train.x[part], source.train.y[part])
            for part in (slice(None, -records), slice(-records, None))
        )
        return replace(source, train=train, test=test)

    entry = catalog._ENTRIES[name]
    catalog._ENTRIES[name] = replace(entry, load=load)


def run(job: Job) -> dict[str, Any]:
    """Return a finished run's summary; train it, or go on with it, when it is not finished."""
    if not (job.directory / "summary.json").exists():
        started = (job.directory / "scenario.toml").exists()
        scenario = resume_scenario(job.directory) if started else configure(job)
        if job.hold_out:
            hold_out(scenario.data.name, job.hold_out)
        simulate(scenario, job.directory, engine="serial", quiet=True)
    return read_summary(job.directory)


def table(jobs: list[Job], summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for every method: means over seeds, and points lost to the twin."""
    found = {(j.seed, j.method): s for j, s in zip(jobs, summaries, strict=True)}
    rows = []
    for method in dict.fromkeys(j.method for j in jobs):
        mine = {seed: s for (seed, m), s in found.items() if m == method}
        up, down, step = parts(method)
        row: dict[str, Any] = {"up": up, "down": down, "step": step, "seeds": len(mine)}
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


def render(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| up | down | step | deep | exit | deep lost | exit lost | up ratio | down ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['up']} | {row['down']} | {row['step'] or ''} "
            f"| {row['deep']:.2f} | {row['shallow']:.2f} "
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
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, metavar="UP/DOWN[@STEP]", help=", ".join(LINKS)
    )
    parser.add_argument("--rounds", type=int, default=0, help="0: as the scenario says")
    parser.add_argument("--participation", type=float, default=0.0, help="0: as the scenario says")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="replace one key, for the dense twin too; repeatable",
    )
    parser.add_argument("--first", type=int, default=1, metavar="SEED", help="the first seed")
    parser.add_argument(
        "--validate",
        action="store_true",
        help=f"score the last {_HELD_OUT:,} training images, which no site then has, to choose by",
    )
    parser.add_argument("--quick", action="store_true", help="1 seed, 3 rounds, the seventh method")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    seeds = 1 if arguments.quick else arguments.seeds
    methods = arguments.methods[6:7] or arguments.methods[:1]
    methods = methods if arguments.quick else arguments.methods
    try:
        for method in methods:
            parts(method)
    except ValueError as error:
        parser.error(f"--methods: {error}")
    try:
        federation = load(scenario_path(arguments.scenario), arguments.set).federation
    except ScenarioError as error:
        parser.error(str(error))
    rounds = arguments.rounds or (3 if arguments.quick else federation.rounds)
    participation = arguments.participation or federation.participation
    if arguments.quick:
        # Kept runs would answer for code that has changed since.
        out = arguments.out or Path(tempfile.mkdtemp(prefix="fedlite-bench-"))
    else:
        name = "-".join(
            ["bench", arguments.scenario, str(rounds), f"{participation:g}", *arguments.set]
            + ["validate"] * arguments.validate
        )
        out = arguments.out or Path("runs") / name
    jobs = [
        Job(
            arguments.scenario,
            seed,
            method,
            rounds,
            participation,
            out / f"seed{seed}-{method.replace('/', '-down-')}",
            tuple(arguments.set),
            _HELD_OUT if arguments.validate else 0,
        )
        for seed in range(arguments.first, arguments.first + seeds)
        for method in dict.fromkeys((DENSE, *methods))
    ]
    with multiprocessing.get_context("spawn").Pool(min(arguments.workers, len(jobs))) as pool:
        summaries = []
        for job, summary in zip(jobs, pool.imap(run, jobs), strict=True):
            summaries.append(summary)
            scores = " ".join(
                f"{branch} {100 * summary['accuracy'][branch]:.2f}" for branch in BRANCHES
            )
            print(f"seed {job.seed}, {job.method}: {scores}", flush=True)
    rows = table(jobs, summaries)
    print(
        f"\n{' '.join([arguments.scenario, *arguments.set])}, {rounds} rounds, "
        f"participation {participation:g}, {seeds} seeds, {machine()}\n"
    )
    print(render(rows))
    if arguments.json:
        figures = [
            {
                "what": "accuracy against bytes",
                "parameters": {
                    "scenario": arguments.scenario,
                    "rounds": rounds,
                    "participation": participation,
                    "set": arguments.set,
                },
                "units": {"deep": "%", "shallow": "%", "round_seconds": "s"},
                "figures": row,
            }
            for row in rows
        ]
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
