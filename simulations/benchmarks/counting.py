"""What noise on counts costs: how many inputs leave early, with it and without.

`python -m simulations.benchmarks.counting [--quick] [--json FILE]` trains `cnn` on Fashion-MNIST
at twenty sites, without noise, so that what differs is the noise on counts alone. Each site counts
once; the counts are noised many times for each epsilon, and each time a threshold is chosen. It
prints, on the test set, the mean share of inputs that leave early and how often more than alpha is
harmed, for one threshold for all and for each site's own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedlite import plan as plans
from fedlite.evaluation import Trained, open_model
from fedlite.inference import calibration, noisy
from fedlite.inference.counted import site_counts
from fedlite.inference.told import Cells, cells_of, coarser
from fedlite.inference.work import Answered, answered, early, outcome
from fedlite.privacy.counting import mechanism, noised
from fedlite.privacy.noise import Stream
from fedlite.scenario import Scenario, from_dict
from fedlite.training.share import settle_process
from simulations.run import simulate

ALPHAS, EPSILONS, CONFIDENCE, DELTA = (0.005, 0.01, 0.02), (0.5, 1.0, 2.0, 4.0), 0.95, 1e-5
DRAWS = 200


def scenario(*, quick: bool = False) -> Scenario:
    """Return the federation whose model is calibrated."""
    federation: dict[str, Any] = {"name": "counting", "rounds": 10, "sites": 20}
    if quick:
        federation |= {"rounds": 2, "sites": 3}
    return from_dict(
        {
            "federation": federation | {"weighting": "records", "evaluate_every": 0},
            "data": {"name": "digits" if quick else "fashion-mnist", "test_fraction": 0.3},
            "model": {"name": "cnn"},
            "training": {"learning_rate": 0.05, "momentum": 0.9, "schedule": "linear"},
            "inference": {"calibration": 0.3, "alpha": 0.01},
        }
    )


def exact_of(given: Scenario, trained: Trained) -> dict[str, Cells]:
    """Return every site's exact counts."""
    plan, _, sites = plans.simulated(given)
    return {
        site.name: cells_of(site_counts(given, trained, site.calibration, plan.classes))
        for site in sites
        if site.calibration is not None
    }


def rows(
    exact: dict[str, Cells], test: Answered, scores: np.ndarray[Any, Any], draws: int
) -> list[dict[str, Any]]:
    """Return a row for each way, alpha and epsilon; epsilon 0 has no noise, and one draw."""
    found = []
    for kind in ("pooled", "site"):
        for alpha in ALPHAS:
            for epsilon in (0.0, *EPSILONS):
                sigma = mechanism(epsilon, DELTA).noise_multiplier if epsilon else 0.0
                told = []
                for _ in range(draws if epsilon else 1):
                    thresholds = _thresholds(exact, kind, alpha, sigma)
                    told += [outcome(test, early(scores, one)) for one in thresholds]
                found.append(
                    {
                        "threshold": kind,
                        "alpha": alpha,
                        "epsilon": epsilon,
                        "noise": sigma,
                        "early %": 100 * float(np.mean([one["share_shallow"] for one in told])),
                        "harm %": 100 * float(np.mean([one["harm"] for one in told])),
                        "above alpha %": 100 * float(np.mean([o["harm"] > alpha for o in told])),
                        "records": sum(one.total for one in exact.values()),
                    }
                )
    return found


def _thresholds(
    exact: dict[str, Cells], kind: str, alpha: float, sigma: float
) -> list[float | None]:
    how = (kind, alpha, CONFIDENCE)
    choices: dict[str, Any]
    if sigma:
        stream = Stream.fresh()
        cells = {
            name: Cells(noised(coarser(one), sigma, stream), sigma) for name, one in exact.items()
        }
        choices = dict(noisy.by_site(cells, *how))
    else:
        choices = calibration.by_site({n: one.plain() for n, one in exact.items()}, *how)
    every = [choice.threshold for choice in choices.values()]
    return every[:1] if kind == "pooled" else every


def main() -> None:
    """Train, count, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small data set, and few draws")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    chosen = parser.parse_args()
    settle_process()
    given = scenario(quick=chosen.quick)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        simulate(given, out, engine="serial", quiet=True)
        trained = open_model(out)
        exact = exact_of(given, trained)
    _, source, _ = plans.simulated(replace(given))
    if source.test is None:
        raise ValueError(f"{source.name}: must have a test set, by which thresholds are judged")
    test = answered(trained, source.test)
    made = rows(exact, test, test.scores("confidence", {}), 5 if chosen.quick else DRAWS)
    for row in made:
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in row.items()))
    if chosen.json:
        chosen.json.write_text(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
