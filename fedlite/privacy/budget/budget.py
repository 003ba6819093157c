"""The budget of one data set at one site: nothing private runs, and nothing leaves, but through it.

A run's plan is committed and charged, whole, before its first step (`begin`); every round's worst
case is written down before training (`reserve`), and what leaves before it is sent (`release`). All
of it is in the ledger, so a restart, another run or another server finds the same budget. A server
that asks for more than a ceiling lets gets as many steps as fit, and a refusal after them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from fedlite.identity import keys
from fedlite.messages import Receipt
from fedlite.privacy.admission import order_for
from fedlite.privacy.budget.account import Account, Reservation
from fedlite.privacy.budget.ceilings import admissible, colluded
from fedlite.privacy.budget.plans import Plan, asked_plan, check_run
from fedlite.privacy.budget.policy import Policy, SitePolicy
from fedlite.privacy.budget.siblings import Siblings
from fedlite.privacy.ledger import Ledger, LedgerError, Row
from fedlite.privacy.ledger.rows import witness_message
from fedlite.privacy.mechanism import MAX_SLACK, Mechanism, check_count

WHYS = {
    "ceiling": "not one round fits under the site's ceilings, or the ceiling has been lowered",
    "plan-spent": "the steps that were committed to are used up",
    "round-twice": "a round of shared noise was reserved before, and is masked only once",
    "unit": "the site's policy does not allow this unit of privacy",
    "honest": "the plan takes more members for honest than the site's policy trusts",
    "no-plan": "the run has committed to nothing",
    "other-plan": "the run has committed to another mechanism",
    "server": "the site's policy does not list the server that signed",
    "fork": "a server has signed another row than the one that stands there",
    "regress": "a server has seen rows that are missing here",
}
MOST_REFUSALS = 1000
_CEILINGS = {"epsilon", "delta", "person", "per_run", "alone"}


class Refused(Exception):
    """The budget does not allow it. `why` is one of `WHYS`; `text` is for the site's own log."""

    def __init__(self, why: str, text: str) -> None:
        """Keep the word and the sentence."""
        super().__init__(f"{why}: {text}")
        self.why = why
        self.text = text


# What this process has reduced, by the ledger's path: a run opens it three times a round.
_REDUCED: dict[str, Account] = {}


def _reduced(ledger: Ledger) -> Account:
    """Return the account of a ledger: of the rows since it was last reduced here, if they follow.

    A row's hash covers all rows before it, so the same last row is the same ledger.
    """
    rows, known = ledger.rows, _REDUCED.pop(ledger.path, None)
    begun = known is not None and known.sound and 0 < known.rows <= len(rows)
    account = (
        known if known is not None and begun and rows[known.rows - 1].hash == known.last else None
    )
    account = account or Account()
    account.follow(rows[account.rows :])
    _REDUCED[ledger.path] = account
    return account


class Budget:
    """An open ledger, spent by its rules.

    ledger: open, and owned by the caller. siblings: the ledgers of the site's other data sets, in
    which the same person may appear, or folders in which all `*.jsonl` are such ledgers; they are
    only read, and a missing one has spent nothing. A folder is the safer choice: it is looked into
    when a plan is opened, and then sees a ledger that another run has just begun.

    Raises LedgerError when the rows make no sense, and then nothing private may run.
    """

    def __init__(self, ledger: Ledger, *, siblings: Sequence[Path] = ()) -> None:
        """Reduce the rows there are."""
        self._ledger = ledger
        self._siblings = Siblings(siblings, ledger.path)
        self.account = _reduced(ledger)
        self._receipt: dict[str, object] = {}

    def enforce(self, policy: Policy) -> Policy:
        """Return the policy in force: the lower of `policy` and the ledger's.

        What `policy` lowers is written down at once, and stays when it is raised again.
        """
        if not self._ledger.exists:
            return policy
        lower = self.account.policy.meet(policy)
        if lower != self.account.policy:
            self._append("policy", {"policy": lower.body(), "grant": ""})
        return lower

    def raise_to(self, policy: Policy, grant: str) -> Row:
        """Put `policy` in force, which the data owner has signed (`guard.grants.sign_grant`).

        Raises LedgerError "grant" when the signature is not the owner's over this policy at this
        point of this ledger, and when the ledger names no owner.
        """
        return self._append("policy", {"policy": policy.body(), "grant": grant})

    def begin(
        self,
        run: str,
        mechanism: Mechanism,
        policy: SitePolicy,
        *,
        asked_epsilon: float,
        delta: float,
        dataset: str,
        commitment: str,
        code: str,
        round_steps: int = 1,
        group: Mapping[str, str] = MappingProxyType({}),
    ) -> int:
        """Commit the run to its plan and return the plan's number; the same again changes nothing.

        The plan is charged in its whole length. Where the ceilings let fewer than `mechanism.steps`
        steps, the largest number of whole rounds that fits is committed to, and the run ends after
        it. The first plan of a data set opens the ledger.

        run: 16 hex digits. policy: what site.toml says now; the lower of it and the ledger's is in
        force. asked_epsilon, delta: what the run promises for itself. dataset: its name.
        commitment: HMAC over the records, 64 hex digits; another than before is written down, and
        the spending goes on. code: digest of the site's code. round_steps: steps of one round.
        group: names and keys of those who share the noise, where it is shared.

        Raises Refused "unit", "honest", "ceiling" or "other-plan"; ValueError for a number outside
        its range. Where there is no ledger yet, a refusal leaves no row.
        """
        asked = asked_plan(
            run, mechanism, epsilon=asked_epsilon, delta=delta, code=code, group=group
        )
        check_count("round_steps", round_steps, 1)
        if self._ledger.exists:
            self._check_place(policy.site, dataset)
        in_force = self.enforce(policy)
        if self._ledger.exists and commitment != self.account.commitment:
            self._append("dataset-change", {"commitment": commitment})
        number = self.account.number_of(run)
        if number is not None:
            known = self.account.plans[number]
            if not known.asks_the_same(asked):
                text = f"run {run} committed to {known}, and asks for {asked}"
                self._refuse(run, 0, "other-plan", text)
            return number
        if not in_force.allows(asked.unit):
            allowed = ", ".join(in_force.units) or "nothing"
            self._refuse(run, 0, "unit", f"{asked.unit} is asked for, {allowed} is allowed")
        self._check_trust(run, 0, asked, in_force)
        with self._siblings.alone(in_force):
            plan = self._admitted(asked, in_force, round_steps)
            if self._ledger.exists:
                self._append("plan", {"plan": plan.body()})
            else:
                row = self._ledger.create(
                    {
                        "version": 1,
                        "site": policy.site,
                        "dataset": dataset,
                        "key": self._ledger.key,
                        "owner": policy.owner,
                        "commitment": commitment,
                        "code": code,
                        "order": order_for(in_force.epsilon, in_force.delta),
                        "policy": in_force.body(),
                        "plan": plan.body(),
                    }
                )
                self.account.apply(row)
        return len(self.account.plans) - 1

    def reserve(self, run: str, round: int, steps: int, model: str) -> Reservation:
        """Write down, durably, that up to `steps` steps are about to be taken for a round.

        They are spent from here on, whatever becomes of them. Training a round anew, after a crash
        or from another model, takes another reservation. model: digest of the model trained from,
        16 hex digits.

        Raises Refused "no-plan", "plan-spent", "unit", or "ceiling" when the ceiling was lowered
        below what the steps would come to; ValueError for a number outside its range.
        """
        check_run(run)
        check_count("round", round, 0)
        check_count("steps", steps, 1)
        number = self.account.number_of(run)
        if number is None:
            raise Refused("no-plan", f"run {run} has no plan here; begin it first")
        plan, policy = self.account.plans[number], self.account.policy
        total = self.account.reserved(number) + steps
        if not policy.allows(plan.unit):
            self._refuse(run, round, "unit", f"the policy does not allow {plan.unit} any more")
        self._check_trust(run, round, plan, policy)
        if plan.shared and self.account.latest(run, round) is not None:
            text = (
                f"round {round} of run {run} was reserved before, and what it was masked as is not "
                "known here (a crash, or an older copy of the disk); it is left out of this round"
            )
            self._refuse(run, round, "round-twice", text)
        if total > plan.steps:
            cut = f" (asked for {plan.asked})" if plan.asked > plan.steps else ""
            self._refuse(
                run, round, "plan-spent", f"all {plan.steps} steps of the plan are used{cut}"
            )
        if _CEILINGS & set(self.account.opened[number].beyond(policy)):
            fits = self._still(number, policy)
            if total > fits:
                text = f"{total} steps, and {fits} fit under the ceiling that is in force now"
                self._refuse(run, round, "ceiling", text)
        row = self._append(
            "reserve",
            {"plan": number, "run": run, "round": round, "steps": steps, "model": model},
        )
        return self.account.reservations[row.seq]

    def release(self, run: str, round: int, payload: bytes, *, steps: int | None = None) -> str:
        """Write down, durably, that `payload` leaves for a round; return its SHA-256 in hex.

        The same payload for the same run and round again needs no row and costs nothing. steps:
        steps really run, all that were reserved unless given; what was reserved stays spent.

        Raises LedgerError "release-without-reserve", or "release-mismatch" where the last
        reservation of the round has released another payload.
        """
        check_run(run)
        check_count("round", round, 0)
        digest = hashlib.sha256(payload).hexdigest()
        if self.account.released(digest, (run, round)):
            return digest
        last = self.account.latest(run, round)
        if last is None:
            raise LedgerError(
                "release-without-reserve",
                f"nothing was reserved for round {round} of run {run}; reserve before training",
            )
        if last.payload not in ("", digest) or last.released:
            raise LedgerError(
                "release-mismatch",
                f"round {round} of run {run} has released or settled another payload; send that, "
                "or reserve again before training again",
                last.row,
            )
        entries: list[tuple[str, dict[str, object]]] = []
        if not last.payload:
            run_steps = last.steps if steps is None else steps
            check_count("steps", run_steps, 0)
            if run_steps > last.steps:
                raise ValueError(
                    f"steps: must be at most the {last.steps} reserved, got {run_steps}"
                )
            entries.append(("settle", {"of": last.row, "steps": run_steps, "payload": digest}))
        entries.append(("release", {"of": last.row, "payload": digest, "bytes": len(payload)}))
        self._append_all(*entries)
        return digest

    def refuse(self, run: str, round: int, why: str) -> None:
        """Write down that a run was refused: its first refusal for each reason, and no more.

        A server that asks for ever can not fill the disk: a further refusal for the same reason is
        not written, none is where there is no ledger yet, and a ledger holds at most 1,000.
        """
        check_run(run)
        check_count("round", round, 0)
        if why not in WHYS:
            raise ValueError(f"why: must be one of {', '.join(WHYS)}, got {why!r}")
        refusals = self.account.refusals
        known = (run, why) in refusals or len(refusals) >= MOST_REFUSALS
        if self._ledger.exists and not known:
            self._append("refuse", {"run": run, "round": round, "why": why})

    def witness(self, receipt: Receipt) -> None:
        """Check what a server has seen of this ledger, and keep its signature with the next row.

        A receipt that does not fit means that this machine was restored from an old copy, cloned,
        or lost its ledger (or that the server lies): nothing private may run, and nothing is
        written, because rows added to an old copy would make a fork of it. A receipt that covers
        nothing new is not kept.

        Raises Refused "regress", "fork" or "server".
        """
        witness, signature = receipt.witness.hex(), receipt.signature.hex()
        if receipt.seq >= self.account.rows:
            raise Refused(
                "regress",
                f"server {witness[:16]}... has seen row {receipt.seq}, and this ledger has "
                f"{self.account.rows} rows; put the newest copy of {self._ledger.path} back",
            )
        servers = self.account.policy.servers
        if servers and witness not in servers:
            raise Refused("server", f"server {witness[:16]}... is not listed in site.toml")
        seen = self._ledger.rows[receipt.seq].hash
        message = witness_message(self.account.id, receipt.seq, seen)
        if not keys.verify(witness, signature, message):
            raise Refused(
                "fork",
                f"server {witness[:16]}... did not sign row {receipt.seq} as it stands here; find "
                f"out which copy of {self._ledger.path} went on",
            )
        if self.account.tells(receipt.seq):
            self._receipt = {
                "seq": receipt.seq,
                "hash": seen,
                "witness": witness,
                "signature": signature,
            }

    def _append(self, kind: str, body: dict[str, object]) -> Row:
        return self._append_all((kind, body))

    def _append_all(self, *entries: tuple[str, dict[str, object]]) -> Row:
        """Write rows in one flush, after the receipt that waits for one; return the last."""
        waiting = [("witness", self._receipt)] if self._receipt else []
        rows = self._ledger.append(*waiting, *entries)
        self._receipt = {}
        for row in rows:
            self.account.apply(row)
        return rows[-1]

    def _refuse(self, run: str, round: int, why: str, text: str) -> NoReturn:
        self.refuse(run, round, why)
        raise Refused(why, text)

    def _admitted(self, asked: Plan, policy: Policy, round_steps: int) -> Plan:
        admission = admissible(
            asked,
            self.account.plans,
            self._siblings.plans(policy),
            policy,
            self.account.order or 2.0,
            round_steps,
        )
        if not admission.steps:
            lost, most = asked.slack(policy.epsilon, round_steps), MAX_SLACK * policy.delta
            self._refuse(
                asked.run,
                0,
                "ceiling",
                f"{asked.asked} steps are asked for, and not one round of {round_steps} fits under "
                f"epsilon {policy.epsilon:g} (person {policy.person:g}, per run "
                f"{policy.per_run:g}; 0 is none{_or_alone(asked, policy)}) at delta "
                f"{policy.delta:g}, of which cut samples or rounded shares cost {lost:.2g} a round "
                f"there and may cost {most:.2g} in all",
            )
        admitted = replace(
            asked,
            steps=admission.steps,
            bound=admission.bound,
            charged=admission.charged,
        )
        return replace(admitted, alone=colluded([*self.account.plans, admitted], policy))

    def _check_trust(self, run: str, round: int, plan: Plan, policy: Policy) -> None:
        if plan.shared and not policy.trusts(plan.honest):
            self._refuse(
                run,
                round,
                "honest",
                f"{plan.honest} honest of {plan.members} are assumed, this site and "
                f"{plan.honest - 1} others, and budget.honest trusts {policy.honest} others",
            )

    def _still(self, number: int, policy: Policy) -> int:
        """Return how many steps of an open plan fit under a ceiling that was lowered since."""
        plans, order = self.account.plans, self.account.order
        others = plans[:number] + plans[number + 1 :]
        return admissible(plans[number], others, self._siblings.plans(policy), policy, order).steps

    def _check_place(self, site: str, dataset: str) -> None:
        account = self.account
        if (account.site, account.dataset) != (site, dataset):
            raise LedgerError(
                "wrong-site",
                f"is of site {account.site!r} and data set {account.dataset!r}, not of {site!r} "
                f"and {dataset!r}; a data set's ledger stays with it",
                0,
                self._ledger.path,
            )


def _or_alone(asked: Plan, policy: Policy) -> str:
    return f"; alone {policy.collusion:g}" if asked.shared else ""
