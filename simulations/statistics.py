"""Figures of a federation's tables before any training: one secure sum, charged to the ledgers.

Each site counts its own training records, adds its share of the noise, and writes the release into
its ledger before it masks it, in the order and under the rules of a round of training
(`fedlite.guard.guardian`). What is seen is the sum.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedlite.data import SiteData, Source
from fedlite.data.spread import divided, share_out
from fedlite.guard.folder import open_home
from fedlite.guard.guardian import Decline, Guardian
from fedlite.guard.policy import for_scenario
from fedlite.identity import keys
from fedlite.messages import Instruction, site_id
from fedlite.privacy import SharedMechanism, accounting, dpsgd
from fedlite.privacy.ledger.files import FILES, UNFLUSHED
from fedlite.privacy.mechanism import MAX_SLACK
from fedlite.privacy.shared import summed
from fedlite.privacy.shared.lattice import OWN_ROUNDED
from fedlite.privacy.shared.tables import Question, summarize
from fedlite.questions import (
    QUANTILES,
    Asked,
    Statistics,
    columns_in,
    question_about,
    table_of,
)
from fedlite.scenario import Scenario, ScenarioError
from fedlite.secure.group import LEAST_MEMBERS, MOST_MEMBERS
from fedlite.secure.masks import MOST_BITS
from fedlite.secure.party import Party

_MODEL = bytes(8)


def check(scenario: Scenario, asked: Asked) -> None:
    """Raise ScenarioError where `statistics` would, before anything is spent or written."""
    _, question = _question(scenario, asked)
    _mechanism(scenario, asked, question)


def statistics(scenario: Scenario, asked: Asked, directory: Path) -> Statistics:
    """Return the figures of a scenario's table, over all its simulated sites.

    directory: where sites keep their homes, unless `simulation.sites` says where; a question that
    was asked there before is refused, as its answer would have other noise.

    Raises ScenarioError for records that are no table of named columns with public ranges, and for
    numbers that make no secret sum; RuntimeError naming the site that takes no part, and why.
    """
    source, question = _question(scenario, asked)
    mechanism = _mechanism(scenario, asked, question)
    told = _as_run(scenario, asked)
    text = json.dumps([told.to_dict(), asdict(asked), question.columns])
    run = hashlib.sha256(b"fedlite statistics " + text.encode()).digest()[:8]
    how = scenario.data, mechanism.sites, scenario.federation.seed
    parts = divided(source, *how, private=True)
    # What training commits to: the same records, scaled.
    scaled = share_out(source, *how, private=True)
    guardians = [_guardian(scenario, told, mechanism, site, directory) for site in scaled]
    identities = {
        g.site: g.home.key() if g.home else Ed25519PrivateKey.generate() for g in guardians
    }
    group = {name: keys.public_hex(key) for name, key in identities.items()}
    # Nothing is spent before all of them would take part, and nothing leaves before all have
    # reserved.
    for guardian in guardians:
        _held(guardian, run, guardian.admit)
    for guardian in guardians:
        _rehearse(guardian, run, group)
    for guardian in guardians:
        _held(guardian, run, partial(guardian.reserve, group=group))
    party = Party.of(run, identities, least=mechanism.least, honest=mechanism.honest)
    scale, seed, bodies = question.scale(mechanism), scenario.privacy.simulate_seed, {}
    for guardian, part in zip(guardians, parts, strict=True):
        _, noise = dpsgd.entropy(seed, 0, site_id(guardian.site))
        units = summed.rounded(question.answer(part.train.x) * scale, mechanism, noise)
        residues = summed.residues(units, mechanism.bits)
        body = party.mask(guardian.site, 1, _MODEL, residues, mechanism.bits)
        _held(guardian, run, partial(guardian.release, frame=body))
        bodies[guardian.site] = body
    seen = party.sum(bodies, 1, _MODEL, mechanism.coordinates, mechanism.bits)
    # All sites have added theirs; where some are not honest, intervals are wider than need be.
    error = mechanism.unit_width * OWN_ROUNDED * math.sqrt(mechanism.sites) / scale
    total = summed.values(seen, mechanism) / scale
    return Statistics(
        scenario.federation.name,
        asked,
        mechanism,
        accounting.running(mechanism, 1, asked.delta) if told.claims_privacy else math.inf,
        accounting.seen_with(mechanism, 1, asked.delta),
        error,
        tuple(summarize(question, total, error, QUANTILES)),
        told.claims_privacy,
        bool(told.simulation.sites),
        mechanism.sites,
    )


def _held(guardian: Guardian, run: bytes, step: Callable[[Instruction], object]) -> None:
    """Let a site's guardian decide; raises RuntimeError with its reason."""
    try:
        step(Instruction(run, 1, site_id(guardian.site), 0, _MODEL, ()))
    except Decline as decline:
        raise RuntimeError(f"{guardian.site} takes no part: {decline}") from None


def _rehearse(guardian: Guardian, run: bytes, group: Mapping[str, str]) -> None:
    """Let a copy of the site's home reserve, so that the site itself writes nothing if it cannot.

    Raises RuntimeError with its reason.
    """
    home = guardian.home
    if home is None:
        return
    with tempfile.TemporaryDirectory(dir=home.path.parent, prefix=".rehearsal-") as folder:
        copy = replace(home, path=Path(folder) / "home")
        shutil.copytree(home.path, copy.path)
        again = replace(guardian, home=copy, files=UNFLUSHED)
        _held(again, run, partial(again.reserve, group=group))


def _question(scenario: Scenario, asked: Asked) -> tuple[Source, Question]:
    """Return the records as they were read, and what is asked of them."""
    federation = scenario.federation
    source = table_of(scenario)
    columns = columns_in(source, scenario.data.name)
    if not LEAST_MEMBERS <= federation.sites <= MOST_MEMBERS:
        raise ScenarioError(
            f"federation.sites: must be from {LEAST_MEMBERS} to {MOST_MEMBERS} (rule: a sum of few "
            f"is no cover), got {federation.sites}"
        )
    return source, question_about(columns, asked.bins)


def _mechanism(scenario: Scenario, asked: Asked, question: Question) -> SharedMechanism:
    sites = scenario.federation.sites
    try:
        sigma = accounting.calibrate(asked.epsilon, asked.delta * (1.0 - MAX_SLACK), 1.0, 1)
        mechanism = SharedMechanism(
            clip=question.length,
            noise_multiplier=sigma,
            sampling_rate=1.0,
            steps=1,
            expected_batch=1,
            coordinates=question.coordinates,
            sites=sites,
            least=sites,
            honest=scenario.honest,
            reach=asked.most_records / question.length,
        )
    except ValueError as error:
        raise ScenarioError(f"--{error}") from error
    lost = mechanism.delta_slack(asked.epsilon)
    if scenario.privacy.simulate_seed < 0 and lost > MAX_SLACK * asked.delta:
        raise ScenarioError(
            "--epsilon: must be one at which rounding at the sites costs at most "
            f"{MAX_SLACK:.0%} of privacy.delta (rule: no more is kept for it), got "
            f"{asked.epsilon:g}, at which it costs {lost:.2g}; set it to 10 or less"
        )
    if mechanism.bits > MOST_BITS:
        raise ScenarioError(
            f"--most-records: must be so few that sums fit into {MOST_BITS} bits, got "
            f"{asked.most_records:,}, which needs {mechanism.bits}; lower it, or --epsilon"
        )
    return mechanism


def _as_run(scenario: Scenario, asked: Asked) -> Scenario:
    """Return the scenario as the run of one round that this is to a site's guardian."""
    federation = scenario.federation
    privacy = replace(
        scenario.privacy,
        unit="record",
        noise_at="shared",
        epsilon=asked.epsilon,
        delta=asked.delta,
        groups=1,
    )
    return replace(
        scenario,
        federation=replace(federation, rounds=1, quorum=federation.sites),
        training=replace(scenario.training, steps=1),
        inference=replace(scenario.inference, calibration=0.0, epsilon=0.0),
        privacy=privacy,
    )


def _guardian(
    scenario: Scenario,
    told: Scenario,
    mechanism: SharedMechanism,
    site: SiteData,
    directory: Path,
) -> Guardian:
    if not told.claims_privacy:
        return Guardian(site.name, told, mechanism, None, str)
    given = told.simulation.sites
    homes = Path(given).expanduser() if given else directory / "homes"
    later, now = for_scenario(scenario, site.name), for_scenario(told, site.name)
    # Who answers this and trains afterwards allows both.
    allowed = replace(
        now, units=tuple(dict.fromkeys((*later.units, *now.units))), metrics=later.metrics
    )
    home = open_home(homes / site.name, site.name, told.data.dataset, allowed)
    commitment = home.commitment(site.train)
    files = FILES if given else UNFLUSHED
    return Guardian(site.name, told, mechanism, home, lambda: commitment, files=files)
