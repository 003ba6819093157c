"""Shared noise over several seeds: what the released models reach, with standard errors.

Run `python -m simulations.benchmarks.shared SCENARIO [--set KEY=VALUE ...] [--seeds 11-18]
[--folds N] [--quick]`. Each seed divides the records anew and draws new noise. With folds every
record is held out once, and what is shown is the AUC of two classes: of each site over all its
records, each scored by the model that was not trained on it, and then the mean of the sites.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from fedlite import plan as plans
from fedlite.reporting.record import read_summary
from fedlite.scenario import load
from fedlite.tasks.curves import area_under_curve
from simulations.run import check, scenario_path, simulate

Values = NDArray[Any]
BRANCHES = ("deep", "shallow")


def play(name: str, settings: list[str], seed: int, folds: int) -> dict[str, float]:
    """Return the figures of one seed by branch, and bytes sent up, and the processor seconds."""
    scores: dict[str, list[tuple[Values, Values]]] = {}
    found = {"up": 0.0, "cpu": 0.0}
    for fold in range(max(1, folds)):
        chosen = [f"federation.seed={seed}", *([f"data.fold={fold}"] if folds else [])]
        scenario = check(load(scenario_path(name), [*settings, *chosen]))
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            simulate(scenario, Path(folder), engine="serial", quiet=True)
            found["cpu"] += time.process_time() - began
            summary = read_summary(Path(folder))
            tensors = load_file(Path(folder) / "model.safetensors")
        found["up"] += summary["bytes"]["up"]
        if not folds:
            return found | {branch: float(summary["accuracy"][branch]) for branch in BRANCHES}
        plan, _, sites = plans.simulated(scenario)
        model = plan.model()
        model.load_state_dict(tensors, strict=False)
        for site in sites:
            with torch.no_grad():
                exit_, tail = model(model.prepare(torch.from_numpy(site.test.x)))
            margins = np.stack([out[:, 1] - out[:, 0] for out in (tail, exit_)], axis=1)
            scores.setdefault(site.name, []).append((margins, site.test.y))
    for at, branch in enumerate(BRANCHES):
        areas = []
        for parts in scores.values():
            margins, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
            areas.append(area_under_curve(margins[:, at], labels))
        found[branch] = float(np.mean(areas))
    return found


def main() -> None:
    """Play all seeds and print them."""
    parser = argparse.ArgumentParser(description="shared noise over several seeds")
    parser.add_argument("scenario")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seeds", default="11-18", help="FIRST-LAST")
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="the first two seeds, two rounds")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    seeds = list(range(int(first), int(last or first) + 1))
    if options.quick:
        seeds, options.settings = seeds[:2], [*options.settings, "federation.rounds=2"]
    rows = []
    for seed in seeds:
        rows.append(play(options.scenario, options.settings, seed, options.folds))
        told = ", ".join(f"{key} {value:.4f}" for key, value in rows[-1].items())
        print(f"seed {seed}: {told}", flush=True)
    for key in rows[0]:
        values = [row[key] for row in rows]
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        print(f"{key}: {np.mean(values):.4f} ({error:.4f})")


if __name__ == "__main__":
    main()
