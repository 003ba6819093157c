"""What adapting a pretrained transformer costs and gives: four domains of sentences, every method.

`python -m simulations.benchmarks.lora` trains the scenario `sentiment-lora` by every method and
link for every seed, and prints accuracy, by domain too, beside the bytes. Heads on frozen layers
stand in the same table: adapters that do not beat them are not worth sending. With `--private`
every sentence is protected: heads at two epsilons, and adapters that go on from heads. Runs are
kept in `--out`, so an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from safetensors.torch import load_file, save_file

from fedlite.models.pretrained import lora
from fedlite.models.pretrained.classifier import BESIDE
from fedlite.reporting.record import read_summary
from fedlite.scenario import Scenario, load
from server.summary import machine
from simulations.run import resume_scenario, scenario_path, simulate

DENSE = ("uplink.compressor=dense", "downlink.compressor=dense")
ROTATED = ("uplink.compressor=rotated-topk", "uplink.error_feedback=false")
METHODS = {
    "both": ("model.options.method=both",),
    "frozen-a": ("model.options.method=frozen-a",),
    "alternating": ("model.options.method=alternating",),
    "sb": ("model.options.method=sb", "model.options.rank=32"),
    "heads": ("model.options.method=heads", "training.learning_rate=0.002"),
}
OPENLY, PRIVATELY = "sentiment-lora", "sentiment-lora-private"
LINKS = {
    "dense": DENSE,
    "rotated 2 %": (*ROTATED, "uplink.density=0.02"),
    "rotated 1 %": (*ROTATED, "uplink.density=0.01"),
}
PRIVATE: dict[str, tuple[str, ...]] = {
    f"heads, epsilon {epsilon}": ("model.options.method=heads", f"privacy.epsilon={epsilon}")
    for epsilon in (8, 3)
}
# Adapters go on from private heads, which cost next to no work and little epsilon. What heads have
# released is public then, and both runs together spend the sum of their epsilons and deltas. Who
# runs all three methods from one heads run on the same records spends 3 + 3 x 5 in all.
SHORT = ("data.length=48", "privacy.delta=5e-6")
FIRST = ("model.options.method=heads", "privacy.epsilon=3", *SHORT)
SECOND = (
    *SHORT,
    "model.options.layers=[4,5,6]",
    "federation.rounds=26",
    "federation.server_learning_rate=0.005",
    "federation.average_last=0.25",
    "privacy.epsilon=5",
    "privacy.sampling_rate=0.1",
)
AFTER_HEADS: dict[str, tuple[str, ...]] = {
    f"{method} after heads, epsilon 3 + 5": (*METHODS[method], *SECOND)
    for method in ("both", "frozen-a", "sb")
}


@dataclass(frozen=True)
class Job:
    """One training run."""

    row: str
    scenario: str
    seed: int
    directory: Path
    settings: tuple[str, ...]


def configure(job: Job) -> Scenario:
    """Return the scenario of one run."""
    own = (f"federation.seed={job.seed}", "federation.evaluate_every=0")
    return load(scenario_path(job.scenario), (*own, *job.settings))


def run(job: Job) -> dict[str, Any]:
    """Return a run's summary; train it when it is not finished, from where it stopped."""
    if not (job.directory / "summary.json").exists():
        started = (job.directory / "scenario.toml").exists()
        scenario = resume_scenario(job.directory) if started else configure(job)
        simulate(scenario, job.directory, engine="serial", quiet=True)
    return read_summary(job.directory)


def start_from(heads: Path, file: Path) -> Path:
    """Write what the finished run `heads` has released as a start for heads beside adapters.

    There their answers are multiplied by `BESIDE`, alone by 1.
    """
    trained = load_file(heads / "model.safetensors")
    save_file({name: tensor / BESIDE for name, tensor in trained.items()}, file)
    return file


def after_heads(
    rows: dict[str, tuple[str, ...]], seeds: int, settings: tuple[str, ...], out: Path
) -> list[Job]:
    """Return the jobs of adapters that go on from private heads, which are trained here, first."""
    jobs = []
    for seed in range(1, seeds + 1) if rows else ():
        folder = out / f"first-{seed}"
        run(Job("first", PRIVATELY, seed, folder, (*FIRST, *settings)))
        start = start_from(folder, out / f"first-{seed}.safetensors").absolute()
        jobs += [
            Job(
                row,
                PRIVATELY,
                seed,
                _place(out, row, seed),
                (*own, f"model.start={start}", *settings),
            )
            for row, own in rows.items()
        ]
    return jobs


def refuse_budgets(parser: argparse.ArgumentParser, settings: tuple[str, ...]) -> None:
    """End with an error where a setting would give each stage the whole budget."""
    for one in settings:
        key = one.partition("=")[0].strip()
        if key in ("privacy.epsilon", "privacy.delta"):
            parser.error(
                f"--set: must not hold {key} with --private (rule: it would reach both stages, of "
                f"which the records spend the sum), got {one!r}; leave it out"
            )


def _place(out: Path, row: str, seed: int) -> Path:
    return out / f"{row.replace(' ', '')}-{seed}"


def whole(shape: tuple[int, ...] = (2, 64)) -> int:
    """Return how many parameters the base has."""
    return sum(p.numel() for p in lora(shape, 2, method="heads").features.network.parameters())


def table(
    jobs: list[Job], summaries: list[dict[str, Any]], parameters: int
) -> list[dict[str, Any]]:
    """Return a row for each method and link. parameters: of the base, which is never sent."""
    rows = []
    for name in dict.fromkeys(job.row for job in jobs):
        mine = [s for job, s in zip(jobs, summaries, strict=True) if job.row == name]
        deep = [100 * one["accuracy"]["deep"] for one in mine]
        sent = [one["bytes"]["up"] / (one["rounds"] * len(one["sites"])) for one in mine]
        both = [(o["bytes"]["up"] + o["bytes"]["down"]) / len(o["sites"]) for o in mine]
        domains = mine[0]["accuracy"]["by_site"]
        rows.append(
            {
                "row": name,
                "seeds": len(mine),
                "values": mine[0]["parameters"],
                "deep": mean(deep),
                "deep_sd": stdev(deep) if len(deep) > 1 else 0.0,
                "by_domain": {
                    site: 100 * mean(one["accuracy"]["by_site"][site]["deep"] for one in mine)
                    for site in domains
                },
                "update_bytes": mean(sent),
                "bits_a_value": 8 * mean(sent) / mine[0]["parameters"],
                "up_ratio": mean(one["bytes"]["up_ratio"] for one in mine),
                "whole_ratio": 4 * parameters / mean(sent),
                "site_bytes": mean(both),
            }
        )
    return rows


def render(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    domains = list(rows[0]["by_domain"])
    head = ["method and link", "values", "accuracy", *domains, "an update", "bits a value"]
    head += ["dense / sent", "whole model / sent", "a site, all rounds, both ways"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        spread = f" ± {row['deep_sd']:.2f}" if row["seeds"] > 1 else ""
        cells = [row["row"], f"{row['values']:,}", f"{row['deep']:.2f}{spread}"]
        cells += [f"{row['by_domain'][domain]:.1f}" for domain in domains]
        cells += [f"{row['update_bytes']:,.0f} bytes", f"{row['bits_a_value']:.2f}"]
        cells += [f"{row['up_ratio']:.1f}", f"{row['whole_ratio']:,.0f}"]
        cells += [f"{row['site_bytes'] / 1000:,.0f} kB"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--links", nargs="+", choices=LINKS, default=list(LINKS))
    parser.add_argument("--private", action="store_true", help="the private rows, and no others")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="heads and adapters, one round each")
    parser.add_argument("--out", type=Path, default=Path("runs") / "bench-lora")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    methods, links, seeds = arguments.methods, arguments.links, arguments.seeds
    settings, out = tuple(arguments.set), arguments.out
    if arguments.private:
        refuse_budgets(parser, settings)
    if arguments.quick:
        methods, links, seeds = ("heads", "both"), ("rotated 2 %",), 1
        settings = ("federation.rounds=1", "training.steps=2", "data.length=16", *settings)
        # Kept runs would answer for code that has changed since.
        out = Path(tempfile.mkdtemp(prefix="fedlite-bench-"))
    cells: dict[str, tuple[str, ...]] = {
        f"{method}, {link}": (*METHODS[method], *LINKS[link])
        for method in methods
        # Of so few values all may go.
        for link in (links if method != "heads" else ("dense",))
    }
    scenario, later = OPENLY, list[Job]()
    if arguments.private:
        chosen = {row for row in (*PRIVATE, *AFTER_HEADS) if re.split("[ ,]", row)[0] in methods}
        cells, scenario = {row: own for row, own in PRIVATE.items() if row in chosen}, PRIVATELY
        rows = {row: own for row, own in AFTER_HEADS.items() if row in chosen}
        later = after_heads(rows, seeds, settings, out)
    jobs = [
        Job(row, scenario, seed, _place(out, row, seed), (*own, *settings))
        for seed in range(1, seeds + 1)
        for row, own in cells.items()
    ]
    jobs += later
    with multiprocessing.get_context("spawn").Pool(min(arguments.workers, len(jobs))) as pool:
        summaries = []
        for job, summary in zip(jobs, pool.imap(run, jobs), strict=True):
            summaries.append(summary)
            score, ratio = 100 * summary["accuracy"]["deep"], summary["bytes"]["up_ratio"]
            print(f"seed {job.seed}, {job.row}: {score:.2f} at {ratio:.1f}", flush=True)
    found = table(jobs, summaries, whole())
    print(f"\n{' '.join(settings)} {seeds} seeds, {machine()}\n")
    print(render(found))
    if arguments.json:
        units = {"deep": "%", "update_bytes": "bytes", "site_bytes": "bytes"}
        figures = [
            {
                "what": "adapters of a pretrained transformer",
                "parameters": {"scenario": scenario, "set": settings},
                "units": units,
                "figures": row,
            }
            for row in found
        ]
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
