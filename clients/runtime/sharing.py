"""With whom a site would share its noise: what its operator sees of it, and why it may not be.

The keys are those that sign the others' ledgers. Whoever approves compares them with what the
others' operators tell by another way: a server can invent sites, and their keys.
"""

from __future__ import annotations

from pathlib import Path

from fedlite.guard.guardian import sharing_of
from fedlite.guard.policy import SitePolicy, for_data
from fedlite.guard.trust import beyond_trust
from fedlite.identity import keys
from fedlite.privacy import SharedMechanism, accounting
from fedlite.privacy.mechanism import MAX_SLACK
from fedlite.reporting import wording
from fedlite.scenario import Scenario


def sharing(
    home: Path, policy: SitePolicy, scenario: Scenario
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return titles and texts for people, and what is beyond `site.toml`.

    Nothing where no noise is shared. Raises ValueError where the plan leaves something open,
    OSError where the site has no key.
    """
    mechanism = sharing_of(scenario)
    if mechanism is None:
        return [], []
    own = keys.public_hex(keys.load(home / "keys" / "ledger.pem"))
    refused = beyond_trust(policy, scenario, own)
    facts = [
        ("shares noise with" * (not at), f"{name}{' (this site)' * (name == policy.site)}: {key}")
        for at, (name, key) in enumerate(sorted(scenario.members.items()))
    ]
    facts += _figures(mechanism, policy, scenario)
    refused += _too_high(mechanism, for_data(policy, scenario.data.name))
    alone = accounting.seen_with(mechanism, 1, scenario.privacy.delta)
    ceiling = for_data(policy, scenario.data.name).collusion
    if scenario.claims_privacy and alone > ceiling:
        refused.append(
            f"budget.alone: {ceiling:g} is below what is left if all others collude with the "
            f"server, epsilon {wording.epsilon(alone, 3)}; ask for a plan with less, or allow that "
            "much"
        )
    return facts, refused


def _too_high(mechanism: SharedMechanism, policy: SitePolicy) -> list[str]:
    """Return that a ceiling is so high that what rounding costs of delta is not kept for it."""
    most = MAX_SLACK * policy.delta
    if mechanism.delta_slack(policy.epsilon) <= most:
        return []
    fits = next(e / 2 for e in range(200, -1, -1) if mechanism.delta_slack(e / 2) <= most)
    return [
        f"budget.epsilon: {policy.epsilon:g} is too high a ceiling for shared noise (rule: what "
        f"rounding at the sites costs grows with e^epsilon, and may be {MAX_SLACK:.0%} of delta); "
        f"lower it to {fits:g} or less, or ask for fewer rounds"
    ]


def _figures(
    mechanism: SharedMechanism, policy: SitePolicy, scenario: Scenario
) -> list[tuple[str, str]]:
    sites, honest, delta = mechanism.sites, mechanism.honest, scenario.privacy.delta

    def loss(carried: int) -> str:
        return wording.epsilon(accounting.seen_with(mechanism, carried, delta), 3)

    others = honest - 1
    held = f"{loss(mechanism.carried)} if at least {honest} of the {sites} are honest"
    fewer = f"{loss(mechanism.carried - 1)} if one fewer is; " if mechanism.carried > 2 else ""
    return [
        (
            "taken for honest",
            f"at least {honest} of {sites}: this site and {others} others, and site.toml trusts "
            f"{policy.honest} (budget.honest); each sum is of at least {mechanism.least}",
        ),
        ("epsilon of this run", f"{held}; {fewer}{loss(1)} if all others collude with the server"),
    ]
