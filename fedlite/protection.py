"""What protects an update, from public settings alone: its mechanism, its unit, steps a round.

Needs no torch, so that a site's own process, which trains nothing, can hold a run to it without
taking the word of the code that trains.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from fedlite.compression import Context
from fedlite.compression.support import Support, common_support, support_size
from fedlite.parameters import Layout
from fedlite.privacy import (
    ClientMechanism,
    Mechanism,
    RecordMechanism,
    SharedMechanism,
    accounting,
    counting,
)
from fedlite.privacy.budget import plan_unit
from fedlite.privacy.checks import MAX_SLACK
from fedlite.privacy.ranges import figures_size
from fedlite.scenario import Privacy, Scenario, with_values
from fedlite.scenario.densities import of_tensors
from fedlite.scenario.question import columns_of
from fedlite.scenario.tabular import names
from fedlite.secure.masks import MOST_BITS


def unit_of(scenario: Scenario, mechanism: Mechanism | None) -> str:
    """Return what protects an update, as ledgers name it; "none" where nothing is claimed."""
    if mechanism is None or not scenario.claims_privacy:
        return "none"
    return plan_unit(mechanism)


def round_steps(scenario: Scenario) -> int:
    """Return the mechanism's releases in one round: DP-SGD steps, or one update."""
    return scenario.training.steps if scenario.privacy.unit == "record" else 1


def settle_batch(scenario: Scenario, records: int) -> Scenario:
    """Return the scenario with `privacy.expected_batch` settled for a source of `records` records.

    The size of a named source is public, and so is the number of sites: their quotient tells
    nothing of how many records one site holds. A value that was set is left as it is.
    """
    if scenario.privacy.unit != "record" or scenario.privacy.expected_batch:
        return scenario
    kept = records * (1.0 - scenario.data.test_fraction)
    batch = round(scenario.privacy.sampling_rate * kept / scenario.federation.sites)
    return with_values(scenario, "privacy", expected_batch=max(1, batch))


def densities(scenario: Scenario, layout: Layout) -> tuple[float, ...]:
    """Return how densely each tensor is summed, where noise is shared.

    Raises ValueError where `uplink.densities` names no tensor of the layout.
    """
    link = scenario.uplink
    whole = 1.0 if link.compressor == "dense" else link.density
    try:
        return of_tensors(layout.names, link.densities, whole)
    except ValueError as error:
        raise ValueError(f"uplink.{error}") from None


def summed(scenario: Scenario, layout: Layout) -> int:
    """Return how many coordinates a round sums, where noise is shared; else 0."""
    if scenario.statistics.bins:
        return scenario.privacy.coordinates
    return support_size(layout.sizes, densities(scenario, layout)) if scenario.shared else 0


def settle_coordinates(scenario: Scenario, layout: Layout) -> Scenario:
    """Return the scenario with `privacy.coordinates` settled, where noise is shared.

    Raises ValueError where it says otherwise than the model: a ledger would hold what is not true.
    """
    known, said = summed(scenario, layout), scenario.privacy.coordinates
    if said not in (0, known):
        raise ValueError(
            f"privacy.coordinates: must be the {known} values that a round of this model sums, got "
            f"{said}; leave it out"
        )
    return with_values(scenario, "privacy", coordinates=known) if known != said else scenario


def check_turns(scenario: Scenario, turns: int) -> None:
    """Raise ValueError where noise is shared and a model's tensors take turns."""
    if turns and scenario.shared:
        raise ValueError(
            "privacy.noise_at: must be site where a model's tensors move in turns (rule: a shared "
            f"sum is of all of them), got 'shared' with {turns} turns; take a method that moves "
            "all values"
        )


def support_of(scenario: Scenario, layout: Layout, round_number: int) -> Support:
    """Return which coordinates the sum of a round (from 1) is of, where noise is shared."""
    seed = scenario.federation.seed.to_bytes(8, "little")
    context = Context(seed + round_number.to_bytes(4, "little"))
    return common_support(layout.sizes, densities(scenario, layout), context)


def plan_mechanism(scenario: Scenario, layout: Layout | None = None) -> Mechanism:
    """Return the mechanism that spends `privacy.epsilon` over all planned rounds, by PLD.

    A site and its server compute it from the same public settings and get the same numbers. The
    plan assumes that a site takes part in every round; taking part in fewer costs less.

    layout: of the model, by which shared noise knows how many coordinates a sum has; without it
    `privacy.coordinates` says so, as at a site's own process, which holds no model.

    Raises ValueError when `privacy.expected_batch` has not been settled, no noise keeps the
    epsilon, or rounding at the sites costs more of `privacy.delta` than is kept for it (but for
    figures of which nothing is claimed).
    """
    privacy, rounds = scenario.privacy, scenario.federation.rounds
    if privacy.unit == "client" and not scenario.shared:
        return ClientMechanism(
            clip=privacy.clip,
            noise_multiplier=_noise(privacy, 1.0, rounds),
            steps=rounds,
            at="server" if privacy.noise_at == "server" else "site",
        )
    if privacy.unit == "record" and privacy.expected_batch < 1:
        raise ValueError(
            "privacy.expected_batch: must be at least 1 before training starts, got "
            f"{privacy.expected_batch}; set it to about sampling_rate x records per site, the same "
            "public number for every site"
        )
    if scenario.shared:
        coordinates = summed(scenario, layout) if layout else privacy.coordinates
        if not coordinates:
            raise ValueError(
                "privacy.coordinates: must be settled by the coordinator (rule: what rounding "
                "costs depends on how many values a round sums), got 0; submit with `fedlite "
                "server submit`"
            )
        length = _answer_length(scenario, coordinates) if scenario.statistics.bins else 0.0
        # What rounding at the sites costs is kept back from delta.
        kept = replace(privacy, delta=privacy.delta * (1.0 - MAX_SLACK))
        shared = SharedMechanism(
            clip=privacy.clip,
            noise_multiplier=_noise(kept, privacy.sampling_rate, rounds),
            sampling_rate=privacy.sampling_rate,
            steps=rounds,
            expected_batch=privacy.expected_batch,
            coordinates=coordinates,
            sites=scenario.federation.sites,
            least=scenario.federation.quorum,
            honest=scenario.honest,
            unit="client" if privacy.unit == "client" else "record",
            groups=privacy.groups,
            split=scenario.federation.seed if privacy.groups > 1 else 0,
            reach=scenario.statistics.most_records / length if length else 0.0,
        )
        if shared.bits > MOST_BITS:
            raise ValueError(
                f"statistics.most_records: must be so few that sums fit into {MOST_BITS} bits, got "
                f"{scenario.statistics.most_records:,}, which needs {shared.bits}; lower it, or "
                "privacy.epsilon"
            )
        # Figures whose noise can be repeated claim nothing; what trains keeps to it all the same.
        if scenario.claims_privacy or not scenario.statistics.bins:
            try:
                accounting.check_rounding(shared, privacy.epsilon, privacy.delta)
            except ValueError as error:
                raise ValueError(f"privacy.{error}") from None
        return shared
    steps = rounds * scenario.training.steps
    caps = {"max_batch": privacy.max_batch, "max_records": privacy.max_records}
    return RecordMechanism(
        clip=privacy.clip,
        noise_multiplier=_noise(privacy, privacy.sampling_rate, steps, **caps),
        sampling_rate=privacy.sampling_rate,
        steps=steps,
        expected_batch=privacy.expected_batch,
        **caps,
    )


def sharing_of(scenario: Scenario) -> SharedMechanism | None:
    """Return what protects a run whose noise is shared, as a site's own process knows it.

    Raises ValueError where the plan leaves something open.
    """
    mechanism = plan_mechanism(scenario) if scenario.shared else None
    return mechanism if isinstance(mechanism, SharedMechanism) else None


# What makes no other question of the same figures; all keys where none is named.
_NO_QUESTION = {
    "simulation": (),
    "network": (),
    "federation": ("members", "name", "deadline_seconds"),
    "data": (
        *("path", "partition_file", "columns", "drop", "categories", "ranges"),
        *("scaling", "shape", "length", "alpha", "shards"),
    ),
}


def question_run(scenario: Scenario) -> str:
    """Return the only name that a run may have which asks for these figures, 16 hex digits.

    A ledger has one plan a run, and a plan one sum: so a question is answered once, and no second
    answer, with other noise, stands beside the first. What a bundle leaves out does not count, nor
    how a run is called, where a table lies, and what of its settings no figure depends on: the
    columns and their ranges count as they were read.
    """
    tables = scenario.to_dict()
    for table, keys in _NO_QUESTION.items():
        for key in keys or tuple(tables[table]):
            del tables[table][key]
    data = tables["data"]
    for name in ("labels", "missing"):
        data[name] = json.dumps(sorted(names(str(data[name]))))
    text = json.dumps(tables, sort_keys=True)
    return hashlib.sha256(b"fedlite question 2\0" + text.encode()).hexdigest()[:16]


def _answer_length(scenario: Scenario, coordinates: int) -> float:
    """Return how long one record's vector is at most, where figures are asked for.

    Raises ValueError where the plan's numbers are not those of the columns that it names: they are
    what a site's own process, which reads no table, charges by.
    """
    columns, bins = len(columns_of(scenario.statistics.columns)), scenario.statistics.bins
    values, length = figures_size(columns, bins)
    if (coordinates, scenario.privacy.clip) != (values, length):
        raise ValueError(
            f"privacy.clip: must be {length!r}, and privacy.coordinates {values}, for figures of "
            f"{columns} columns in {bins} bins (rule: one record moves each column by two values "
            f"of 1 at most), got {scenario.privacy.clip!r} and {coordinates}"
        )
    return length


def counting_mechanism(scenario: Scenario) -> RecordMechanism | None:
    """Return what protects the counts that a site tells after the last round; None where nothing.

    By itself it costs `inference.epsilon` at `privacy.delta`. Raises ValueError when no noise does.
    """
    if not (scenario.private and scenario.inference.epsilon):
        return None
    try:
        return counting.mechanism(scenario.inference.epsilon, scenario.privacy.delta)
    except ValueError as error:
        raise ValueError(f"inference.{error}") from None


def _noise(privacy: Privacy, rate: float, steps: int, **caps: int) -> float:
    try:
        return accounting.calibrate(privacy.epsilon, privacy.delta, rate, steps, **caps)
    except ValueError as error:
        raise ValueError(f"privacy.{error}") from None
