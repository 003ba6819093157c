"""What weak sites give and cost that train the shallow branch alone: Fashion-MNIST, twenty sites.

`python -m simulations.benchmarks.depth` trains the scenario `fashion` for every seed and division
three ways: all sites train everything; a share of them trains stem and exit; these are left out and
the others train alone. It prints both branches' accuracy beside bytes and processor seconds of a
site of each kind. Paired: a seed fixes the division, the weak sites and the first model. Runs are
kept in `--out`, so an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from fedlite.data import Source
from fedlite.data.dataset import Indices
from fedlite.data.partition import partition, site_names
from fedlite.data.spread import weak_of
from fedlite.reporting.record import WEAK, WHOLE, RoundRecord, read_rounds, read_summary
from fedlite.scenario import Scenario, from_dict, load
from server.summary import machine
from simulations.run import resume_scenario, scenario_path, simulate

DIVISIONS = {"iid": 0.0, "dirichlet": 0.3}
WAYS = ("all", "some weak", "strong alone")
SITES = 20
# The module, by its own name: run as a program it has another.
DIVISION = "simulations.benchmarks.depth"


@dataclass(frozen=True)
class Job:
    """One training run. weak: the share of the sites that are weak, or left out."""

    division: str
    way: str
    weak: float
    seed: int
    rounds: int
    directory: Path
    settings: tuple[str, ...] = ()
    records: int = 0


def division(
    source: Source,
    sites: int,
    *,
    seed: int,
    of: int,
    weak: float,
    kind: str,
    alpha: float,
    records: int,
) -> list[Indices]:
    """Return what `of` sites hold, or where `sites` are fewer the strong ones of them.

    weak: the share that is weak, and then not there. records: how many there are of the source's,
    drawn by the seed; 0 for all.
    """
    federation = {"sites": of, "seed": seed, "weak": weak}
    names = site_names(source, kind, of)
    out = weak_of(from_dict({"federation": federation}), names) if sites < of else frozenset()
    some = np.arange(len(source.train))
    if records:
        some = np.sort(np.random.default_rng([seed, records]).permutation(some)[:records])
    drawn = replace(source, train=source.train.take(some))
    shares = partition(drawn, kind, of, alpha=alpha, seed=seed)
    return [some[mine] for name, mine in zip(names, shares, strict=True) if name not in out]


def configure(job: Job) -> Scenario:
    """Return the scenario of one run."""
    tables: dict[str, dict[str, Any]] = load(scenario_path("fashion"), job.settings).to_dict()
    alpha = DIVISIONS[job.division] or 1.0
    tables["federation"] |= {
        "name": f"depth {job.way}",
        "rounds": job.rounds,
        "sites": SITES,
        "seed": job.seed,
        "quorum": 5,
        "evaluate_every": max(1, job.rounds // 5),
    }
    options = {"of": SITES, "weak": job.weak, "kind": job.division, "alpha": alpha}
    tables["data"] |= {
        "partition": f"{DIVISION}:division",
        "partition_options": options | {"records": job.records},
    }
    if job.way == "some weak":
        tables["federation"]["weak"] = job.weak
    elif job.way == "strong alone":
        tables["federation"]["sites"] = SITES - int(job.weak * SITES + 1e-9)
    return from_dict(tables)


def run(job: Job) -> tuple[dict[str, Any], list[RoundRecord]]:
    """Return a finished run's summary and rounds; train what is not finished."""
    if not (job.directory / "summary.json").exists():
        started = (job.directory / "scenario.toml").exists()
        scenario = resume_scenario(job.directory) if started else configure(job)
        simulate(scenario, job.directory, engine="serial", quiet=True)
    return read_summary(job.directory), read_rounds(job.directory)


def each(records: Sequence[RoundRecord], kind: str) -> dict[str, float]:
    """Return what a site of a kind sent, got and computed in a round, in the mean.

    Empty where no site is of it.
    """
    mine = [record.kinds[kind] for record in records if kind in record.kinds]
    used = sum(one["used"] for one in mine)
    keys = ("up", "down", "cpu_seconds")
    return {key: sum(one[key] for one in mine) / used for key in keys} if used else {}


def table(
    jobs: Sequence[Job], found: Sequence[tuple[dict[str, Any], list[RoundRecord]]]
) -> list[dict[str, Any]]:
    """Return a row for every division and way: means over the seeds, and points lost to `all`."""
    deep = {
        (job.division, job.way, job.seed): 100 * summary["accuracy"]["deep"]
        for job, (summary, _) in zip(jobs, found, strict=True)
    }
    rows = []
    for division, way in dict.fromkeys((job.division, job.way) for job in jobs):
        mine = [
            (job, *one)
            for job, one in zip(jobs, found, strict=True)
            if (job.division, job.way) == (division, way)
        ]
        scores = [deep[division, way, job.seed] for job, _, _ in mine]
        lost = [
            deep[division, "all", job.seed] - s for (job, _, _), s in zip(mine, scores, strict=True)
        ]
        costs = {kind: [each(records, kind) for _, _, records in mine] for kind in (WEAK, WHOLE)}
        rows.append(
            {
                "division": division,
                "way": way,
                "seeds": len(mine),
                "deep": mean(scores),
                "deep_sd": stdev(scores) if len(scores) > 1 else 0.0,
                "exit": mean(100 * s["accuracy"]["shallow"] for _, s, _ in mine),
                "lost": mean(lost),
                "lost_sd": stdev(lost) if len(lost) > 1 else 0.0,
                "kinds": {
                    kind: {key: mean(one[key] for one in known) for key in known[0]}
                    for kind, known in costs.items()
                    if all(known)
                },
            }
        )
    return rows


def render(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table; what a site sends and computes is of one round."""
    lines = [
        "| division | who trains | deep | exit | deep lost | up, weak / strong "
        "| down, weak / strong | CPU, weak / strong |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = f" ± {row['deep_sd']:.2f}" if row["seeds"] > 1 else ""
        lost = f"{row['lost']:.2f}" + (f" ± {row['lost_sd']:.2f}" if row["seeds"] > 1 else "")
        weak, whole = row["kinds"].get(WEAK), row["kinds"].get(WHOLE)
        costs = ["", "", ""]
        if weak and whole:
            costs = [f"{weak[key]:,.0f} / {whole[key]:,.0f} bytes" for key in ("up", "down")]
            costs += [f"{1000 * weak['cpu_seconds']:.0f} / {1000 * whole['cpu_seconds']:.0f} ms"]
        lines.append(
            f"| {row['division']} | {row['way']} | {row['deep']:.2f}{spread} | {row['exit']:.2f} "
            f"| {'' if row['way'] == 'all' else lost} | {' | '.join(costs)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--weak", type=float, default=0.5, help="the share of the sites")
    parser.add_argument("--records", type=int, default=0, help="of all sites together; 0: all")
    parser.add_argument("--divisions", nargs="+", default=list(DIVISIONS), choices=DIVISIONS)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="1 seed, 2 rounds of 2 steps")
    parser.add_argument("--out", type=Path, default=Path("runs") / "bench-depth")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    seeds, rounds, settings = arguments.seeds, arguments.rounds, tuple(arguments.set)
    out = arguments.out
    if arguments.quick:
        # Kept runs would answer for code that has changed since.
        seeds, rounds, settings = 1, 2, ("training.steps=2", *settings)
        out = Path(tempfile.mkdtemp(prefix="fedlite-bench-"))
    told = f"{arguments.weak:g}-{arguments.records}-{rounds}"
    jobs = [
        Job(
            kind,
            way,
            arguments.weak,
            seed,
            rounds,
            out / f"{kind}-{way.replace(' ', '-')}-{told}-seed{seed}",
            settings,
            arguments.records,
        )
        for seed in range(1, seeds + 1)
        for kind in arguments.divisions
        for way in WAYS
    ]
    context = multiprocessing.get_context("spawn")
    found = []
    with context.Pool(min(arguments.workers, len(jobs)), maxtasksperchild=1) as pool:
        for job, one in zip(jobs, pool.imap(run, jobs, chunksize=1), strict=True):
            found.append(one)
            score = 100 * one[0]["accuracy"]["deep"]
            print(f"{job.division}, {job.way}, seed {job.seed}: {score:.2f} %", flush=True)
    rows = table(jobs, found)
    told = f"{' '.join(settings)} {rounds} rounds, {seeds} seeds, {arguments.weak:g} weak, "
    told += f"{arguments.records:,} records" if arguments.records else "all records"
    print(f"\n{told.strip()}, {machine()}\n\n{render(rows)}")
    if arguments.json:
        units = {"deep": "%", "exit": "%", "lost": "points", "up": "bytes", "down": "bytes"}
        figures = [
            {
                "what": "weak sites that train the shallow branch alone",
                "parameters": {
                    "rounds": rounds,
                    "weak": arguments.weak,
                    "records": arguments.records,
                    "set": settings,
                },
                "units": units | {"cpu_seconds": "s"},
                "figures": row,
            }
            for row in rows
        ]
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
