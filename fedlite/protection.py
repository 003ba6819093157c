"""What protects an update, from public settings alone: its mechanism, its unit, steps a round.

Needs no torch, so that a site's own process, which trains nothing, can hold a run to it without
taking the word of the code that trains.
"""

from __future__ import annotations

from fedlite.privacy import ClientMechanism, Mechanism, RecordMechanism, accounting, counting
from fedlite.privacy.budget import plan_unit
from fedlite.scenario import Privacy, Scenario, with_values


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


def plan_mechanism(scenario: Scenario) -> Mechanism:
    """Return the mechanism that spends `privacy.epsilon` over all planned rounds, by PLD.

    A site and its server compute it from the same public settings and get the same numbers. The
    plan assumes that a site takes part in every round; taking part in fewer costs less.

    Raises ValueError when `privacy.expected_batch` has not been settled.
    """
    privacy, rounds = scenario.privacy, scenario.federation.rounds
    if privacy.unit == "client":
        return ClientMechanism(
            clip=privacy.clip,
            noise_multiplier=_noise(privacy, 1.0, rounds),
            steps=rounds,
            at="server" if privacy.noise_at == "server" else "site",
        )
    if privacy.expected_batch < 1:
        raise ValueError(
            "privacy.expected_batch: must be at least 1 before training starts, got "
            f"{privacy.expected_batch}; set it to about sampling_rate x records per site, the same "
            "public number for every site"
        )
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
