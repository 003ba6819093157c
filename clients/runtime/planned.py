"""What the settings of a bundle plan, in lines for the operator who approves it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from clients.runtime import payload
from fedlite.inference import told
from fedlite.inference.calibration import GRID
from fedlite.protection import counting_mechanism
from fedlite.scenario import Scenario, options_of, own_code
from fedlite.scenario.question import columns_of


def plan_facts(
    scenario: Scenario, at_most: Mapping[str, int | float], site: str
) -> list[tuple[str, str]]:
    """Return titles and texts of what a plan does, spends and sends at the site called `site`.

    at_most: what numeric settings may rise to.
    """
    federation, training, privacy = scenario.federation, scenario.training, scenario.privacy
    # Private steps draw each record by itself; the batch size is not used.
    batches = f"batches of {training.batch_size}"
    if privacy.unit == "record":
        batches = f"each record with probability {privacy.sampling_rate:g}"
    work = f"{training.steps} steps" if training.steps else f"{training.epochs} epochs"
    protection = "none: updates leave without noise"
    if scenario.claims_privacy:
        where = f", noise at the {privacy.noise_at}" if privacy.unit == "client" else ""
        if scenario.shared:
            where = ", noise shared with other sites, and only sums over them are seen"
        protection = (
            f"{privacy.unit}{where}: epsilon {privacy.epsilon:g} at delta {privacy.delta:g} over "
            f"all rounds, clip {privacy.clip:g}"
        )
    facts = [
        (
            "rounds",
            f"{federation.rounds}, with {federation.participants} of {federation.sites} sites each",
        ),
        ("training", f"{work} a round, {batches}, on {training.device}"),
        ("data", f"{json.dumps(scenario.data.name)}, {scenario.data.partition}"),
        ("privacy", protection),
        ("metrics", "number of records" if federation.weighting == "records" else "none"),
    ]
    if scenario.statistics.bins:
        facts += _asked(scenario)
    if scenario.inference.calibration:
        facts.append(("counts", _counts(scenario)))
    for key, name in own_code(scenario).items():
        where = ", at the coordinator only" if key == "federation.strategy" else ""
        facts.append(
            ("own code", f"{key}: {name}{where}; options {options_of(scenario, key) or 'none'}")
        )
    if federation.weak_named:
        part = "its shallow branch alone" if site in federation.weak_named else "all of the model"
        facts.append(("this site trains", f"{part} (federation.weak_sites)"))
    if federation.deliver:
        facts.append(("at the end", "the released model is sent to this site"))
    if at_most:
        facts.append(("at most", ", ".join(f"{k} = {v}" for k, v in at_most.items())))
    return facts


def _asked(scenario: Scenario) -> list[tuple[str, str]]:
    """Return what figures are asked for: each column with its range, whatever it is called."""
    asked = scenario.statistics
    columns = columns_of(asked.columns)
    said = (
        f"nothing is trained: once, how many of this site's training records have a value, and in "
        f"which of {asked.bins} bins, and the sum of the values, of each of {len(columns)} "
        f"columns; of at most {asked.most_records:,} records; the coordinator sees the sum over "
        "the sites, with noise"
    )
    ranges = [
        f"{json.dumps(name)} from {low:g} to {high:g}" for name, (low, high) in columns.items()
    ]
    return [("asks for", said), ("columns", ranges[0]), *(("", one) for one in ranges[1:])]


def _counts(scenario: Scenario) -> str:
    """Return what leaves after the last round, where the scenario calibrates."""
    chosen, mechanism = scenario.inference, counting_mechanism(scenario)
    noise = mechanism.noise_multiplier if mechanism else 0.0
    grid = len(told.COARSE if noise else GRID)
    size = told.length(noise, chosen.risk)
    gain = " or rightly where the deep branch is wrong" if chosen.risk == "loss" else ""
    said = (
        f"once, after the last round: how many of about {chosen.calibration:g} of the records that "
        f"are not held out, which are not trained on, leave early at each of {grid} thresholds, "
        f"and how many of them wrongly{gain}; at most "
        f"{payload.in_all(size, ledger=scenario.claims_privacy):,} bytes in all: "
        f"{payload.parts('counts', size, ledger=scenario.claims_privacy)}"
    )
    if not mechanism:
        return f"{said}, without noise"
    return (
        f"{said}, each with noise of {noise:.3g} records; that is epsilon {chosen.epsilon:g} at "
        f"delta {scenario.privacy.delta:g}, beside training's"
    )
