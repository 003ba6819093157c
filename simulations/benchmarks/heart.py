"""The heart scenario against its hospitals: cross-validated AUC, and how often each way wins.

Run `python -m simulations.benchmarks.heart [--quick] [--json FILE]`. A repeat divides the records
into folds anew and draws new noise; differences are paired within a repeat.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fedlite.reporting.progress import Progress
from fedlite.scenario import Scenario, load
from simulations.baselines import ALONE, COMMONEST, FEDERATED_CLEAR, POOLED, federated_name
from simulations.comparison import Comparison, as_summary, compare
from simulations.run import check, scenario_path

REPEATS, QUICK_REPEATS, QUICK_TEST_FRACTION = 4, 1, 0.5


def rows_of(scenario: Scenario, found: Comparison) -> list[dict[str, Any]]:
    """Return one row a way to train, a metric and a site, and the paired differences, as data."""
    summary = as_summary(scenario, found)
    about = {"scenario": scenario.federation.name, "repeats": summary["repeats"]}
    about |= {"folds": summary["folds"], "unit": "share"}
    rows = [
        {**about, "what": row["name"], "metric": summary["metric"], "site": site, "value": value}
        for row in summary["rows"]
        for site, value in (*row["by_site"].items(), ("mean", row["mean"]))
    ]
    rows += [
        {**about, "what": way, "metric": "accuracy", "site": site, "value": value}
        for way, by_site in summary["accuracy"].items()
        for site, value in by_site.items()
    ]
    rows += [
        {**about, "what": f"{one} minus {other}", "metric": summary["metric"], **difference}
        for one, other in pairs(scenario)
        for difference in differences(found, one, other)
    ]
    return rows


def pairs(scenario: Scenario) -> list[tuple[str, str]]:
    """Return the ways to train whose paired difference is of interest."""
    name = federated_name(scenario)
    alone = f"alone, epsilon {scenario.privacy.epsilon:g}"
    return [
        (name, ALONE),
        (f"{name} + home head", ALONE),
        (name, alone),
        (name, FEDERATED_CLEAR),
        (POOLED, ALONE),
    ]


def differences(found: Comparison, one: str, other: str) -> list[dict[str, Any]]:
    """Return the paired difference at each site and in the mean, and the share of repeats won."""
    paired = found.by_site(one) - found.by_site(other)
    columns = [*paired.T, paired.mean(axis=1)]
    return [
        {
            "site": site,
            "value": float(np.mean(column)),
            "sd": float(np.std(column, ddof=1)) if len(column) > 1 else None,
            "won": float(np.mean(column > 0)),
        }
        for site, column in zip((*found.sites, "mean"), columns, strict=True)
    ]


def print_tables(scenario: Scenario, found: Comparison) -> None:
    """Print AUC, accuracy and paired differences for a person."""
    summary = as_summary(scenario, found)
    head = [*found.sites, "mean"]
    print(f"{summary['repeats']} repeats x {summary['folds']} folds\n")
    _line(f"{summary['metric']}, all records, out of fold", head)
    for row in summary["rows"]:
        values = [*row["by_site"].values(), row["mean"]]
        _line(row["name"], [f"{value:.3f}" for value in values])
    print()
    for title, key, ways in (
        (f"{summary['metric']}, mean of the folds' own", "mean_of_folds", found.ways),
        ("accuracy", "accuracy", (*found.ways, COMMONEST)),
    ):
        _line(title, head)
        for way in ways:
            values = list(summary[key][way].values())
            _line(way, [f"{value:.3f}" for value in (*values, float(np.mean(values)))])
        print()
    _line("paired difference in points (repeats won)", head)
    for one, other in pairs(scenario):
        cells = [
            f"{100 * d['value']:+.1f} ({d['won']:.0%})" for d in differences(found, one, other)
        ]
        _line(f"{one} - {other}", cells)
    print(f"\n{summary['note']}")


def _line(name: str, cells: list[str]) -> None:
    print(f"{name:60s}" + "".join(f"{cell:>15s}" for cell in cells))


def main() -> None:
    """Run the comparisons and print them."""
    parser = argparse.ArgumentParser(description="the heart scenario against its hospitals")
    parser.add_argument("--quick", action="store_true", help="one repeat of two folds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as JSON")
    options = parser.parse_args()
    overrides = [f"data.test_fraction={QUICK_TEST_FRACTION}"] if options.quick else []
    scenario = check(load(scenario_path("heart"), overrides))
    repeats = QUICK_REPEATS if options.quick else REPEATS
    with Progress(repeats, None, stream=sys.stderr) as progress:
        found = compare(scenario, repeats, progress.status)
    print_tables(scenario, found)
    if options.json:
        options.json.write_text(json.dumps(rows_of(scenario, found), indent=2) + "\n")


if __name__ == "__main__":
    main()
