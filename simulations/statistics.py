"""Figures of a federation's tables before any training: one secure sum, charged to the ledgers.

Each site counts its own training records, adds its share of the noise, and writes the release into
its ledger before it masks it, in the order and under the rules of a round of training
(`fedlite.guard.guardian`). What is seen is the sum.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
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
from fedlite.privacy import SharedMechanism
from fedlite.privacy.ledger.files import FILES, UNFLUSHED
from fedlite.privacy.mechanism import MAX_SLACK
from fedlite.privacy.shared import summed
from fedlite.protection import plan_mechanism, question_run
from fedlite.questions import Asked, Statistics, answer, as_run, columns_in, table_of, told
from fedlite.scenario import Scenario, ScenarioError
from fedlite.secure.party import Party

_MODEL = bytes(8)
_OPTIONS = {"privacy.epsilon": "--epsilon", "statistics.most_records": "--most-records"}


def check(scenario: Scenario, asked: Asked) -> None:
    """Raise ScenarioError where `statistics` would, before anything is spent or written."""
    _settled(scenario, asked)


def statistics(scenario: Scenario, asked: Asked, directory: Path) -> Statistics:
    """Return the figures of a scenario's table, over all its simulated sites.

    directory: where sites keep their homes, unless `simulation.sites` says where; a question that
    was asked there before is refused, as its answer would have other noise.

    Raises ScenarioError for records that are no table of named columns with public ranges, and for
    numbers that make no secret sum; RuntimeError naming the site that takes no part, and why.
    """
    source, asks, mechanism = _settled(scenario, asked)
    run = bytes.fromhex(question_run(asks))
    how = scenario.data, mechanism.sites, scenario.federation.seed
    parts = divided(source, *how, private=True)
    # What training commits to: the same records, scaled.
    scaled = share_out(source, *how, private=True)
    guardians = [_guardian(scenario, asks, mechanism, site, directory) for site in scaled]
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
    bodies = {}
    for guardian, part in zip(guardians, parts, strict=True):
        units = answer(asks, part.train.x, mechanism, site_id(guardian.site), 1)
        residues = summed.residues(units, mechanism.bits)
        body = party.mask(guardian.site, 1, _MODEL, residues, mechanism.bits)
        _held(guardian, run, partial(guardian.release, frame=body))
        bodies[guardian.site] = body
    seen = party.sum(bodies, 1, _MODEL, mechanism.coordinates, mechanism.bits)
    lasting = bool(asks.simulation.sites)
    found = told(asks, mechanism, seen, mechanism.sites, lasting=lasting)
    return replace(found, scenario=scenario.federation.name)


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


def _settled(scenario: Scenario, asked: Asked) -> tuple[Source, Scenario, SharedMechanism]:
    """Return the records as they were read, the run that asks of them, and what protects it.

    Raises ScenarioError, by the command's options where it is they that are wrong.
    """
    source = table_of(scenario)
    columns = columns_in(source, scenario.data.name)
    try:
        asks = as_run(scenario, asked, columns)
        mechanism = plan_mechanism(asks)
    except ValueError as error:
        raise ScenarioError(_by_options(str(error), asked)) from error
    if not isinstance(mechanism, SharedMechanism):
        raise ScenarioError("privacy.noise_at: must be 'shared' where figures are asked for")
    return source, asks, mechanism


def _by_options(text: str, asked: Asked) -> str:
    """Return what is wrong with a run in the words of who has given options, and no run."""
    # Delta itself was settled with the scenario: the plan has only this to say of it.
    if text.startswith("privacy.delta: rounding"):
        return (
            "--epsilon: must be one at which rounding at the sites costs at most "
            f"{MAX_SLACK:.0%} of privacy.delta (rule: no more is kept for it), got "
            f"{asked.epsilon:g}; set it to 10 or less"
        )
    # A key's default is not the option's.
    text = re.sub(r"(?m)^(privacy\.epsilon: .*); the default is .*$", r"\1", text)
    for key, option in _OPTIONS.items():
        text = text.replace(key, option)
    return text


def _guardian(
    scenario: Scenario,
    asks: Scenario,
    mechanism: SharedMechanism,
    site: SiteData,
    directory: Path,
) -> Guardian:
    if not asks.claims_privacy:
        return Guardian(site.name, asks, mechanism, None, str)
    given = asks.simulation.sites
    homes = Path(given).expanduser() if given else directory / "homes"
    later, now = for_scenario(scenario, site.name), for_scenario(asks, site.name)
    # Who answers this and trains afterwards allows both.
    allowed = replace(
        now, units=tuple(dict.fromkeys((*later.units, *now.units))), metrics=later.metrics
    )
    home = open_home(homes / site.name, site.name, asks.data.dataset, allowed)
    commitment = home.commitment(site.train)
    files = FILES if given else UNFLUSHED
    return Guardian(site.name, asks, mechanism, home, lambda: commitment, files=files)
