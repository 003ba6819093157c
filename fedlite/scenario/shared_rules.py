"""What has to hold so that noise which the sites share may be claimed; each rule with its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedlite.privacy.ranges import LEAST_MEMBERS, worst_group

if TYPE_CHECKING:
    from fedlite.scenario.whole import Scenario

MOST_SITES = 100
# Rules that step along a sum as they would along any mean.
_OF_MEANS = ("fedavg", "fedadam", "fedyogi", "fedadagrad")
# Rules that judge updates, and so may judge the sums of groups.
_OF_GROUPS = (
    "median",
    "trimmed-mean",
    "geometric-median",
    "krum",
    "multi-krum",
    "norm-bound",
)
_LINEAR = ("randk", "dense")


def broken(scenario: Scenario) -> list[str]:
    """Return a line for each rule that is broken; nothing where no noise is shared."""
    privacy, link = scenario.privacy, scenario.uplink
    errors = []
    for key in ("honest", "members", "coordinates"):
        value = getattr(privacy, key)
        if value and not scenario.shared:
            errors.append(
                f"privacy.{key}: must be left out unless privacy.noise_at is shared (rule: "
                f"nobody's honesty is assumed otherwise), got {value!r:.80}"
            )
    if privacy.groups > 1 and not scenario.shared:
        errors.append(
            "privacy.groups: must be 1 unless privacy.noise_at is shared (rule: updates that are "
            f"seen one by one need no groups), got {privacy.groups}; leave it out"
        )
    if (link.densities and not scenario.shared) or scenario.downlink.densities:
        way = "downlink" if scenario.downlink.densities else "uplink"
        errors.append(
            f"{way}.densities: must be empty unless it is of the uplink and privacy.noise_at is "
            "shared (rule: a support of tensors' own densities is common to all sites), got "
            f"{getattr(scenario, way).densities!r}; leave it out"
        )
    if not scenario.shared:
        return errors
    return errors + _steps(scenario) + _members(scenario) + _linear(scenario)


def _steps(scenario: Scenario) -> list[str]:
    """One sum a noised step, at one public model; of a whole update, however many it takes."""
    errors, training = [], scenario.training
    if scenario.privacy.unit == "record" and training.steps != 1:
        errors.append(
            "training.steps: must be 1 when privacy.noise_at is shared (rule: one sum a noised "
            "step, all sites at one public model; further local steps start from hidden noise, "
            "and what a record does to them has no bound), got "
            f"{training.steps}; set federation.server_momentum to .8 or .9 in their place, or "
            "privacy.unit to client"
        )
    if scenario.privacy.max_batch:
        errors.append(
            "privacy.max_batch: must be 0 when privacy.noise_at is shared (rule: what cuts cost "
            f"is not composed with what rounding costs), got {scenario.privacy.max_batch}; leave "
            "it and privacy.max_records out"
        )
    return errors


def _members(scenario: Scenario) -> list[str]:
    """Enough members, enough of them in every sum, and enough honest ones among these."""
    errors, federation, honest = [], scenario.federation, scenario.honest
    privacy = scenario.privacy
    sites, least = federation.sites, federation.quorum
    if not LEAST_MEMBERS <= sites <= MOST_SITES:
        errors.append(
            f"federation.sites: must be from {LEAST_MEMBERS} to {MOST_SITES} when privacy.noise_at "
            f"is shared (rule: a sum of few is no cover, and every two sites share a key), got "
            f"{sites}"
        )
    if honest > sites:
        errors.append(
            f"privacy.honest: must be at most federation.sites, which is {sites}, got {honest}; "
            "lower it"
        )
    elif privacy.groups > 1:
        errors += _groups(scenario)
    elif 2 * least <= 2 * sites - honest or least > sites:
        most = sites - honest // 2 + (honest % 2 == 0)
        errors.append(
            "federation.quorum: must be more than sites - honest / 2 when privacy.noise_at is "
            "shared (rule: the server may never find two lists of members with signatures enough, "
            f"nor both kinds of a site's masks), got {least} with {sites} sites and {honest} "
            f"honest; set it from {min(most, sites)} to {sites}"
        )
    if scenario.members and len(scenario.members) != sites:
        errors.append(
            f"privacy.members: must name all federation.sites, {sites}, got "
            f"{len(scenario.members)}; leave it out, and fedlite server submit settles it"
        )
    if federation.participants != sites:
        errors.append(
            "federation.participation: must be 1 when privacy.noise_at is shared (rule: the "
            f"members of a sum are approved people, not drawn ones), got "
            f"{federation.participation:g}; leave it out"
        )
    if federation.weak or federation.weak_sites:
        errors.append(
            "federation.weak: must be 0 when privacy.noise_at is shared (rule: all sites sum the "
            "same coordinates), leave it and federation.weak_sites out"
        )
    rules = _OF_MEANS + _OF_GROUPS * (privacy.groups > 1)
    if federation.strategy not in rules:
        mend = "" if federation.strategy not in _OF_GROUPS else "; set privacy.groups to judge sums"
        errors.append(
            f"federation.strategy: must be one of {', '.join(rules)} when privacy.noise_at is "
            "shared (rule: the server sees no single update, so none can be judged), got "
            f"{federation.strategy!r}{mend}"
        )
    return errors


def _groups(scenario: Scenario) -> list[str]:
    """Groups of one size, each of which is proven whoever of all is missing or dishonest in it."""
    federation, groups, honest = scenario.federation, scenario.privacy.groups, scenario.honest
    sites, away = federation.sites, federation.sites - federation.quorum
    if sites % groups or sites // groups < LEAST_MEMBERS:
        return [
            "privacy.groups: must divide federation.sites into groups of one size, of at least "
            f"{LEAST_MEMBERS} (rule: a sum of few is no cover, and every sum has the same noise), "
            f"got {groups} with {sites} sites"
        ]
    if federation.seed >= 2**64:
        return [
            "federation.seed: must be below 2^64 where privacy.groups is above 1 (rule: 8 bytes "
            f"of it divide the members), got {federation.seed}; take a smaller one"
        ]
    if honest == sites and federation.strategy in _OF_GROUPS:
        return [
            f"privacy.honest: must be below federation.sites, {sites}, with federation.strategy "
            f"{federation.strategy!r} (rule: whom the strategy is to withstand is not honest, and "
            f"tells its noise as well), got {honest}; count them among the others, or take fedavg"
        ]
    size, least, true = worst_group(sites, federation.quorum, honest, groups)
    if 2 * least > 2 * size - true and away >= 0:
        return []
    false = sites - honest
    return [
        f"privacy.groups: must leave more than {false} + 2 x {away} sites in a group (rule: nobody "
        f"knows where the {false} that may be dishonest are, by privacy.honest {honest} of "
        f"{sites}, nor the {max(0, away)} that federation.quorum lets be missing, so all of them "
        f"may be in one), got {groups} groups of {size}; take fewer groups, a higher "
        "federation.quorum, or more honest sites if that is so"
    ]


def _linear(scenario: Scenario) -> list[str]:
    """A common support, drawn without the records, and nothing carried from round to round."""
    errors, link, federation = [], scenario.uplink, scenario.federation
    if link.compressor not in _LINEAR:
        errors.append(
            f"uplink.compressor: must be {' or '.join(_LINEAR)} when privacy.noise_at is shared "
            "(rule: only a linear compressor with a support that no record chose can be summed "
            f"under masks), got {link.compressor!r}; use randk"
        )
    elif link.compressor == "randk" and not link.density:
        errors.append(
            "uplink.density: must be set with randk when privacy.noise_at is shared, got 0; 0.1 "
            "suits small models"
        )
    if link.values:
        errors.append(
            "uplink.values: must be empty when privacy.noise_at is shared (rule: sums are whole "
            f"numbers on the noise's own grid), got {link.values!r}; leave it out"
        )
    if link.error_feedback or link.aggregate_feedback:
        errors.append(
            "uplink.error_feedback: must be false, and uplink.aggregate_feedback 0, when "
            "privacy.noise_at is shared (rule: what was left out is not noised, and may not be "
            "carried over); leave both out"
        )
    if federation.update_norm:
        errors.append(
            "federation.update_norm: must be 0 when privacy.noise_at is shared (rule: the server "
            f"sees no single update), got {federation.update_norm:g}; leave it out"
        )
    return errors
