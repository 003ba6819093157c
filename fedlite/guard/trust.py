"""With whom a site may share its noise: the plan's members held against its policy and its key.

All of it is public and in the approved bundle, so it is known before a key is made or anything is
spent.
"""

from __future__ import annotations

from fedlite.guard.policy import SitePolicy
from fedlite.scenario import Scenario


def beyond_trust(policy: SitePolicy, scenario: Scenario, key: str) -> list[str]:
    """Return why the site shares no noise by this plan, a line for each rule; nothing if it may.

    key: the site's own public ledger key, 64 hex digits.
    """
    if not scenario.shared:
        return []
    members, found = scenario.members, []
    if not members:
        found.append(
            "privacy.members: must name those who share the noise, and their keys (rule: people "
            "approve them), got none; ask for a bundle by `fedlite server submit`"
        )
    elif policy.site not in members:
        found.append(
            f"privacy.members: must hold this site, {policy.site!r}, got {', '.join(members)}"
        )
    elif members[policy.site] != key:
        found.append(
            f"privacy.members: has the key {members[policy.site][:16]}... for this site, whose own "
            f"is {key[:16]}...; whoever holds that key would be it: ask the coordinator"
        )
    if not policy.trusts(scenario.honest):
        found.append(
            f"budget.honest: trusts {policy.honest} others, and the plan takes "
            f"{scenario.honest - 1} for honest (privacy.honest {scenario.honest} of "
            f"{scenario.federation.sites}, this site among them); ask for a plan that counts on "
            "fewer, or trust more"
        )
    return found
