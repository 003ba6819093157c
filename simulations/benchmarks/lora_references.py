"""What federating is held against: each domain trained alone, and all texts in one place.

`python -m simulations.benchmarks.lora_references` trains the model of `sentiment-lora` without any
message: at each site alone, with the federation's steps, and on all texts together, with as many
steps of four times the batch, so that every way has read equally many texts a step in all.
Answers are kept in `--out`, so an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from fedlite import plan as plans
from fedlite.data import Dataset
from fedlite.scenario import Scenario, load, with_values
from server.evaluation import Evaluator
from server.summary import machine
from simulations.baselines import train_here
from simulations.run import scenario_path

TOGETHER = "together"


def joined(parts: Sequence[Dataset]) -> Dataset:
    """Return all records in one place."""
    x, y = (np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y"))
    return replace(parts[0], x=x, y=y)


def references(scenario: Scenario) -> dict[str, dict[str, float]]:
    """Return the deep branch's accuracy, in points, by way and by the domain it is measured on."""
    plan, source, sites = plans.simulated(scenario)
    batch = scenario.training.batch_size * len(sites)
    wide = with_values(scenario, "training", batch_size=batch)
    ways = {site.name: (scenario, site.train) for site in sites}
    ways[TOGETHER] = (wide, joined([site.train for site in sites]))
    judge, found = Evaluator(plan, source, sites), dict[str, dict[str, float]]()
    for way, (how, part) in ways.items():
        vector = train_here(how, [part], None)
        by_site = judge.by_site(vector)
        found[way] = {name: 100 * scores["accuracy"]["deep"] for name, scores in by_site.items()}
        found[way]["all"] = 100 * judge.overall(vector)["accuracy"]["deep"]
        print(f"{way}: {found[way]['all']:.2f}", flush=True)
    return found


def render(found: list[dict[str, dict[str, float]]]) -> str:
    """Return a Markdown table: a row for each way, a column for each domain. found: by seed."""
    columns = list(next(iter(found[0].values())))
    lines = [f"| trained on | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for way in found[0]:
        cells = []
        for column in columns:
            values = [one[way][column] for one in found]
            spread = f" ± {stdev(values):.2f}" if len(values) > 1 and column == "all" else ""
            cells.append(f"{mean(values):.2f}{spread}")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs") / "bench-lora")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in range(1, arguments.seeds + 1):
        kept = arguments.out / f"references-{seed}.json"
        if not kept.exists():
            own = (f"federation.seed={seed}", *arguments.set)
            rows = references(load(scenario_path("sentiment-lora"), own))
            kept.write_text(json.dumps(rows), encoding="utf-8")
        found.append(json.loads(kept.read_text(encoding="utf-8")))
    print(f"\n{' '.join(arguments.set)} {arguments.seeds} seeds, {machine()}\n")
    print(render(found))


if __name__ == "__main__":
    main()
