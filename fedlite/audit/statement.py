"""What an audit says of one ledger: its figures, one plain sentence, and the spending over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedlite.audit.book import Book, alone_parts, charge
from fedlite.audit.claims import Claims
from fedlite.audit.cost import PRV_LIBRARY, Loss, fits, left_of, libraries, loss_of, slack_of
from fedlite.audit.lines import Witnessed
from fedlite.audit.rules import Issue
from fedlite.privacy.accounting import compose_pld
from fedlite.privacy.ranges import shares_noise
from fedlite.reporting import wording

CLEAN, FINDINGS, NOT_CLOSED, NOT_CHECKED = "clean", "findings", "not closed", "not checked"
# For these of its reasons a site declines because its budget is spent.
_BUDGET = ("ceiling", "plan-spent")


@dataclass
class Statement:
    """One ledger's figures; epsilons at `delta`, the ceiling's. None where there is none.

    plans: as the rows say. reserved, whole, asked: steps. spent: what the reserved steps cost;
    charged_loss: the whole plans, three ways; charged: by the rule that charges them, which
    `charged_by` names.
    declined: rounds that the site is known to have declined because its budget was spent, the
    first of them `declined_from`. timeline: (round, steps
    reserved so far) in the order of the rows. label: tells it from the
    site's other ledgers here, if there are any.
    """

    site: str
    dataset: str = ""
    ledger: str = ""
    paths: list[str] = field(default_factory=list)
    rows: int = 0
    runs: list[str] = field(default_factory=list)
    plans: list[Mapping[str, Any]] = field(default_factory=list)
    releases: int = 0
    reserved: int = 0
    whole: int = 0
    asked: int = 0
    asked_epsilon: float = 0.0
    declined: int = 0
    declined_from: int = 0
    spent: Loss | None = None
    charged_loss: Loss | None = None
    charged: float | None = None
    charged_by: str = ""
    alone: float | None = None
    ceiling: float | None = None
    person: float | None = None
    delta: float | None = None
    witnessed: int | None = None
    servers: list[str] = field(default_factory=list)
    timeline: list[tuple[int, int]] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    label: str = ""
    closed: bool = True

    @classmethod
    def absent(cls, site: str, path: str) -> Statement:
        """Return what can be said of a site whose ledger is not there."""
        return cls(site, paths=[path], rules=["ledger-missing"])

    @property
    def verdict(self) -> str:
        """ "clean", "findings", "not closed", or "not checked": nothing to compute from."""
        if not self.rows:
            return NOT_CHECKED
        if self.rules:
            return FINDINGS
        return CLEAN if self.closed else NOT_CLOSED

    @property
    def stopped(self) -> bool:
        """Whether the site's own ceiling ended its part before the plan that was asked for."""
        return bool(self.declined) or self.whole < self.asked

    @property
    def name(self) -> str:
        """The site, for a person; its file where the site is unknown."""
        name = self.site or (self.paths[0] if self.paths else "?")
        return wording.plain(f"{name} ({self.label})" if self.label else name)

    @property
    def sentence(self) -> str:
        """The ledger in a sentence or two."""
        rules = ", ".join(self.rules)
        if not self.rows:
            return f"{self.name}: NOT checked ({rules or 'no readable row'})."
        start = {
            CLEAN: "clean.",
            NOT_CLOSED: "no finding, but its run is NOT closed.",
            FINDINGS: f"NOT clean ({rules}).",
        }[self.verdict]
        return f"{self.name}: {start} {self._cost()}"

    def _cost(self) -> str:
        ceiling = f"{self.ceiling:g}"
        count = wording.count(self.releases, "release")
        if self.spent is None or self.charged is None:
            return f"{count}; what they cost could not be computed. The ceiling is {ceiling}."
        if self.stopped:
            text = (
                f"Stopped at {wording.epsilon(self.charged, 3)} of its own ceiling {ceiling}; the "
                f"server asked {wording.budget(self.asked_epsilon)}"
            )
            if self.declined > 1:
                text += f" and was declined in {self.declined:,} rounds"
            elif self.declined:
                text += " and was declined"
                text += f" from round {self.declined_from} on" if self.declined_from else ""
            return f"{text}. {count} (delta {self.delta:g})."
        # Only whole plans are a bound: where a run ended may have depended on what was released.
        of = (
            f"epsilon {wording.epsilon(self.charged, 4)} of its ceiling {ceiling} "
            f"(delta {self.delta:g})"
        )
        if self.verdict == CLEAN:
            return f"{count} cost at most {of}{self._others()}."
        return f"The ledger shows {count} for {of}; more may have been spent."

    def _others(self) -> str:
        """Return on whom the figure rests, where the noise is shared."""
        shared = [plan for plan in self.plans if shares_noise(plan["unit"])]
        if not shared or self.alone is None:
            return ""
        told = ", ".join(
            dict.fromkeys(f"{plan['honest']} of {plan['members']} members" for plan in shared)
        )
        return (
            f", if at least {told} are honest; {wording.epsilon(self.alone, 4)} if all others "
            "collude with the server"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the statement as plain data; see `fedlite.audit.Audit.as_dict`."""
        nothing = {"pld": None, "rdp": None, "prv": None}
        return {
            "site": self.site,
            "dataset": self.dataset,
            "ledger": self.ledger,
            "paths": self.paths,
            "rows": self.rows,
            "runs": self.runs,
            "plans": [dict(plan) for plan in self.plans],
            "releases": self.releases,
            "steps": {"reserved": self.reserved, "charged": self.whole, "asked": self.asked},
            "declined": self.declined,
            "epsilon": {
                "spent": self.spent.as_dict() if self.spent else nothing,
                "whole": self.charged_loss.as_dict() if self.charged_loss else nothing,
                "charged": _finite(self.charged),
                "charged_by": self.charged_by,
                **({} if self.alone is None else {"alone": _finite(self.alone)}),
                "asked": self.asked_epsilon,
                "ceiling": self.ceiling,
                "person": self.person,
                "delta": self.delta,
            },
            "witnessed": {"last": self.witnessed, "keys": self.servers},
            "verdict": self.verdict,
            "sentence": self.sentence,
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def state(
    books: Sequence[Book],
    issues: Sequence[Issue],
    claims: Sequence[Claims],
    witnessed: Sequence[Witnessed],
    *,
    closed: bool = True,
) -> Statement:
    """Return the statement on a ledger (its copies, the longest first) and what was found on it."""
    book = books[0]
    rules = [issue.rule for issue in issues if issue.severity == "finding"]
    statement = Statement(
        book.site,
        book.dataset,
        book.id,
        [str(one.path) for one in books],
        len(book.rows),
        rules=list(dict.fromkeys(rules)),
        closed=closed,
    )
    if book.rows:
        _count(statement, book, claims, witnessed)
        _price(statement, book)
        new = [i.rule for i in statement.issues if i.severity == "finding"]
        statement.rules = list(dict.fromkeys([*statement.rules, *new]))
    return statement


def _count(
    statement: Statement, book: Book, claims: Sequence[Claims], witnessed: Sequence[Witnessed]
) -> None:
    policy = book.policy
    statement.runs = list(dict.fromkeys(plan.run for plan in book.plans))
    statement.plans = [plan.body for plan in book.plans]
    statement.releases = book.released()
    statement.reserved = sum(book.reserved())
    statement.whole = sum(plan.steps for plan in book.plans)
    statement.asked = sum(plan.body["asked"] for plan in book.plans)
    statement.asked_epsilon = max(plan.body["epsilon_asked"] for plan in book.plans)
    statement.ceiling, statement.delta = policy["epsilon"], policy["delta"]
    statement.person = policy["person"] or None
    # The ledger holds the first refusal of a run, the server's rounds all of them.
    declined = {
        (row.body["run"], row.body["round"]) for row in book.refusals if row.body["why"] in _BUDGET
    }
    for claim in claims:
        declined |= {(claim.run, number) for number in claim.declined.get(book.site, ())}
    statement.declined = len(declined)
    statement.declined_from = min((number for _, number in declined), default=0)
    seen = [
        (line.seq, line.witness)
        for one in witnessed
        for _, line in one.lines
        if line.kind == "seen" and line.ledger == book.id
    ]
    statement.witnessed = max((seq for seq, _ in seen), default=None)
    statement.servers = sorted({key for _, key in seen})
    total = 0
    for body in book.reserves.values():
        total += body["steps"]
        statement.timeline.append((body["round"], total))


def _price(statement: Statement, book: Book) -> None:
    policy = book.policy
    ceiling, delta = policy["epsilon"], policy["delta"]
    try:
        left = left_of(book.plans, delta, slack_of(book.plans, ceiling))
        statement.charged, statement.charged_by = charge(book.plans, ceiling, delta, book.order)
        statement.spent = loss_of(book.used_parts(), left)
        statement.charged_loss = loss_of(book.whole_parts(), left)
        if any(shares_noise(plan.body["unit"]) for plan in book.plans):
            statement.alone = compose_pld(alone_parts(book.plans), left)
    except (ValueError, OverflowError) as error:
        text = f"what it cost cannot be computed: {error}"
        statement.issues.append(book.issue("not-computed", text))
        return
    for what, loss in (
        ("steps reserved", statement.spent),
        ("whole plans", statement.charged_loss),
    ):
        if not loss.agree:
            figures = ", ".join(f"{n} {v}" for n, v in loss.as_dict().items() if v is not None)
            text = f"the {what} cost {figures}"
            statement.issues.append(book.issue("accountants-disagree", text))
    if statement.spent.prv is None or statement.charged_loss.prv is None:
        missing = not libraries()["prv"]
        why = f"{PRV_LIBRARY} is not installed" if missing else f"{PRV_LIBRARY} gave no figure"
        statement.issues.append(book.issue("not-computed", f"PRV: {why}").as_note())
    lowered = book.policy_at(book.plans[-1].seq)["epsilon"] > ceiling
    if lowered and not fits(statement.charged, ceiling):
        text = f"{statement.charged:.4f} were charged before the ceiling was lowered to {ceiling:g}"
        statement.issues.append(book.issue("ceiling-lowered", text).as_note())
