"""What the rows of a ledger mean for a budget: a pure reducer, and the rules that it holds.

The form of the rows, their chain, signatures, grants and witnesses are judged where rows are read
(`fedlite.privacy.ledger.chain`); here they are taken as genuine, and asked whether they make sense.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedlite.privacy.budget.plans import Plan, parts_of
from fedlite.privacy.budget.policy import Policy
from fedlite.privacy.ledger.rows import Row
from fedlite.privacy.ledger.rules import LedgerError
from fedlite.privacy.mechanism import Event
from fedlite.privacy.ranges import plan_problem

# Rows that say nothing of the data: a witness of these alone is not worth a row of its own.
_IDLE = ("witness", "refuse")


@dataclass
class Reservation:
    """The worst case of one attempt at one round. `payload`: SHA-256 of what was settled, or ""."""

    row: int
    plan: int
    run: str
    round: int
    steps: int
    model: str
    payload: str = ""
    released: bool = False


@dataclass
class Account:
    """A ledger's rows, reduced: policy in force, plans, what was reserved, settled and released.

    `rows` counts the rows taken. `opened` has the policy that was in force at each plan's row.
    `witnessed` is the last row that a witness has seen, -1 for none.
    An account that has raised an error is of no further use: it is no longer `sound`. `last` is the
    hash of the last row.
    """

    rows: int = 0
    id: str = ""
    site: str = ""
    dataset: str = ""
    owner: str = ""
    order: float = 0.0
    commitment: str = ""
    policy: Policy = field(default_factory=lambda: Policy(epsilon=0.0, units=()))
    policy_hash: str = ""
    plans: list[Plan] = field(default_factory=list)
    opened: list[Policy] = field(default_factory=list)
    reservations: dict[int, Reservation] = field(default_factory=dict)
    refusals: set[tuple[str, str]] = field(default_factory=set)
    witnessed: int = -1
    last: str = ""
    sound: bool = True
    _numbers: dict[str, int] = field(default_factory=dict)
    _reserved: list[int] = field(default_factory=list)
    _latest: dict[tuple[str, int], Reservation] = field(default_factory=dict)
    _released: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    _telling: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Account:
        """Return the account of a ledger's rows; raises LedgerError at the first senseless one."""
        return cls().follow(rows)

    def follow(self, rows: Iterable[Row]) -> Account:
        """Take the next rows and return itself; raises as `of` does."""
        for row in rows:
            self.apply(row)
        return self

    def apply(self, row: Row) -> None:
        """Take the next row.

        Raises LedgerError with the row's number and a rule: genesis, sequence, plan-bound,
        plan-above-asked, plan-above-ceiling, plan-unit, plan-honest, plan-above-alone,
        plan-terms, plan-not-a-member, plan-run-twice,
        reserve-unknown-plan, reserve-other-run, plan-overspent, settle-without-reserve,
        settle-twice, settle-above-reserve, release-without-reserve, release-unsettled,
        release-mismatch, release-twice, refuse-twice, witness-not-listed.
        """
        self.sound = False
        if (row.kind == "genesis") != (self.rows == 0):
            raise LedgerError("genesis", "must be the first row and no other", row.seq)
        if row.seq != self.rows:
            raise LedgerError("sequence", f"must be row {self.rows}, got {row.seq}", row.seq)
        take = _TAKE.get(row.kind)
        if take is not None:
            take(self, row, row.body)
        if row.kind not in _IDLE:
            self._telling.append(row.seq)
        self.rows += 1
        self.last, self.sound = row.hash, True

    def number_of(self, run: str) -> int | None:
        """Return the number of a run's plan, if it has one."""
        return self._numbers.get(run)

    def reserved(self, plan: int) -> int:
        """Return the steps reserved under plan `plan`, whatever became of them."""
        return self._reserved[plan]

    def latest(self, run: str, round: int) -> Reservation | None:
        """Return the last reservation for a round."""
        return self._latest.get((run, round))

    def released(self, payload: str, at: tuple[str, int] | None = None) -> bool:
        """Return whether the payload with this SHA-256 was released; `at`: in that (run, round)."""
        places = self._released.get(payload, set())
        return bool(places) if at is None else at in places

    def parts(self) -> list[tuple[Event, int]]:
        """Return what was charged: every plan in its whole length."""
        return parts_of(self.plans)

    def used_parts(self) -> list[tuple[Event, int]]:
        """Return what was reserved, plan by plan; at most that much has been released."""
        return parts_of(self.plans, self._reserved)

    def tells(self, row: int) -> bool:
        """Return whether the rows up to `row` say anything that no witness has seen yet."""
        before = bisect_right(self._telling, self.witnessed)
        return bisect_right(self._telling, row) > before

    def _genesis(self, row: Row, body: Mapping[str, Any]) -> None:
        self.id = row.hash
        self.site, self.dataset, self.owner = body["site"], body["dataset"], body["owner"]
        self.order, self.commitment = body["order"], body["commitment"]
        self._policy(row, body)
        self._plan(row, body)

    def _policy(self, row: Row, body: Mapping[str, Any]) -> None:
        self.policy, self.policy_hash = Policy.of(body["policy"]), row.hash

    def _plan(self, row: Row, body: Mapping[str, Any]) -> None:
        plan, number = Plan(**body["plan"]), len(self.plans)
        if plan.run in self._numbers:
            raise _wrong(row, "plan-run-twice", f"run {plan.run} has a plan already")
        if plan.bound != ("rdp" if self.plans else "pld"):
            raise _wrong(row, "plan-bound", f"plan {number} must not be charged by {plan.bound}")
        if plan.steps > plan.asked:
            raise _wrong(
                row, "plan-above-asked", f"{plan.steps} steps, and {plan.asked} were asked for"
            )
        if plan.charged > self.policy.epsilon:
            raise _wrong(
                row,
                "plan-above-ceiling",
                f"charged {plan.charged:g}, and the ceiling in force is {self.policy.epsilon:g}",
            )
        if not self.policy.allows(plan.unit):
            raise _wrong(row, "plan-unit", f"the policy in force does not allow {plan.unit}")
        problem = plan_problem(body["plan"])
        if problem:
            raise _wrong(row, "plan-terms", f"plan {number}: {problem}")
        if plan.shared:
            self._shared(row, plan)
        self._numbers[plan.run] = number
        self.plans.append(plan)
        self.opened.append(self.policy)
        self._reserved.append(0)

    def _shared(self, row: Row, plan: Plan) -> None:
        if not self.policy.trusts(plan.honest):
            raise _wrong(
                row,
                "plan-honest",
                f"takes {plan.honest - 1} others for honest, and the policy in force trusts "
                f"{self.policy.honest}",
            )
        if plan.alone > self.policy.collusion:
            raise _wrong(
                row,
                "plan-above-alone",
                f"{plan.alone:g} if all others collude, and the ceiling in force for that is "
                f"{self.policy.collusion:g}",
            )
        if self.site not in plan.group:
            raise _wrong(row, "plan-not-a-member", f"its group does not hold {self.site!r}")

    def _reserve(self, row: Row, body: Mapping[str, Any]) -> None:
        number, run = body["plan"], body["run"]
        if number >= len(self.plans):
            raise _wrong(row, "reserve-unknown-plan", f"there is no plan {number} before this row")
        plan = self.plans[number]
        if plan.run != run:
            raise _wrong(row, "reserve-other-run", f"plan {number} is of run {plan.run}, not {run}")
        total = self._reserved[number] + body["steps"]
        if total > plan.steps:
            raise _wrong(
                row,
                "plan-overspent",
                f"{total} steps reserved of the {plan.steps} of plan {number}",
            )
        self._reserved[number] = total
        reservation = Reservation(row.seq, **body)
        self.reservations[row.seq] = reservation
        self._latest[run, body["round"]] = reservation

    def _settle(self, row: Row, body: Mapping[str, Any]) -> None:
        reservation = self.reservations.get(body["of"])
        if reservation is None:
            raise _wrong(row, "settle-without-reserve", f"row {body['of']} reserves nothing")
        if reservation.payload:
            raise _wrong(row, "settle-twice", f"row {body['of']} was settled before")
        if body["steps"] > reservation.steps:
            raise _wrong(
                row,
                "settle-above-reserve",
                f"{body['steps']} steps run, and {reservation.steps} were reserved",
            )
        reservation.payload = body["payload"]

    def _release(self, row: Row, body: Mapping[str, Any]) -> None:
        reservation = self.reservations.get(body["of"])
        if reservation is None:
            raise _wrong(row, "release-without-reserve", f"row {body['of']} reserves nothing")
        if not reservation.payload:
            raise _wrong(row, "release-unsettled", f"row {body['of']} was not settled")
        if reservation.payload != body["payload"]:
            raise _wrong(row, "release-mismatch", f"row {body['of']} settled another payload")
        if reservation.released:
            raise _wrong(row, "release-twice", f"row {body['of']} was released before")
        reservation.released = True
        place = (reservation.run, reservation.round)
        self._released.setdefault(body["payload"], set()).add(place)

    def _refuse(self, row: Row, body: Mapping[str, Any]) -> None:
        key = (body["run"], body["why"])
        if key in self.refusals:
            raise _wrong(row, "refuse-twice", f"run {key[0]} was refused for {key[1]} before")
        self.refusals.add(key)

    def _witness(self, row: Row, body: Mapping[str, Any]) -> None:
        servers = self.policy.servers
        if servers and body["witness"] not in servers:
            raise _wrong(
                row,
                "witness-not-listed",
                f"the policy in force does not list the server {body['witness'][:16]}...",
            )
        self.witnessed = max(self.witnessed, body["seq"])

    def _dataset(self, row: Row, body: Mapping[str, Any]) -> None:
        self.commitment = body["commitment"]


_TAKE = {
    "genesis": Account._genesis,
    "plan": Account._plan,
    "policy": Account._policy,
    "reserve": Account._reserve,
    "settle": Account._settle,
    "release": Account._release,
    "refuse": Account._refuse,
    "witness": Account._witness,
    "dataset-change": Account._dataset,
}


def _wrong(row: Row, rule: str, text: str) -> LedgerError:
    return LedgerError(rule, f"{text}; a site that follows the rules writes no such row", row.seq)
