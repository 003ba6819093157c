"""A question for figures, held against the site's own table before its operator is asked."""

from __future__ import annotations

from fedlite.compression.frame import HEADER_BYTES
from fedlite.data import Source
from fedlite.guard.policy import SitePolicy
from fedlite.protection import sharing_of
from fedlite.questions import check_columns
from fedlite.scenario import Scenario
from fedlite.secure.masks import packed_bytes


def figures_beyond(policy: SitePolicy, scenario: Scenario, source: Source) -> list[str]:
    """Return what of a question is beyond `site.toml`.

    Raises ScenarioError where the site's table has other columns, or is read by other ranges.
    """
    check_columns(scenario, source)
    mechanism = sharing_of(scenario)
    if mechanism is None:
        return []
    # What hides the secret's shares, too, at the most: 16 bytes a member.
    masked = packed_bytes(mechanism.coordinates, mechanism.bits) + 16 * mechanism.sites
    size = HEADER_BYTES + masked + 1024
    if size <= policy.limits.up:
        return []
    return [f"limits.up: {policy.limits.up:,} is below the {size:,} bytes of the answer; raise it"]
