"""What the operator sees of a bundle before it may run here, and what a yes or a no does.

A site runs code that it installed itself, or that its operator has looked at: every file is
compared with the app that came with the fedlite of this machine. The plan is held against
`site.toml`; what is beyond it is refused here, before anybody is asked.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients.runtime import gate, left, masking, seats
from clients.runtime.difference import Difference, difference
from clients.runtime.planned import plan_facts
from clients.runtime.reads import reads
from clients.runtime.sharing import sharing
from clients.runtime.sizes import sizes
from fedlite.deployment import bundle as bundles, own
from fedlite.deployment.bundle import Bundle
from fedlite.deployment.journal import Journal
from fedlite.guard import policy as site_policy, policy_file
from fedlite.guard.declared import beyond_declared, most_records
from fedlite.guard.policy import (
    ApprovedBundle,
    DataSet,
    SitePolicy,
    for_data,
    for_scenario,
    is_number,
    unit_for,
)
from fedlite.privacy.budget.outlook import Outlook
from fedlite.rooms import app_root
from fedlite.scenario import Scenario, from_run_config, own_code
from fedlite.settings import parse_value

_SHORTEST = 8


@dataclass(frozen=True)
class Review:
    """What there is to see of a bundle.

    scenario: its plan, with every loosened number at its most. same: how many files are those
    installed here. changed: the others by name, with their text; bytes that are no UTF-8 are
    escaped. own: those of them that are the user's. facts: title and text, for people. refused:
    why it cannot be approved as `site.toml` stands. warnings: what to think about. budget: what is
    left and what the plan would take; None where nothing is charged or it is not known. since: what
    is different from the last approval of the same name.
    """

    bundle: Bundle
    scenario: Scenario
    at_most: Mapping[str, int | float]
    same: int
    changed: Mapping[str, str]
    facts: tuple[tuple[str, str], ...]
    refused: tuple[str, ...]
    warnings: tuple[str, ...] = field(default=())
    budget: Outlook | None = None
    since: Difference | None = None

    @property
    def own(self) -> dict[str, str]:
        """Text of each of the user's own files by its name."""
        return {name: self.changed[name] for name in self.bundle.own}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for scripts."""
        return {
            "sha256": self.bundle.sha256,
            "name": self.bundle.name,
            "files": {"same": self.same, "changed": list(self.changed)},
            "own": self._texts(self.own),
            "others": self._texts(self.changed.keys() - self.own.keys()),
            "facts": _by_title(self.facts),
            "members": [
                {"name": name, "key": key} for name, key in sorted(self.scenario.members.items())
            ],
            "at_most": dict(self.at_most),
            "refused": list(self.refused),
            "warnings": list(self.warnings),
            "budget": self.budget.to_dict() if self.budget else None,
            "since": self.since.to_dict() if self.since else None,
        }

    def _texts(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        digests = self.bundle.files
        return {n: {"sha256": digests[n], "text": self.changed[n]} for n in sorted(names)}


def _by_title(facts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return texts by title; what has none goes on in the line below that before it."""
    found, last = dict[str, str](), ""
    for title, text in facts:
        last = title or last
        found[last] = f"{found[last]}\n{text}" if last in found else text
    return found


def waiting(home: Path) -> list[Path]:
    """Return the bundles that the site has refused and kept, the newest first."""
    found = (home / "bundles" / "waiting").glob("*.fab")
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def find(home: Path, given: str) -> Bundle:
    """Return the bundle in a file, or the one waiting whose SHA-256 begins so.

    Raises ValueError when there is none, or when the bundle breaks a rule.
    """
    path = Path(given)
    if path.is_file():
        return bundles.read(path)
    among = {path.stem: path for path in waiting(home)}
    mend = f"list them with `fedlite site approve {home}`"
    digest = _only(given, list(among), "bundle: must be a file, or", mend)
    bundle = bundles.read(among[digest])
    if bundle.sha256 != digest:
        raise ValueError(
            f"{among[digest]}: must hold what its name says, got {bundle.sha256}; remove the file"
        )
    return bundle


def _only(given: str, digests: Sequence[str], what: str, mend: str) -> str:
    fitting = [d for d in digests if d.startswith(given)] if len(given) >= _SHORTEST else []
    if len(fitting) != 1:
        raise ValueError(
            f"{what} the first {_SHORTEST} or more digits of the SHA-256 of exactly one, got "
            f"{given!r}, which fits {len(fitting)}; {mend}"
        )
    return fitting[0]


def loosened(bundle: Bundle, given: Sequence[str]) -> dict[str, int | float]:
    """Read `KEY=VALUE` texts: what a numeric setting of the bundle may rise to.

    Raises ValueError for an unknown key, and for a value that is no number of its kind or is lower
    than the setting.
    """
    at_most: dict[str, int | float] = {}
    for text in given:
        key, _, value = text.partition("=")
        approved, most = bundle.settings.get(key), parse_value(value)
        if type(approved) is float and type(most) is int:
            most = float(most)
        if key in gate.EXACT or bundle.settings.get("statistics.bins"):
            raise ValueError(
                f"--at-most {text}: {key} stays as it is in the bundle, {approved!r} (rule: lower "
                "is not less of it, and the run need not keep what the page shows)"
            )
        good = is_number(approved) and type(most) is type(approved)
        if not good or not float(most) >= float(approved or 0):
            raise ValueError(
                f"--at-most {text}: must be a numeric setting of the bundle and a number of its "
                f"kind that is not lower, the bundle has {approved!r}; for example "
                "federation.rounds=90"
            )
        at_most[key] = most
    return at_most


def review(home: Path, bundle: Bundle, at_most: Mapping[str, int | float]) -> Review:
    """Hold a bundle against the code installed here and against `site.toml`.

    Raises ValueError when the settings are no scenario, or `site.toml` is wrong.
    """
    from clients.runtime.foreign import foreign_settings

    policy = site_policy.load(home / "site.toml")
    scenario = from_run_config({**bundle.settings, **at_most})
    files = bundles.contents(bundle)
    changed = {name: files[name] for name in sorted(files) if not _installed(bundle, name)}
    refused = _beyond(policy, scenario)
    for name, content in changed.items():
        if name.endswith(".py") and (why := own.otherwise_run(content)):
            refused.append(f"{name}: {why}")
    try:
        foreign = foreign_settings(scenario)
    except ValueError as error:
        foreign = []
        refused.append(str(error))
    warnings = []
    facts = plan_facts(scenario, at_most, policy.site)
    data = policy.data_set(scenario.data.name)
    facts.append(("data set", f"[data.{data.name}] of site.toml" if data else "none"))
    try:
        if data is not None:
            facts.append(("records", _bound(data)))
            refused += beyond_declared(policy, scenario)
            if foreign:
                facts += reads(scenario, data)
                warnings.append(
                    f"model and bytes are not known: {', '.join(foreign)} name code that is not "
                    "fedlite's, and nothing of it is run before you approve it"
                )
            else:
                known, too_much = sizes(home, policy, scenario)
                facts += known
                refused += too_much
    except (ValueError, OSError) as error:
        if str(error).startswith(("privacy.", "statistics.")):
            # What is claimed of the model is not so: it would fail in the first round.
            refused.append(str(error))
        else:
            facts += reads(scenario, data) if data else []
            why = f"as the data set does not load: {error}"
            warnings.append(f"model and bytes are not known, {why}")
    try:
        members, untrusted = sharing(home, policy, scenario)
    except (ValueError, OSError) as error:
        members, untrusted = [], [f"who shares the noise cannot be judged: {error}"]
    facts += members
    refused += untrusted
    budget, more, problem = left.left(home, policy, scenario)
    facts += more
    warnings += problem
    since = difference(home, policy, bundle)
    facts += since.facts() if since else []
    if changed:
        warnings.append(
            f"{len(changed)} files are not those installed here; they run at this site with "
            "your data, so read them first: they are below, each whole"
        )
    if bundle.own and scenario.private:
        warnings.append(
            "code of the coordinator's own sees your records before the noise is added; that it "
            "treats each alone is checked by a trial, and seen by reading it"
        )
    if policy.clock >= scenario.federation.deadline_seconds:
        warnings.append(
            f"egress.clock: {policy.clock} s is not below the plan's federation.deadline_seconds, "
            f"{scenario.federation.deadline_seconds:g}: every reply would come too late"
        )
    if not policy.limits.sandbox:
        warnings.append("limits.sandbox is false: the code can read all that this user can")
    count = len(bundle.files) - 1 - len(changed)
    return Review(
        bundle,
        scenario,
        dict(at_most),
        count,
        {name: data.decode("utf-8", "backslashreplace") for name, data in changed.items()},
        tuple(facts),
        tuple(refused),
        tuple(warnings),
        budget,
        since,
    )


def approve(home: Path, seen: Review, by: str) -> ApprovedBundle:
    """Let the bundle run here from now on; `by` names who said so.

    Raises ValueError when the review refuses it.
    """
    if seen.refused:
        raise ValueError("; ".join(seen.refused))
    bundle = seen.bundle
    approved = ApprovedBundle(
        sha256=bundle.sha256,
        name=bundle.name,
        approved=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        by=by,
        settings=dict(bundle.settings),
        at_most=dict(seen.at_most),
    )
    (home / "bundles").mkdir(mode=0o700, exist_ok=True)
    bundles.unpack(bundle, home / "bundles" / bundle.sha256)
    policy_file.approve(home / "site.toml", approved)
    Journal(home / "audit").write(
        "approve", bundle=bundle.sha256, name=bundle.name, changed_files=len(seen.changed)
    )
    _forget(home, bundle.sha256)
    return approved


def refuse(home: Path, seen: Review, why: str) -> None:
    """Write down that the bundle was not approved; it goes on waiting."""
    Journal(home / "audit").write("refuse", bundle=seen.bundle.sha256, why=why)


def revoke(home: Path, given: str) -> str:
    """Take an approval back, named by the first digits of its SHA-256, which is returned whole.

    It counts from the next message on. Raises ValueError when there is no such approval.
    """
    digests = [one.sha256 for one in site_policy.load(home / "site.toml").bundles]
    digest = _only(given, digests, "--revoke: must be", "see the tables [bundles.*] of site.toml")
    policy_file.revoke(home / "site.toml", digest)
    Journal(home / "audit").write("revoke", bundle=digest)
    bundles.remove(home / "bundles" / digest)
    for seat in seats.folders(home):
        masking.remove_keys(seat, digest)
    return digest


def _forget(home: Path, digest: str) -> None:
    (home / "bundles" / "waiting" / f"{digest}.fab").unlink(missing_ok=True)


def _installed(bundle: Bundle, name: str) -> bool:
    """Return whether a file is byte for byte the one that fedlite brought to this machine.

    The project file is no code: what it says was read, and is shown as the plan.
    """
    if name == bundles.CONFIG:
        return True
    if name in bundle.own:
        return False
    path = app_root() / name
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == bundle.files[name]


def _beyond(policy: SitePolicy, scenario: Scenario) -> list[str]:
    """Return what of the plan is beyond `site.toml`, each naming the key and the mend."""
    found, asked, privacy = [], for_scenario(scenario, policy.site), scenario.privacy
    unit = unit_for(scenario)
    if policy.data_set(scenario.data.name) is None:
        name = json.dumps(scenario.data.name)
        found.append(f"data: must have a table [data.{name}], as the plan trains on it; add one")
    if not policy.allows(unit):
        found.append(f"budget.units: must hold {unit!r}, has {', '.join(policy.units) or 'none'}")
    counts = scenario.inference.epsilon
    if scenario.claims_privacy and 0 < policy.per_run < privacy.epsilon + counts and counts:
        found.append(
            f"budget.per_run: {policy.per_run:g} is below the plan's epsilon with that of its "
            f"counts, {privacy.epsilon + counts:g}; ask for a plan with less"
        )
    elif scenario.claims_privacy:
        ceiling = for_data(policy, scenario.data.name).epsilon
        for key, most in (("budget.epsilon", ceiling), ("budget.per_run", policy.per_run)):
            if privacy.epsilon > most and (most or key == "budget.epsilon"):
                found.append(
                    f"{key}: {most:g} is below the plan's epsilon, {privacy.epsilon:g}; ask for a "
                    "plan with less"
                )
    for key, name in own_code(scenario).items():
        if not policy.limits.sandbox:
            found.append(
                f"limits.sandbox: is false, and {key} names code of the coordinator's own, "
                f"{name}, which runs in the sandbox only; set it to true"
            )
    missing = set(asked.metrics) - set(policy.metrics)
    if missing:
        found.append(f"egress.metrics: must hold {', '.join(sorted(missing))}, which would leave")
    if scenario.training.device == "cuda" and policy.limits.device == "cpu":
        found.append("limits.device: is 'cpu', and the plan needs 'cuda'")
    return found


def _bound(data: DataSet) -> str:
    most = most_records(data)
    return f"at most {most:,}, as declared or public" if most else "no bound is declared"
