"""One ledger, read: its chain verified, its rows put in order, its plans held against its ceilings.

The figures are computed from the rows alone, independently of the code that wrote them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from fedlite.audit.cost import fits, left_of, slack_of, surely
from fedlite.audit.rules import Issue
from fedlite.audit.sources import LedgerFile
from fedlite.privacy import admission
from fedlite.privacy.accounting import Parts, compose_pld
from fedlite.privacy.budget.account import Account
from fedlite.privacy.ledger.chain import verify
from fedlite.privacy.ledger.rows import Row
from fedlite.privacy.ledger.rules import LedgerError
from fedlite.privacy.mechanism import MAX_SLACK, Event
from fedlite.privacy.ranges import ALONE, bounds_absence, plan_problem, shares_noise

_JUMP_SECONDS = 300
# Each is charged together with all before it, which takes minutes for so many.
_MOST_PLANS = 1000
Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """A plan as its row says it. `seq`: that row. `body`: the PLAN of the format."""

    number: int
    seq: int
    body: Mapping[str, Any]

    @property
    def steps(self) -> int:
        """Steps that were charged."""
        return int(self.body["steps"])

    @property
    def run(self) -> str:
        """The run's name, 16 hex digits."""
        return str(self.body["run"])


@dataclass
class Book:
    """The rows of one ledger before the first error, sorted by what they are for.

    intact: whether all of the file could be verified. reserves: by row number. releases: by
    payload, the (row, reserve row) in which it was released.
    """

    file: LedgerFile
    rows: list[Row]
    intact: bool
    issues: list[Issue] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    reserves: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    releases: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    witnesses: list[Row] = field(default_factory=list)
    refusals: list[Row] = field(default_factory=list)
    policies: list[tuple[int, Policy]] = field(default_factory=list)
    keys: list[tuple[int, str]] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    @property
    def id(self) -> str:
        """The ledger's id, or "" when not even its first row is good."""
        return self.rows[0].hash if self.rows else ""

    @property
    def site(self) -> str:
        """The site by the first row; by the place of the file where there is no such row."""
        if self.rows:
            return str(self.rows[0].body["site"])
        return self.file.name if self.file.home == "run" else ""

    @property
    def dataset(self) -> str:
        """The data set, as `site`."""
        if self.rows:
            return str(self.rows[0].body["dataset"])
        return self.file.name if self.file.home == "site" else ""

    @property
    def order(self) -> float:
        """The Renyi order of this ledger's filter."""
        return float(self.rows[0].body["order"])

    @property
    def policy(self) -> Policy:
        """The policy in force now."""
        return self.policies[-1][1]

    def policy_at(self, seq: int) -> Policy:
        """Return the policy in force at a row, which may be the row that brought it."""
        return next(policy for at, policy in reversed(self.policies) if at <= seq)

    def key_at(self, seq: int) -> str:
        """Return the key that must have signed row `seq`."""
        return next(key for at, key in reversed(self.keys) if at <= seq)

    def run_before(self, seq: int) -> str:
        """Return the run of the last plan or reserve row up to `seq`."""
        for row in reversed(self.rows[: seq + 1]):
            if row.kind == "reserve":
                return str(row.body["run"])
            if row.kind in ("plan", "genesis"):
                return str(row.body["plan"]["run"])
        return ""

    def run_after(self, seq: int) -> str:
        """Return the run of the first reserve row after `seq`, or "" when there is none."""
        found = (row for row in self.rows[seq + 1 :] if row.kind == "reserve")
        return next((str(row.body["run"]) for row in found), "")

    def reserved(self, run: str = "") -> list[int]:
        """Return the steps reserved under each plan; `run` counts one run's only."""
        steps = [0] * len(self.plans)
        for body in self.reserves.values():
            if (not run or body["run"] == run) and body["plan"] < len(steps):
                steps[body["plan"]] += body["steps"]
        return steps

    def released(self, run: str = "") -> int:
        """Return how many payloads were released, in one run where `run` is given."""
        return sum(
            not run or any(self.reserves.get(of, {}).get("run") == run for _, of in places)
            for places in self.releases.values()
        )

    def used_parts(self) -> Parts:
        """Return (event, steps reserved) of every plan."""
        return parts_of(self.plans, self.reserved())

    def whole_parts(self) -> Parts:
        """Return (event, steps charged) of every plan."""
        return parts_of(self.plans)

    def issue(self, rule: str, text: str, row: int | None = None) -> Issue:
        """Return a finding about this ledger."""
        return Issue(rule, text, str(self.path), self.site, row)


def read(file: LedgerFile) -> Book:
    """Verify a ledger and judge everything that it shows by itself."""
    found = verify(file.data)
    book = Book(file, found.rows, intact=not found.errors)
    for finding in found.findings:
        issue = book.issue(finding.rule, finding.text, finding.row)
        if finding.severity == "note":
            issue = _note(book, issue)
        book.issues.append(issue)
    for row in book.rows:
        _sort(book, row)
    if sum(row.kind == "plan" for row in book.rows) >= _MOST_PLANS:
        text = f"has more than {_MOST_PLANS:,} plans; what came later was not charged"
        book.issues.append(book.issue("too-many", text))
    if book.rows:
        book.issues += _place(book)
        book.issues += _semantics(book)
        told = {(issue.rule, issue.row) for issue in book.issues}
        book.issues += [i for i in _ceilings(book) if (i.rule, i.row) not in told]
    return book


def _note(book: Book, issue: Issue) -> Issue:
    """Return a note of the verification; a clock that ran far back is a finding here."""
    if issue.rule == "clock" and issue.row is not None and 0 < issue.row < len(book.rows):
        before, after = (datetime.fromisoformat(book.rows[issue.row - n].time) for n in (1, 0))
        back = (before - after).total_seconds()
        if back > _JUMP_SECONDS:
            text = f"the clock ran back by {back:,.0f} s: {issue.text}"
            return book.issue("clock-jump", text, issue.row)
    return issue.as_note()


def _sort(book: Book, row: Row) -> None:
    body = row.body
    if row.kind in ("genesis", "plan") and len(book.plans) < _MOST_PLANS:
        book.plans.append(Plan(len(book.plans), row.seq, body["plan"]))
    if row.kind in ("genesis", "policy"):
        book.policies.append((row.seq, body["policy"]))
    if row.kind == "genesis":
        book.keys.append((row.seq, body["key"]))
    elif row.kind == "key-rotate":
        # The row itself is still signed by the old key.
        book.keys.append((row.seq + 1, body["key"]))
    elif row.kind == "reserve":
        book.reserves[row.seq] = body
    elif row.kind == "release":
        book.releases.setdefault(body["payload"], []).append((row.seq, body["of"]))
    elif row.kind == "witness":
        book.witnesses.append(row)
    elif row.kind == "refuse":
        book.refusals.append(row)


def _place(book: Book) -> list[Issue]:
    home, name = book.file.home, book.file.name
    said = {"run": book.site, "site": book.dataset}.get(home, name)
    if said == name:
        return []
    what = "site" if home == "run" else "data set"
    text = f"lies where that of {what} {name!r} should be, and says that it is of {said!r}"
    return [book.issue("wrong-site", text, 0)]


def _semantics(book: Book) -> list[Issue]:
    """Let the account take row after row, as the site does before it spends."""
    account = Account()
    for row in book.rows:
        try:
            account.apply(row)
        except LedgerError as error:
            return [book.issue(error.rule, error.text, row.seq)]
    return []


def _ceilings(book: Book) -> list[Issue]:
    """Recompute what every plan cost when it was admitted, under the policy in force then."""
    issues = []
    for plan in book.plans:
        policy = book.policy_at(plan.seq)
        if problem := plan_problem(plan.body):
            issues.append(book.issue("plan-terms", f"plan {plan.number}: {problem}", plan.seq))
            continue
        try:
            issues += _admitted(book, plan, policy)
        except (ValueError, OverflowError) as error:
            text = f"what the plan costs cannot be computed: {error}"
            issues.append(book.issue("plan-above-ceiling", text, plan.seq))
    return issues + lowered(book, _ceiling, partial(_cost, book), "")


def _ceiling(policy: Policy) -> float:
    return float(policy["epsilon"])


def _cost(book: Book, plans: Sequence[Plan], policy: Policy, steps: Sequence[int]) -> float:
    return charge(plans, policy["epsilon"], policy["delta"], book.order, steps)[0]


def parts_of(plans: Sequence[Plan], steps: Sequence[int] = ()) -> list[tuple[Event, int]]:
    """Return (event, steps) of each plan; `steps` replaces those that were charged.

    Sums over different units are for a change that all of them bound: something is replaced. Noise
    at the server, or shared noise on whole updates, is in units of what taking one client away
    changes, and replacing changes twice as much.
    """
    mixed = len({plan.body["unit"] for plan in plans}) > 1
    parts = []
    for plan, count in zip(plans, steps or [plan.steps for plan in plans], strict=True):
        sigma = plan.body["noise_multiplier"]
        if mixed and bounds_absence(plan.body["unit"]):
            sigma /= 2
        parts.append((Event(sigma, plan.body["sampling_rate"]), count))
    return parts


def alone_parts(plans: Sequence[Plan]) -> list[tuple[Event, int]]:
    """Return (event, steps) of each plan when all other members collude with the server.

    Of shared noise only the site's own is left then: sigma is that of `honest - (members - least)`
    sites, as many as are honest and surely in every sum.
    """
    return parts_of([by_itself(plan) for plan in plans])


def by_itself(plan: Plan) -> Plan:
    """Return what is left of a plan when all other members collude with the server.

    Raises ValueError where no honest member is surely in its sums.
    """
    body = plan.body
    if not shares_noise(body["unit"]):
        return plan
    sigma = body["noise_multiplier"] / math.sqrt(surely(body))
    return replace(plan, body={**body, "unit": ALONE[body["unit"]], "noise_multiplier": sigma})


def charge(
    plans: Sequence[Plan],
    ceiling: float,
    delta: float,
    order: float,
    steps: Sequence[int] = (),
) -> tuple[float, str]:
    """Return what `plans` cost by the rule that holds them under `ceiling`, and the rule.

    They count whole, or with the `steps` that are given. One plan by itself is charged by PLD
    ("pld"), several together by Renyi DP ("rdp") at `order`.
    Raises ValueError when a plan cannot be accounted.
    """
    left = left_of(plans, delta, slack_of(plans, ceiling))
    if len(plans) > 1:
        return admission.rdp_epsilon(parts_of(plans, steps), order, left), "rdp"
    return compose_pld(parts_of(plans, steps), left), "pld"


def _admitted(book: Book, plan: Plan, policy: Policy) -> list[Issue]:
    plans = book.plans[: plan.number + 1]
    ceiling, delta, said = policy["epsilon"], policy["delta"], plan.body
    cost, bound = charge(plans, ceiling, delta, book.order)
    slack = slack_of(plans, ceiling)
    where = f"plan {plan.number} (run {plan.run})"
    issues = []
    if not fits(cost, ceiling):
        text = (
            f"{where}: with it the ledger costs epsilon {cost:.6g} ({bound}), and the ceiling "
            f"at that row is {ceiling:g} (delta {delta:g})"
        )
        issues.append(book.issue("plan-above-ceiling", text, plan.seq))
    elif not fits(slack / delta, MAX_SLACK):
        text = (
            f"{where}: samples that its plans cut, and shares that they round, use up {slack:.2g} "
            f"of delta {delta:g}, and {MAX_SLACK:.0%} of it is kept for that"
        )
        issues.append(book.issue("plan-above-ceiling", text, plan.seq))
    if not fits(cost, said["charged"]):
        text = f"{where}: charged epsilon {said['charged']:.6g}, recomputed {cost:.6g} ({bound})"
        issues.append(book.issue("charge-understated", text, plan.seq))
    if policy["per_run"]:
        own, _ = charge([plan], policy["per_run"], delta, book.order)
        if not fits(own, policy["per_run"]):
            text = (
                f"{where}: costs epsilon {own:.4f} by itself, and a run may cost "
                f"{policy['per_run']:g}"
            )
            issues.append(book.issue("plan-above-run-ceiling", text, plan.seq))
    return issues


def _last_reserved(book: Book) -> list[tuple[Plan, int, int]]:
    """Return (plan, row, steps reserved by then) of each plan's last reservation by each policy."""
    totals = [0] * len(book.plans)
    last: dict[tuple[int, int], tuple[Plan, int, int]] = {}
    for seq, body in book.reserves.items():
        number = body["plan"]
        if number < len(totals):
            totals[number] += body["steps"]
            period = sum(at <= seq for at, _ in book.policies) - 1
            last[number, period] = book.plans[number], seq, totals[number]
    return list(last.values())


def lowered(
    book: Book,
    ceiling_of: Callable[[Policy], float],
    cost_of: Callable[[Sequence[Plan], Policy, Sequence[int]], float],
    said: str,
) -> list[Issue]:
    """Hold what was reserved after a ceiling was lowered against the lowered ceiling.

    ceiling_of: of a policy. cost_of: epsilon of plans under it, for so many steps of each. said:
    of what the ceiling is, for a person.
    """
    issues = []
    for plan, seq, total in _last_reserved(book):
        policy, then = book.policy_at(seq), book.policy_at(plan.seq)
        ceiling = ceiling_of(policy)
        if ceiling >= ceiling_of(then) and policy["delta"] >= then["delta"]:
            continue
        plans = [one for one in book.plans if one.seq < seq]
        try:
            cost = cost_of(plans, policy, [total if one is plan else one.steps for one in plans])
        except (ValueError, OverflowError):
            continue  # told where the plan is judged by itself
        if not fits(cost, ceiling):
            text = (
                f"plan {plan.number} (run {plan.run}): {total} steps cost epsilon {cost:.4f}"
                f"{said}, and the ceiling for that had been lowered to {ceiling:g}"
            )
            issues.append(book.issue("reserve-above-ceiling", text, seq))
    return issues


def prefix_of(short: Sequence[Row], long: Sequence[Row]) -> bool:
    """Tell whether one ledger's rows are the beginning of another's."""
    return len(short) <= len(long) and (not short or short[-1].hash == long[len(short) - 1].hash)
