"""With whom a site would share its noise: what its operator sees of it, and why it may not be.

The keys are those that sign the others' ledgers. Whoever approves compares them with what the
others' operators tell by another way: a server can invent sites, and their keys.
"""

from __future__ import annotations

import json
from pathlib import Path

from fedlite.guard.foretold import in_force
from fedlite.guard.policy import SitePolicy, for_data
from fedlite.guard.trust import beyond_trust
from fedlite.identity import keys
from fedlite.privacy import SharedMechanism, accounting
from fedlite.privacy.budget.policy import Policy
from fedlite.privacy.mechanism import MAX_SLACK
from fedlite.protection import sharing_of
from fedlite.reporting import wording
from fedlite.scenario import Scenario

_GRANT = "the data owner must sign that it may be more again (`fedlite site grant`)"


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
    facts: list[tuple[str, str]] = []
    # The key has a line of its own, and its name is quoted: a name may not pass for a key.
    for name, key in sorted(scenario.members.items()):
        here = " (this site)" * (name == policy.site)
        facts += [("shares noise with" * (not facts), f"{json.dumps(name)}{here}, whose key is")]
        facts += [("", key)]
    _, kept = in_force(scenario, policy, home / "ledgers")
    facts += _figures(mechanism, policy, kept, scenario)
    refused += _too_high(mechanism, for_data(policy, scenario.data.name))
    if policy.trusts(scenario.honest) and not kept.trusts(scenario.honest):
        refused.append(
            f"budget.honest: the ledger keeps {kept.honest} others, lower than site.toml, and the "
            f"plan takes {scenario.honest - 1} for honest; {_GRANT}"
        )
    alone = accounting.seen_with(mechanism, 1, scenario.privacy.delta)
    if scenario.claims_privacy and alone > kept.collusion:
        mine = for_data(policy, scenario.data.name).collusion
        refused.append(
            f"budget.alone: {kept.collusion:g} is below what is left if all others collude with "
            f"the server, epsilon {wording.epsilon(alone, 3)}; ask for a plan with less, or "
            + (_GRANT if mine > kept.collusion else "allow that much")
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
    mechanism: SharedMechanism, policy: SitePolicy, kept: Policy, scenario: Scenario
) -> list[tuple[str, str]]:
    sites, honest, delta = mechanism.sites, mechanism.honest, scenario.privacy.delta
    _, inside, _ = mechanism.summed

    def loss(carried: int) -> str:
        return wording.epsilon(accounting.seen_with(mechanism, carried, delta), 3)

    others = honest - 1
    lower = f", of whom its ledger lets {kept.honest}" if kept.honest < policy.honest else ""
    held = f"{loss(mechanism.carried)} if at least {honest} of the {sites} are honest"
    left = mechanism.hidden_among(max(1, mechanism.carried - 1))
    fewer = f"{loss(left)} if one fewer is; " if left > 1 else ""
    # Of too few each can be singled out, and the figure is that of all others colluding.
    singled = "one fewer is, or " if left == 1 < mechanism.carried - 1 else ""
    rest = f"{loss(1)} if {singled}all others collude with the server"
    return [
        (
            "taken for honest",
            f"at least {honest} of {sites}: this site and {others} others, and site.toml trusts "
            f"{policy.honest} (budget.honest){lower}; each sum is of at least {inside}",
        ),
        *_groups(mechanism, scenario),
        ("epsilon of this run", f"{held}; {fewer}{rest}"),
    ]


def _groups(mechanism: SharedMechanism, scenario: Scenario) -> list[tuple[str, str]]:
    """Return how many sums a round has, and on how few epsilon rests then; nothing of one sum."""
    if mechanism.groups == 1:
        return []
    size, _, true = mechanism.summed
    return [
        (
            "groups",
            f"{mechanism.groups} of {size} in each round, with a sum each, drawn by the seed "
            f"{scenario.federation.seed}, which nobody can change after approval; the figures "
            "below hold whoever is with whom, as if all that may be dishonest were in one group, "
            f"of whose {size} are {true} honest then",
        )
    ]
