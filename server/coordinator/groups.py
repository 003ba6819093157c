"""Which sites a run is for: names, or a group of them that the coordinator keeps.

A group is a word beside a site's name in `COORD/sites.json`, given at its approval or later. Whom
`federation.members` means is settled when a run is submitted, and stays so when it is resumed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fedlite.deployment.journal import Journal
from fedlite.identity.names import member_problem
from fedlite.scenario import Scenario, with_values
from fedlite.scenario.keys import Federation
from fedlite.scenario.members import text_of
from server.coordinator.enrolment import AUDIT, SITES, Folder, Site, load, locked, save

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check(groups: tuple[str, ...]) -> tuple[str, ...]:
    """Return the groups, each once and in order; raises ValueError for what cannot be one."""
    for group in groups:
        if not _NAME.fullmatch(group):
            raise ValueError(
                f"group: must be 1 to 64 letters, digits and . _ -, got {group[:100]!r}; it is "
                "written without the @ of federation.members"
            )
    return tuple(sorted(set(groups)))


def set_groups(coordinator: Folder, name: str, groups: tuple[str, ...]) -> Site:
    """Put an approved site into these groups and no others; runs under way keep their members.

    Raises ValueError for an unknown site or a wrong group.
    """
    folder, wanted = coordinator.path, check(groups)
    with locked(folder):
        sites = load(folder)
        if name not in sites:
            raise ValueError(f"{folder / SITES}: has no site {name!r}; those there: {_said(sites)}")
        site = replace(sites[name], groups=wanted)
        if site != sites[name]:
            save(folder, sites | {name: site})
            Journal(folder / AUDIT).write("group", site=name, groups=", ".join(wanted))
    return site


def members(folder: Path, federation: Federation) -> tuple[str, ...]:
    """Return the names of the approved sites that `federation.members` means now; () when empty.

    Raises ValueError, with the known ones, for a name or group that there is not, and where fewer
    sites are meant than the quorum.
    """
    text = federation.members
    if not text:
        return ()
    sites = {name: site for name, site in load(folder).items() if not site.revoked}
    if federation.group:
        known = sorted({group for site in sites.values() for group in site.groups})
        found = [name for name, site in sites.items() if federation.group in site.groups]
        if not found:
            raise ValueError(
                f"federation.members: must be a group of approved sites, got {text!r}; those here: "
                f"{', '.join(known) or 'none yet'}; give one with fedlite server group SITE GROUP"
            )
    else:
        found = list(federation.named)
        if unknown := [name for name in found if name not in sites]:
            raise ValueError(
                f"federation.members: must be approved sites, got {', '.join(unknown)}; those "
                f"here: {_said(sites)}"
            )
    if len(found) < federation.quorum:
        raise ValueError(
            f"federation.quorum: must be at most the {len(found)} sites of federation.members, got "
            f"{federation.quorum}; lower it, or put more sites into the group"
        )
    return tuple(sorted(found))


def settle(folder: Path, scenario: Scenario) -> Scenario:
    """Return the scenario with `privacy.members` settled, where noise is shared.

    They are the approved sites that `federation.members` means, or all; each by its ledger key.
    Raises ValueError where they are not as many as `federation.sites`, or other members are named.
    """
    if not scenario.shared:
        return scenario
    sites = {name: site for name, site in load(folder).items() if not site.revoked}
    chosen = members(folder, scenario.federation) or tuple(sorted(sites))
    known = {name: sites[name].ledger_key for name in chosen}
    if len(known) != scenario.federation.sites:
        raise ValueError(
            "federation.sites: must be as many as share the noise (rule: how much each adds "
            f"depends on it), got {scenario.federation.sites}, and the approved ones are "
            f"{_said({name: sites[name] for name in chosen})}; set federation.sites to "
            f"{len(known)}, or name them in federation.members"
        )
    folded = [name.casefold() for name in known]
    for name in known:
        problem = member_problem(name)
        if problem or folded.count(name.casefold()) > 1:
            raise ValueError(
                f"privacy.members: a name {problem or f'must differ from others, got {name!r}'} "
                "(rule: people compare keys by names that no other passes for); the site takes "
                "another name by `fedlite site init` and enrols anew"
            )
    if scenario.members not in ({}, known):
        raise ValueError(
            "privacy.members: must be the approved sites and their keys, got others; leave it out"
        )
    return with_values(scenario, "privacy", members=text_of(known))


def check_weak(folder: Path, federation: Federation, members: tuple[str, ...]) -> None:
    """Raise ValueError where `federation.weak_sites` names a site that cannot take part.

    members: as of `members`. Of a name that is misspelt nobody would notice that its site, which
    goes by another, trains the whole model.
    """
    if not federation.weak_named:
        return
    sites = {name: site for name, site in load(folder).items() if not site.revoked}
    there = [name for name in sites if not members or name in members]
    if unknown := [name for name in federation.weak_named if name not in there]:
        raise ValueError(
            f"federation.weak_sites: must be approved sites{' of the run' * bool(members)}, got "
            f"{', '.join(unknown)}; those here: {', '.join(sorted(there)) or 'none yet'}"
        )
    if not set(there) - set(federation.weak_named):
        raise ValueError(
            "federation.weak_sites: must leave a site that trains the whole model (rule: a tail "
            f"that no site trains never moves), got all {len(there)}; leave one out"
        )


def _said(sites: Mapping[str, Site]) -> str:
    return ", ".join(sorted(sites)) or "none yet"
