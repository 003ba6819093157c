"""How large a plan's model and messages are, held against the limits of `site.toml`."""

from __future__ import annotations

import json
from pathlib import Path

from clients.runtime import payload
from clients.runtime.figures import figures_sizes
from clients.runtime.reads import reads
from fedlite.compression.frame import HEADER_BYTES
from fedlite.guard.policy import SitePolicy
from fedlite.privacy import SharedMechanism
from fedlite.scenario import Scenario


def sizes(
    home: Path, policy: SitePolicy, scenario: Scenario
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return what is read, the model's size and a round's bytes; and what is over the limits."""
    from fedlite import depth, plan as plans
    from fedlite.guard.records import own_source

    chosen = policy.data_set(scenario.data.name)
    if chosen is None:
        return [], []
    # As for training: another model than that which trains has other limits.
    source, _ = own_source(scenario, chosen, home)
    if scenario.statistics.bins:
        return figures_sizes(policy, scenario, source)
    all_of_it, name = plans.of(scenario, source.shape, source.classes), scenario.model.name
    plan = depth.plan_of(all_of_it, policy.site)
    trained = f"{plan.layout.size:,}"
    if plan is not all_of_it:
        trained += f" of {all_of_it.layout.size:,}"
    body, how = plan.up_limit, scenario.uplink.compressor
    if isinstance(plan.mechanism, SharedMechanism):
        body, how = payload.masked_body(plan.mechanism), f"{how}, under masks"
    up, down = HEADER_BYTES + body, HEADER_BYTES + plan.down_limit
    # What is delivered at the end is all of the model.
    whole_comes = scenario.federation.deliver or scenario.inference.calibration
    largest = all_of_it if whole_comes else plan
    whole = HEADER_BYTES + 4 * largest.travelling.size
    facts = [
        *reads(scenario, chosen, source),
        ("model", f"{json.dumps(name)}, {trained} parameters"),
        *payload.leaves(body, how, plan.mechanism, ledger=scenario.claims_privacy),
        ("comes in", f"frames of at most {down:,} bytes, of the whole model {whole:,}"),
    ]
    limits, around = policy.limits, payload.AROUND
    refused = [
        f"limits.{key}: {most:,} is below the {size + around:,} bytes of a message; raise it"
        for key, most, size in (("up", limits.up, up), ("down", limits.down, max(down, whole)))
        if size + around > most
    ]
    return facts, refused
