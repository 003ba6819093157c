"""A question for figures, held against the site's own table before its operator is asked."""

from __future__ import annotations

from clients.runtime import payload
from fedlite.compression.frame import HEADER_BYTES
from fedlite.data import Source
from fedlite.guard.policy import SitePolicy
from fedlite.protection import sharing_of
from fedlite.questions import check_columns
from fedlite.scenario import Scenario


def figures_sizes(
    policy: SitePolicy, scenario: Scenario, source: Source
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return what leaves as facts, and what of a question is beyond `site.toml`.

    Raises ScenarioError where the site's table has other columns, or is read by other ranges.
    """
    check_columns(scenario, source)
    mechanism = sharing_of(scenario)
    if mechanism is None:
        return [], []
    body, ledger = payload.masked_body(mechanism), scenario.claims_privacy
    facts = payload.leaves(body, "figures under masks", mechanism, ledger=ledger)
    size = HEADER_BYTES + body + payload.AROUND
    if size <= policy.limits.up:
        return facts, []
    refused = f"limits.up: {policy.limits.up:,} is below the {size:,} bytes of the answer; raise it"
    return facts, [refused]
