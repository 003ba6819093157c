"""The round loop: whom to ask, what to send, which answers count, and when to stop.

Nothing here waits without a limit and no answer can stop a run: a reply that is wrong in any way is
dropped, counted and named, and the round goes on with the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from fedlite import depth, flower
from fedlite.messages import Code, Instruction, site_id
from fedlite.parameters import Vector
from fedlite.plan import Plan
from fedlite.reporting.record import RoundRecord, append_round, read_rounds, rewrite_rounds
from server import alarm, attendance, checkpoint, lengths, replies
from server.checkpoint import Checkpoint, SiteRecord
from server.outcome import Outcome
from server.replies import InOrder
from server.roster import Roster
from server.selection import Selector
from server.sums import Sums
from server.updates import Updates
from server.witness import Disagreement, Witness
from strategies import ServerState

log = logging.getLogger("fedlite.server")

_VOID_ROUNDS = 3


class RunFailed(RuntimeError):
    """The run cannot go on; the text says why and what to do. The last checkpoint is whole."""


class Rounds:
    """A run from its first round, or from its checkpoint, to its last.

    grid: Flower's way to the sites. roster: who is there. run: its 8 bytes. witness: remembers
    the heads of the sites' ledgers, when they keep any; the roster's, too. adapt: whether the
    deadline follows what sites were seen to need; never in a simulation, which a busy machine would
    change. journal(action, **facts) is told which sites are asked less. selector: chooses among
    rounds.
    epsilon(asked) returns the privacy loss of a site that was asked so often. evaluate(round,
    model) returns the scores by name and branch.
    """

    def __init__(
        self,
        grid: Grid,
        plan: Plan,
        directory: Path,
        roster: Roster,
        *,
        run: bytes,
        witness: Witness | None = None,
        adapt: bool = False,
        journal: Callable[..., object] = log.debug,
        selector: Selector | None = None,
    ) -> None:
        """Start afresh, or go on after the last checkpoint in `directory`."""
        self.grid = grid
        self.plan = plan
        self.scenario = plan.scenario
        self.directory = directory
        self._witness = witness
        self.roster = roster
        self._adapt, self._journal, self._selector = adapt, journal, selector
        self.updates: Updates | Sums = Updates(plan, witness)
        if plan.shared is not None:
            self.updates = Sums(plan, grid, roster, directory, witness)
        initial = plan.initial
        found = checkpoint.load(directory / "checkpoint")
        if found is None:
            found = Checkpoint.before(run, plan)
        elif found.state.model.shape != initial.shape:
            raise RunFailed(
                f"{directory}: the checkpoint has {found.state.model.size} parameters, the "
                f"scenario's model {initial.size}; resume with the scenario that began the run"
            )
        self.point = found
        kept = [r for r in read_rounds(directory) if r.round <= found.round]
        if len(kept) != found.round:
            raise RunFailed(
                f"{directory}: rounds.jsonl has {len(kept)} of the {found.round} rounds before the "
                "checkpoint; restore it from a backup or start again in a new directory"
            )
        rewrite_rounds(directory, kept)
        self.records = kept

    def play(
        self,
        *,
        epsilon: Callable[[int], float | None],
        evaluate: Callable[[int, Vector], dict[str, dict[str, float]]],
        cpu_seconds: Callable[[], float],
    ) -> Iterator[RoundRecord]:
        """Run the rounds that are left; yields each round's record once it is on disk.

        Raises RunFailed when too few sites can be found, or answer, several times in a row, and
        when all rounds are over and not one update was ever accepted: that model is untrained.
        """
        federation = self.scenario.federation
        for site in self.point.sites.values():
            # A ceiling may have been raised while the run was interrupted.
            site.spent = False
        self._gather()
        if isinstance(self.updates, Sums):
            self.updates.meet(self.point.run)
        void = 0
        for number in range(self.point.round + 1, federation.rounds + 1):
            if self._selector is not None and self._selector.over(self.point.kept):
                log.info("no round was better for so long that the run ends before its last")
                break
            started, cpu, before = time.monotonic(), cpu_seconds(), self._site_seconds()
            if number > 1:
                self.roster.wait_for_quorum(self._spent())
            joined = sorted(self.roster.nodes.keys() - self.point.sites.keys())
            self.point.sites.update({name: SiteRecord() for name in joined})
            outcome, state = self._round(number)
            self._judge(number, outcome)
            # Too few answers make no round: their senders are told so and take the updates back.
            enough = len(outcome.used) >= federation.quorum
            if enough and not self.point.can_send(self.plan, state):
                log.error("round %d: the server's step is too long and is not taken", number)
                enough = False
            moved = alarm.distance(self.point.state.model, state.model) if enough else 0.0
            moves = (r.moved for r in lengths.alike(self.plan, self.records, number))
            jump = alarm.jump(moved, moves, self.point.state.model)
            if enough and self.plan.weak.issuperset(outcome.used):
                log.warning("round %d: no site that trains the tail was used: it stays", number)
            if jump:
                log.error("round %d moved the model %.3g times as far as usual", number, jump)
            void = 0 if enough else void + 1
            if not void:
                for name in outcome.used:
                    self.point.sites[name].acknowledged = number
                    self.point.sites[name].used += 1
                    self.point.sites[name].records = self.updates.records.get(name, 0)
                    if self._adapt:
                        self.point.sites[name].took = round(outcome.took[name], 4)
                self.point.state = state
            self.point.round = number
            scores = dict(evaluate(number, self.point.state.deployed))
            if self._selector is not None and scores and enough:
                self.point.kept = self._selector.after(
                    self.point.kept, number, self.point.state.deployed
                )
            record = RoundRecord(
                round=number,
                accepted=0 if void else len(outcome.used),
                dropped=outcome.dropped,
                missing=outcome.missing,
                accuracy=scores.pop("accuracy", {}),
                auc=scores.pop("auc", {}),
                scores=scores,
                **outcome.bytes,
                kinds=outcome.kinds(self._site_seconds(before)),
                epsilon=epsilon(max((s.asked for s in self.point.sites.values()), default=0)),
                seconds=round(time.monotonic() - started, 4),
                cpu_seconds=round(cpu_seconds() - cpu, 4),
                joined=joined,
                asked=outcome.drawn,
                out=outcome.out,
                cut=dict(self.updates.cut),
                median=self.updates.medians[0],
                median_tail=self.updates.medians[-1] if len(self.updates.medians) > 1 else 0.0,
                moved=moved,
                jump=jump,
                product_error=self.updates.product_error,
                slowest=outcome.slowest if self._adapt else 0.0,
            )
            if self._witness is not None:
                self._witness.flush()
            append_round(self.directory, record)
            checkpoint.save(self.directory / "checkpoint", self.point)
            self.records.append(record)
            yield record
            if self._out_of_budget():
                if not any(r.accepted for r in self.records):
                    raise RunFailed(
                        "privacy.epsilon: no site's own budget lets one round of this plan (last: "
                        f"{self._why(outcome)}); ask for less, or see each site's site.toml and log"
                    )
                log.warning("too few sites have privacy budget left; the run ends here")
                return
            too_long = bool(void) and len(outcome.used) >= federation.quorum
            in_vain = number == federation.rounds and not any(r.accepted for r in self.records)
            if too_long and (void >= _VOID_ROUNDS or in_vain):
                raise RunFailed(
                    f"federation.server_learning_rate: {federation.server_learning_rate:g} makes "
                    "steps that are too long to be sent, or no numbers, with federation.strategy "
                    f"{federation.strategy!r}; lower it, or federation.server_momentum, see that a "
                    "strategy of your own stays finite, and begin anew in another directory"
                )
            if void >= _VOID_ROUNDS:
                raise RunFailed(
                    f"federation.quorum: {federation.quorum} updates a round are needed, and "
                    f"{void} rounds in a row had fewer (last: {self._why(outcome)}); mend the "
                    f"sites, then resume {self.directory}"
                )
        if not any(r.accepted for r in self.records):
            last = self.records[-1]
            why = self._why(Outcome(self.plan, dropped=last.dropped, missing=last.missing))
            raise RunFailed(
                f"federation.rounds: all {federation.rounds} are over and no update was ever "
                f"accepted, so nothing was trained (last: {why}); see the sites' messages, mend "
                "what they name, and begin anew in another directory"
            )

    def _site_seconds(self, before: Mapping[str, float] | None = None) -> dict[str, float]:
        """Return the processor seconds of each site (since `before`), where the grid knows them."""
        of = getattr(self.grid, "site_seconds", None)
        spent = {name: of(node) for name, node in self.roster.nodes.items()} if of else {}
        return {name: now - (before or {}).get(name, 0.0) for name, now in spent.items()}

    def _gather(self) -> None:
        self.roster.gather()
        there, quorum = len(self.roster.nodes), self.scenario.federation.quorum
        if there < quorum:
            raise RunFailed(
                f"federation.quorum: needs {quorum} sites, only {there} can take part "
                f"({self.roster.why_out()}); the refused sites' own logs say why"
            )

    def _spent(self) -> set[str]:
        return {name for name, record in self.point.sites.items() if record.spent}

    def _out_of_budget(self) -> bool:
        """Whether the sites whose own budgets are spent leave too few for any further round."""
        there = self.roster.nodes.keys()
        spent = there & self._spent()
        return bool(spent) and len(there - spent) < self.scenario.federation.quorum

    def _judge(self, number: int, outcome: Outcome) -> None:
        """Give strikes for a round, and say who will be asked less for them."""
        rested = attendance.judge(
            self.point.sites,
            number,
            used=outcome.used,
            dropped=outcome.dropped,
            missing=outcome.missing,
            late=attendance.late(outcome.took, outcome.used) if self._adapt else frozenset(),
        )
        for name, strikes in rested.items():
            until = self.point.sites[name].again
            log.warning(
                "%s: %d rounds in a row without a valid update; not asked before round %d",
                name,
                strikes,
                until,
            )
            self._journal("rest", run=self.directory.name, site=name, strikes=strikes, round=until)

    def _why(self, outcome: Outcome) -> str:
        parts = [f"{name} {code}" for name, code in sorted(outcome.dropped.items())]
        parts += [f"{name} no reply" for name in outcome.missing]
        return ", ".join(parts) or f"{len(outcome.used)} used"

    def _round(self, number: int) -> tuple[Outcome, ServerState]:
        federation, point = self.scenario.federation, self.point
        point.advance(self.plan, number)
        self.updates.start(point, number, lengths.usual(self.plan, self.records, number))

        there = self.roster.nodes.keys()
        names = attendance.candidates(there, point.sites, number, federation.quorum)
        if isinstance(self.updates, Sums):
            names = self.updates.members(names)
        rng = np.random.default_rng([federation.seed, number])
        wanted = min(federation.participants, len(names))
        chosen = sorted(names[i] for i in rng.choice(len(names), wanted, replace=False))

        outcome = Outcome(
            self.plan,
            drawn=chosen if len(chosen) < len(names) else [],
            out=attendance.absent(there, point.sites, names),
        )
        order = InOrder(chosen)
        again = self._ask(chosen, number, outcome, order)
        if again:
            # A site that lost its model gets all of it, once, in the same round.
            for name in again:
                point.sites[name].held = None
            self._ask(again, number, outcome, order)
        for name, blob in order.rest():
            self._use(name, number, blob, outcome)
        outcome.missing = order.missing()
        if isinstance(self.updates, Sums):
            self.updates.conclude(outcome)
        return outcome, self.updates.finish()

    def _ask(self, names: list[str], number: int, outcome: Outcome, order: InOrder) -> list[str]:
        """Invite sites, use replies in the order of names, return who needs the full model."""
        digests = {p: self.point.down(p).digest for p in depth.kinds(self.plan)}
        by_node = {self.roster.nodes[name]: name for name in names}
        again: list[str] = []

        def questions() -> Iterator[Message]:
            # Each is made when the grid takes it: a late joiner's holds the whole model.
            for node, name in by_node.items():
                plan = depth.plan_of(self.plan, name)
                instruction = self._instruction(name, number, plan, digests[plan]).encode()
                outcome.sent_down(name, len(instruction))
                self.point.sites[name].asked = min(self.point.sites[name].asked + 1, number)
                yield flower.ask(instruction, node, "train", str(number))

        deadline = self.scenario.federation.deadline_seconds
        if self._adapt:
            deadline = attendance.deadline(deadline, self.records, self.point.sites, names)
        started = time.monotonic()
        for message in replies.ask(self.grid, questions(), deadline):
            name = by_node.get(message.metadata.src_node_id, "")
            if not name and message.has_error():
                # Flower answers itself for a node that it takes for gone.
                log.warning("round %d: Flower says: %s", number, message.error.reason)
            if not name or name in order.seen:
                continue
            code = flower.code_of(message)
            if code is Code.NEED_FULL_MODEL and self.point.sites[name].held is not None:
                if name not in again:
                    again.append(name)
                continue
            arrived = self._blob(name, message, outcome)
            outcome.took[name] = time.monotonic() - started
            for ready, blob in order.add(name, arrived):
                self._use(ready, number, blob, outcome)
        return again

    def _instruction(self, name: str, number: int, plan: Plan, digest: bytes) -> Instruction:
        point, record = self.point, self.point.sites[name]
        with_step = self.scenario.uplink.aggregate_feedback > 0
        return Instruction(
            run=point.run,
            round=number,
            site=site_id(name),
            acknowledged=record.acknowledged,
            model=digest,
            frames=point.down(plan).frames_for(
                record.held, plan.travelling.digest, point.run, with_step=with_step
            ),
            receipt=self._witness.receipt(name) if self._witness else None,
        )

    def _blob(self, name: str, message: Message, outcome: Outcome) -> bytes | None:
        """Return what a reply holds, or note why it holds nothing."""
        record, code, blob = self.point.sites[name], flower.code_of(message), b""
        if code is None:
            try:
                blob = flower.unwrap(message)
            except ValueError as error:
                code = Code.BAD_UPDATE
                log.warning("%s: %s", name, error)
        if code is not None:
            outcome.dropped[name] = code.value
            if code is Code.BUDGET:
                # It took no step, and will take none for as long as this run is its plan.
                record.asked, record.spent = record.asked - 1, True
            return None
        outcome.sent_up(name, len(blob))
        record.releases += 1
        # What waits for its turn may not fill the memory: too long a reply never waits.
        return blob[: self.updates.longest + 1]

    def _use(self, name: str, number: int, blob: bytes, outcome: Outcome) -> None:
        """Add one update, or drop it."""
        try:
            self.updates.add(name, blob)
        except Disagreement as error:
            log.error("%s", error)
            outcome.dropped[name] = Code.LEDGER.value
            return
        except ValueError as error:
            log.warning("%s: the update was dropped: %s", name, error)
            outcome.dropped[name] = Code.BAD_UPDATE.value
            return
        outcome.used.append(name)
        self.point.sites[name].held = number
