"""Shared noise in groups: what a median over their sums withstands, and what the groups cost.

`python -m simulations.benchmarks.groups` trains `quickstart-distributed` at 15 sites (20 where two
are hostile), each row with as many hostile sites as it takes for dishonest (`privacy.honest`), and
prints the accuracy of the deep branch in %: the mean of the seeds and its standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fedlite import plan as plans
from fedlite.reporting.record import read_summary
from fedlite.scenario import load
from server.summary import machine
from simulations.attackers import ATTACKS, hostile
from simulations.run import check, scenario_path, simulate

NONE = "none"
CHOSEN = (NONE, "sign-flip", "long-sign-flip", "inner-product", "alie")


@dataclass(frozen=True)
class Row:
    """A federation. hostile: how many of its sites are, and how many it takes to be dishonest."""

    sites: int
    hostile: int
    groups: int
    strategy: str
    rate: float

    @property
    def settings(self) -> list[str]:
        """What it sets."""
        return [
            f"federation.sites={self.sites}",
            f"federation.quorum={self.sites}",
            f"federation.strategy={self.strategy}",
            f"privacy.honest={self.sites - self.hostile}",
            f"privacy.groups={self.groups}",
            f"training.learning_rate={self.rate}",
        ]


ROWS = (
    Row(15, 1, 1, "fedavg", 36.0),
    Row(15, 1, 3, "fedavg", 24.0),
    Row(15, 1, 3, "median", 24.0),
    Row(15, 2, 5, "median", 12.0),
    Row(20, 2, 5, "fedavg", 24.0),
    Row(20, 2, 5, "median", 24.0),
)


def play(row: Row, attack: str, seed: int, settings: list[str]) -> dict[str, float]:
    """Return accuracy of both branches of one run, and of how many sites the noise is planned."""
    chosen = [*row.settings, f"federation.seed={seed}", "federation.evaluate_every=0", *settings]
    scenario = check(load(scenario_path("quickstart-distributed"), chosen))
    names = sorted(site.name for site in plans.simulated(scenario)[2])[-row.hostile :]
    attackers = nullcontext() if attack == NONE else hostile(ATTACKS[attack], names)
    with attackers, tempfile.TemporaryDirectory() as folder:
        simulate(scenario, Path(folder), engine="serial", quiet=True)
        summary = read_summary(Path(folder))
    shared = summary["privacy"]["shared"]
    return {
        "deep": 100 * float(summary["accuracy"]["deep"]),
        "noise_of": float(shared["noise_of"]),
        "alone": float(shared["alone"]),
    }


def main() -> None:
    """Play all rows under all attacks and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--attacks", nargs="+", choices=(NONE, *ATTACKS), default=CHOSEN)
    parser.add_argument("--seeds", default="11-13", help="FIRST-LAST")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="one seed, two rounds, one attack")
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    seeds = list(range(int(first), int(last or first) + 1))
    chosen, settings = list(arguments.attacks), list(arguments.set)
    if arguments.quick:
        seeds, chosen, settings = seeds[:1], ["sign-flip"], [*settings, "federation.rounds=2"]
    figures: list[dict[str, Any]] = []
    for row in ROWS:
        for attack in chosen:
            found = [play(row, attack, seed, settings) for seed in seeds]
            deep = [one["deep"] for one in found]
            error = stdev(deep) / math.sqrt(len(deep)) if len(deep) > 1 else 0.0
            told = {**vars(row), "attack": attack, "seeds": len(seeds), "deep": mean(deep)}
            told |= {"error": error, "noise_of": found[0]["noise_of"], "alone": found[0]["alone"]}
            figures.append(told)
            print(
                f"{row.sites} sites, {row.hostile} hostile, {row.groups} groups, {row.strategy}, "
                f"rate {row.rate:g}, noise of {told['noise_of']:g}, alone {told['alone']:.2f}, "
                f"{attack}: {told['deep']:.1f} ({error:.1f})",
                flush=True,
            )
    print(f"\n{' '.join(settings)} {len(seeds)} seeds, {machine()}")
    if arguments.json:
        rows = [
            {
                "what": "shared noise in groups, with hostile sites",
                "parameters": {"set": settings, "seeds": seeds},
                "units": {"deep": "%", "error": "%", "alone": "epsilon"},
                "figures": one,
            }
            for one in figures
        ]
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
