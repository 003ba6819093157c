"""What a run claims (`summary.json`, `rounds.jsonl`), held against its sites' ledgers."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedlite.audit import counts, figures, sharing
from fedlite.audit.book import Book, Plan, parts_of
from fedlite.audit.cost import fits, left_of, loss_of, slack_of
from fedlite.audit.counts import Told
from fedlite.audit.lines import Line
from fedlite.audit.rules import Issue
from fedlite.audit.sources import SCENARIO, Run, as_object, why_not
from fedlite.messages import Code
from fedlite.privacy.accounting import PRV_ERROR, compose_pld
from fedlite.privacy.ranges import shares_noise
from fedlite.reporting.record import ROUNDS, SUMMARY

# Where the summary names the mechanism, and where a plan does.
_MECHANISM = ("noise_multiplier", "sampling_rate", "clip", "expected_batch", "max_batch", "delta")
_UNITS = ("record", "client", "none")
_WHOLE = ("expected_batch", "max_batch")
_NEEDED = ("noise_multiplier", "sampling_rate", "clip", "delta", "steps")


@dataclass(frozen=True)
class Round:
    """A line of `rounds.jsonl`: its number, the updates used, and the epsilon it shows, if any."""

    number: int
    accepted: int
    epsilon: object


@dataclass
class Claims:
    """What a run says of itself.

    run: its name, 16 hex digits, or "". unit: "record", "client", "none", or "" where unknown.
    claimed: whether it claims any privacy. sites: its `privacy.sites`. named, length: its `sites`
    and `rounds`. rounds: its `rounds.jsonl`. declined: by site, the rounds that it declined for its
    budget. round_steps: private steps of one round by the scenario; 0 where unknown. asked: its
    epsilon by the scenario; None where unknown. counts: what it says of those. figures: its
    `statistics`, as they are. planned: the scenario's tables.
    """

    source: Run
    run: str = ""
    unit: str = ""
    claimed: bool = False
    privacy: Mapping[str, Any] = field(default_factory=dict)
    sites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    named: Sequence[str] = ()
    length: int = 0
    rounds: list[Round] = field(default_factory=list)
    declined: dict[str, set[int]] = field(default_factory=dict)
    round_steps: int = 0
    asked: float | None = None
    counts: Told = field(default_factory=Told)
    figures: object = None
    planned: Mapping[str, Any] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        """What there is to say of the run as a whole."""
        if self.source.summary is None:
            return (
                "no summary.json: the run has not finished, or it was removed; what it claims "
                "was not checked."
            )
        if not self.unit:
            return "its claims could not be checked."
        if self.unit == "none":
            return "no privacy unit: nothing to audit."
        if not self.claimed:
            return "no privacy is claimed: its noise can be repeated by whoever knows the seed."
        return f"claims privacy for the unit {self.unit!r} at {len(self.sites)} sites."

    def issue(self, rule: str, text: str, site: str = "") -> Issue:
        """Return a finding about the summary."""
        return Issue(rule, text, str(self.source.path / SUMMARY), site)


def read(source: Run) -> Claims:
    """Read what a run says of itself; never raises on what it holds."""
    claims = Claims(source)
    if source.summary is not None:
        summary = as_object(source.summary)
        privacy = summary.get("privacy") if summary else None
        if not summary or not isinstance(privacy, dict) or privacy.get("unit") not in _UNITS:
            text = f"has no privacy part of a known unit ({why_not(source.summary)})"
            claims.issues.append(claims.issue("summary-damaged", text))
        else:
            _read_summary(claims, summary, privacy)
            _read_scenario(claims)
    if source.rounds is not None:
        _read_rounds(claims, source.rounds)
    return claims


def _read_summary(claims: Claims, summary: Mapping[str, Any], privacy: Mapping[str, Any]) -> None:
    claims.run = str(summary.get("run", ""))
    claims.unit, claims.privacy = privacy["unit"], privacy
    claims.claimed = claims.unit != "none" and privacy.get("claimed") is True
    sites = privacy.get("sites", {})
    good = isinstance(sites, dict) and all(isinstance(v, dict) for v in sites.values())
    damage = []
    if claims.unit != "none" and not good:
        damage.append("privacy.sites must hold an object a site")
    if claims.unit != "none" and type(privacy.get("claimed")) is not bool:
        damage.append("privacy.claimed must be true or false")
    missing = [n for n in _NEEDED if _number(privacy.get(n)) is None]
    if claims.claimed and missing:
        damage.append(f"privacy must name the mechanism; no number for {', '.join(missing)}")
    claims.sites = sites if good else {}
    named, length = summary.get("sites"), summary.get("rounds")
    claims.counts = counts.read(summary.get("inference"))
    claims.figures = summary.get("statistics")
    if (
        isinstance(named, list)
        and all(isinstance(site, str) for site in named)
        and len(set(named)) == len(named)
    ):
        claims.named = named
    elif claims.unit != "none":
        damage.append("sites must be a list of names, each once")
    if type(length) is int:
        claims.length = length
    elif claims.unit != "none":
        damage.append("rounds must be a whole number")
    if claims.claimed:
        for site in sorted(set(claims.named) ^ set(claims.sites)):
            damage.append(f"names {site[:64]!r} in one of sites and privacy.sites only")
    claims.issues += [claims.issue("summary-damaged", text) for text in damage]


def _read_scenario(claims: Claims) -> None:
    """Hold the summary against the scenario beside it, and take the steps of a round from that."""
    path = claims.source.path / SCENARIO
    if claims.source.scenario is None:
        if claims.unit != "none":
            text = "is missing, so the summary could not be held against what was to be run"
            claims.issues.append(Issue("scenario-missing", text, str(path)))
        return
    try:
        tables = tomllib.loads(claims.source.scenario.decode("utf-8"))
        privacy, training = tables.get("privacy", {}), tables.get("training", {})
        unit, seed = privacy.get("unit", "none"), privacy.get("simulate_seed", -1)
        steps = training.get("steps", 0) if unit == "record" else 1
    except (ValueError, RecursionError, AttributeError):
        claims.issues.append(Issue("summary-damaged", "cannot be read as a scenario", str(path)))
        return
    said = f"the scenario says unit {unit!r}"
    if unit != claims.unit:
        text = f"says unit {claims.unit!r}, and {said}"
        claims.issues.append(claims.issue("summary-mismatch", text))
    elif unit != "none" and claims.claimed is not (seed == -1):
        text = f"says claimed {claims.claimed}, and the scenario has simulate_seed {seed!r}"
        claims.issues.append(claims.issue("summary-mismatch", text))
    if type(steps) is int and steps > 0:
        claims.round_steps = steps
    elif claims.claimed:
        text = f"must say how many private steps a round takes, got {steps!r}"
        claims.issues.append(Issue("summary-damaged", text, str(path)))
    claims.asked, claims.planned = _number(privacy.get("epsilon")), tables
    inference = tables.get("inference")
    if isinstance(inference, dict):
        claims.counts.asked = _number(inference.get("epsilon"))
    for name in sorted({"clip", "delta"} & privacy.keys()) if claims.claimed else ():
        told = claims.privacy.get(name)
        if not _same(told, privacy[name]):
            text = f"says {name} {told!r}, and the scenario {privacy[name]!r}"
            claims.issues.append(claims.issue("summary-mismatch", text))


def _read_rounds(claims: Claims, data: bytes) -> None:
    for number, line in enumerate(data.split(b"\n")[:-1]):
        row = as_object(line)
        dropped, which = (row.get(name) for name in ("dropped", "round")) if row else (None, None)
        accepted = row.get("accepted", 0) if row else None
        if not isinstance(dropped, dict) or type(which) is not int or type(accepted) is not int:
            path = str(claims.source.path / ROUNDS)
            text = f"line {number + 1} is not the record of a round ({why_not(line)})"
            claims.issues.append(Issue("rounds-damaged", text, path, row=number))
            return
        claims.rounds.append(Round(which, accepted, row.get("epsilon") if row else None))
        for site, code in dropped.items():
            if code == Code.BUDGET:
                claims.declined.setdefault(site, set()).add(which)


def check(claims: Claims, books: Mapping[str, Book], lines: Iterable[Line]) -> list[Issue]:
    """Hold the summary against the ledgers (by site) and what the server itself recorded."""
    issues = list(claims.issues)
    payloads: dict[str, set[str]] = {}
    for line in lines:
        if line.payload and line.run == claims.run:
            payloads.setdefault(line.site, set()).add(line.payload)
    own = {claims.run, counts.name_of(claims.run)}
    if (
        claims.claimed
        and not payloads
        and not any(plan.run in own for book in books.values() for plan in book.plans)
    ):
        known = sorted({plan.run for book in books.values() for plan in book.plans})
        if known:
            text = (
                f"names run {claims.run[:64]!r}, and the ledgers know only {', '.join(known[:3])}"
            )
            issues.append(claims.issue("summary-mismatch", text))
    for site, book in books.items():
        plans = [plan for plan in book.plans if plan.run == claims.run]
        # A site may have been asked for its counts alone: not every site trains in every run.
        counted, wrong = counts.plans_of(claims.run, claims.privacy, claims.counts, site, book)
        if claims.claimed:
            issues += [claims.issue(rule, text, site) for rule, text in wrong]
        if not claims.unit or not (plans or counted):
            continue
        if claims.unit == "none":
            text = "the summary says that there was no privacy unit, and the ledger has a plan"
            issues.append(claims.issue("summary-mismatch", text, site))
            continue
        if site not in claims.sites:
            text = "the ledger has a plan for this run, and the summary does not name the site"
            issues.append(claims.issue("summary-understates", text, site))
            continue
        for plan in plans:
            issues += _mechanism(claims, site, plan)
        issues += _budget(claims, site, plans)
        if claims.claimed:
            issues += _spending(claims, site, claims.sites[site], book, plans, counted)
    return issues


def _mechanism(claims: Claims, site: str, plan: Plan) -> list[Issue]:
    said, wrong = claims.privacy, []
    unit = claims.unit
    if unit == "client" or said.get("noise_at") == "shared":
        unit = f"{unit}-{said.get('noise_at', 'site')}"
    if plan.body["unit"] != unit:
        wrong.append(f"unit {unit!r}, committed {plan.body['unit']!r}")
    for name in _MECHANISM:
        # A client's mechanism has no batches, and older summaries do not name every number.
        if name not in said or (name in _WHOLE and not unit.startswith("record")):
            continue
        if not _same(said[name], plan.body[name]):
            wrong.append(f"{name} {said[name]!r}, committed {plan.body[name]!r}")
    under: list[str] = []
    if shares_noise(plan.body["unit"]) and plan.body["unit"] == unit:
        asked, told = figures.reach_of(claims.planned, plan), said.get("shared")
        wrong += sharing.mismatches(told, plan, asked)
        under = sharing.understated(told, plan)
        wrong += figures.mismatches(claims.figures, claims.planned, plan)
        under += figures.understated(claims.figures, told)
    if "steps" in said and said["steps"] not in (plan.body["steps"], plan.body["asked"]):
        committed = f"{plan.body['steps']} of {plan.body['asked']} asked"
        wrong.append(f"steps {said['steps']!r}, committed {committed}")
    asked = plan.body["epsilon_asked"]
    issues = [claims.issue("summary-mismatch", f"the summary says {text}", site) for text in wrong]
    for text in under:
        issues.append(claims.issue("summary-understates", f"the summary says {text}", site))
    if shares_noise(plan.body["unit"]):
        for text in sharing.planned_otherwise(claims.planned, plan):
            issues.append(claims.issue("summary-mismatch", f"the scenario says {text}", site))
    if claims.asked is not None and not _same(claims.asked, asked):
        text = f"the scenario says epsilon {claims.asked!r}, asked of the site {asked!r}"
        issues.append(claims.issue("summary-mismatch", text, site))
    return issues


def _budget(claims: Claims, site: str, plans: Sequence[Plan]) -> list[Issue]:
    """Hold what the summary says was asked of the site against its plans and the counts.

    Of a site that was asked for its counts alone, training's part is what the scenario says.
    """
    said, budget = claims.privacy.get("counts"), claims.sites[site].get("budget")
    more = (_number(said.get("epsilon")) if isinstance(said, dict) else None) or 0.0
    asked = {plan.body["epsilon_asked"] for plan in plans} or {claims.asked} - {None}
    return [
        claims.issue(
            "summary-mismatch",
            f"the summary says budget {budget!r}, asked of the site {one!r} and {more!r} of counts",
            site,
        )
        for one in sorted(asked)
        if budget is not None and not _same(budget, one + more)
    ]


def _same(said: Any, committed: Any) -> bool:
    one, other = _number(said), _number(committed)
    return one is not None and other is not None and math.isclose(one, other, rel_tol=1e-12)


def _spending(
    claims: Claims,
    site: str,
    row: Mapping[str, Any],
    book: Book,
    plans: list[Plan],
    counted: list[Plan],
) -> list[Issue]:
    issues, every = [], [*plans, *counted]
    releases, recorded = row.get("releases"), book.released(claims.run)
    if type(releases) is not int or releases < 0:
        text = f"releases must be a whole number, got {json.dumps(releases)[:80]}"
        issues.append(claims.issue("summary-damaged", text, site))
    elif releases > recorded and book.intact:
        text = f"{releases} updates arrived by the summary, and the ledger released {recorded}"
        issues.append(claims.issue("unrecorded-release", text, site))
    issues += _rounds(claims, site, book, plans)
    # The charge of counts comes on top of that of training, and may be all there is.
    delta = every[0].body["delta"]
    try:
        asked = every[0].body["epsilon_asked"] or _number(claims.privacy.get("epsilon")) or 1.0
        slack = slack_of(plans, asked)
        # The whole plan: an earlier end may have depended on what was released.
        left = left_of(plans, delta, slack)
        cost = loss_of(parts_of(every), left_of(every, delta, slack))
        if plans:
            issues += _prefix(claims, site, row.get("prefix"), plans[0], left)
    except (ValueError, OverflowError):
        return issues  # told where the plan is judged by itself
    epsilon = row.get("epsilon")
    figures = epsilon if isinstance(epsilon, dict) else {}
    errors = {"pld": 0.0, "rdp": 0.0, "prv": 2 * PRV_ERROR}
    for name, error in errors.items():
        claim, real = _number(figures.get(name)), getattr(cost, name)
        if claim is None and name == "pld":
            text = "no epsilon by PLD is claimed for the site"
            issues.append(claims.issue("summary-damaged", text, site))
        if claim is None or real is None:
            continue
        if not fits(real, claim + error):
            text = (
                f"claims epsilon {claim:.6g} ({name.upper()}), and the {every[0].steps} steps of "
                f"the plan in the ledger cost {real:.6g}"
            )
            issues.append(claims.issue("summary-understates", text, site))
    return issues


def _prefix(claims: Claims, site: str, said: Any, plan: Plan, delta: float) -> list[Issue]:
    """Check what the summary says that the steps of the rounds by themselves would have cost."""
    if said is None:
        return []  # older summaries have none
    steps, epsilon = (said.get(n) if isinstance(said, dict) else None for n in ("steps", "epsilon"))
    claim = _number(epsilon)
    if type(steps) is not int or not 0 <= steps <= plan.body["asked"] or claim is None:
        text = f"prefix must name steps of the plan, and an epsilon, got {json.dumps(said)[:80]}"
        return [claims.issue("summary-damaged", text, site)]
    real = compose_pld(parts_of([plan], [steps]), delta)
    if fits(real, claim):
        return []
    text = f"says epsilon {claim:.6g} of {steps} steps, which cost {real:.6g}"
    return [claims.issue("summary-understates", text, site)]


def _rounds(claims: Claims, site: str, book: Book, plans: list[Plan]) -> list[Issue]:
    """Find releases for which fewer steps were reserved than a round of the scenario takes."""
    numbers = {plan.number for plan in plans}
    used = {reserve for found in book.releases.values() for _, reserve in found}
    for row, body in book.reserves.items():
        if row in used and body["plan"] in numbers and body["steps"] < claims.round_steps:
            text = (
                f"the scenario takes {claims.round_steps} steps a round, and the ledger reserved "
                f"{body['steps']} for round {body['round']}"
            )
            return [book.issue("summary-mismatch", text, row)]
    return []


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
