"""What has to hold of a run that asks for figures of tables in the place of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedlite.scenario.whole import Scenario

# What a question is, whatever its scenario trains: one sum of private answers, and nothing beside.
_EXACT = {
    ("federation", "rounds"): 1,
    ("federation", "strategy"): "fedavg",
    ("federation", "deliver"): False,
    ("training", "steps"): 1,
    ("training", "objective"): "plain",
    ("model", "name"): "linear",
    ("model", "start"): "",
    ("uplink", "compressor"): "dense",
    ("downlink", "compressor"): "dense",
    ("privacy", "unit"): "record",
    ("privacy", "noise_at"): "shared",
    ("privacy", "sampling_rate"): 1.0,
    ("privacy", "expected_batch"): 1,
    ("privacy", "groups"): 1,
    ("inference", "calibration"): 0.0,
}


def broken(scenario: Scenario) -> list[str]:
    """Return a line for each rule that is broken; nothing where training is what is asked for."""
    asked = scenario.statistics
    if not asked.bins:
        if asked.columns:
            return [
                "statistics.columns: must be empty where statistics.bins is 0 (rule: training asks "
                f"for no figures), got {asked.columns!r:.80}; leave it out"
            ]
        return []
    if not asked.columns:
        return [
            "statistics.columns: must name the columns and their public ranges where "
            "statistics.bins is set, got ''; ask by `fedlite stats` or `fedlite server stats`, "
            "which settle it"
        ]
    wrong = []
    for (table, key), value in _EXACT.items():
        said = getattr(getattr(scenario, table), key)
        if said != value:
            wrong.append(
                f"{table}.{key}: must be {value!r} where statistics.bins is set (rule: a question "
                f"is one sum of noised answers, and nothing is trained), got {said!r:.80}"
            )
    return wrong
