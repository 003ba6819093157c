"""One round's questions and answers: whom to ask, what to send, and which replies are used.

With a clock (`server.clock`) it is played in virtual time: who drops out is never asked, who would
answer after the deadline is missing, and of more sites than are needed the first are used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from fedlite import depth, flower
from fedlite.messages import Code, Instruction, site_id
from fedlite.plan import Plan
from fedlite.reporting.record import RoundRecord
from server import attendance, lengths, replies
from server.checkpoint import Checkpoint
from server.clock import Clock, drawn
from server.outcome import Outcome
from server.replies import InOrder
from server.roster import Roster
from server.sums import Sums
from server.updates import Updates
from server.witness import Disagreement, Witness
from strategies import ServerState

log = logging.getLogger("fedlite.server")


class Asking:
    """Plays one round after the other: all sites of a round train from one model.

    records: of the rounds so far, to which `server.rounds` adds. The others as of `Rounds`.
    """

    def __init__(
        self,
        grid: Grid,
        plan: Plan,
        point: Checkpoint,
        roster: Roster,
        updates: Updates | Sums,
        *,
        records: Sequence[RoundRecord],
        witness: Witness | None = None,
        adapt: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """Take what a run is made of."""
        self.grid, self.plan, self.scenario = grid, plan, plan.scenario
        self.point, self.roster, self.updates = point, roster, updates
        self._records, self._witness = records, witness
        self._adapt, self._clock = adapt, clock

    @property
    def now(self) -> float:
        """Virtual seconds since the run began."""
        return sum(record.simulated_seconds for record in self._records)

    def round(self, number: int) -> tuple[Outcome, ServerState]:
        """Play round `number`; return what came of it, and the state that its updates lead to."""
        federation, point = self.scenario.federation, self.point
        point.advance(self.plan, number)
        self.updates.start(point, number, lengths.usual(self.plan, self._records, number))

        names, out = self._able(number)
        rng = np.random.default_rng([federation.seed, number])
        chosen, waited = self._choose(names, rng)
        outcome = Outcome(
            self.plan,
            drawn=chosen if len(chosen) < len(names) else [],
            out=attendance.absent(self.roster.nodes, point.joined, point.sites, out),
        )
        lost = {n for n in chosen if self._clock is not None and self._clock.drops_out(n, number)}
        order = InOrder([name for name in chosen if name not in lost])
        again = self._ask(chosen, number, outcome, order, lost)
        if again:
            # A site that lost its model gets all of it, once, in the same round.
            for name in again:
                point.sites[name].held = None
            self._ask(again, number, outcome, order, frozenset())
        self._use_all(list(order.rest()), number, outcome)
        outcome.missing = sorted({*order.missing(), *lost})
        if self._clock is not None:
            self._end(self._clock, number, outcome, waited)
        if isinstance(self.updates, Sums):
            self.updates.conclude(outcome)
        return outcome, self.updates.finish()

    def _able(self, number: int) -> tuple[Sequence[str], dict[str, str]]:
        """Return whom a round may ask, in order, and why not the others that are there."""
        there, names = self.roster.nodes, self.roster.names
        if isinstance(self.updates, Sums):
            out, rest = attendance.unwilling(there, self.point.sites, number)
            able, others = self.updates.able([name for name in names if name not in out], rest)
            return able, out | others
        out = attendance.kept_out(there, self.point.sites, number, self.updates.quorum)
        return attendance.Without(names, out) if out else names, out

    def _choose(self, names: Sequence[str], rng: np.random.Generator) -> tuple[list[str], float]:
        """Return who is asked, and for how many virtual seconds enough sites were waited for."""
        clock, federation = self._clock, self.scenario.federation
        if clock is None:
            return drawn(names, federation.participants, rng), 0.0
        now = self.now
        start = clock.when(names, min(federation.quorum, len(names)), now)
        return clock.draw(names, clock.wanted, rng, start), start - now

    def _end(self, clock: Clock, number: int, outcome: Outcome, waited: float) -> None:
        """Settle how long the round lasted; use what was held back until that is known."""
        all_in = not outcome.missing
        seconds, outcome.late = clock.lasted(outcome.times, all_in=all_in)
        if len(outcome.times) >= clock.needed and clock.wanted > clock.needed:
            # Nobody waited for those: the round was over.
            never = [name for name in outcome.missing if name not in outcome.took]
            outcome.late = sorted({*outcome.late, *outcome.missing} - {*never})
            outcome.missing, outcome.excused = never, {*never}
        late = {*outcome.late}
        held = [(name, blob) for name, blob in sorted(outcome.held.items()) if name not in late]
        self._use_all(held, number, outcome)
        outcome.held.clear()
        outcome.seconds = waited + seconds

    def _ask(
        self,
        names: list[str],
        number: int,
        outcome: Outcome,
        order: InOrder,
        lost: set[str] | frozenset[str],
    ) -> list[str]:
        """Invite sites, use replies in the order of names, return who needs the full model.

        lost: who drops out, and so need not be sent what will never be answered.
        """
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
                if name not in lost:
                    yield flower.ask(instruction, node, "train", str(number))

        deadline = self.scenario.federation.deadline_seconds
        if self._adapt:
            deadline = attendance.deadline(deadline, self._records, self.point.sites, names)
        started = time.monotonic()
        for came in replies.in_turn(self.grid, questions(), deadline):
            ready: list[tuple[str, bytes]] = []
            for message in came:
                ready += self._ready(message, number, outcome, order, by_node, again, started)
            self._use_all(ready, number, outcome)
        return again

    def _ready(
        self,
        message: Message,
        number: int,
        outcome: Outcome,
        order: InOrder,
        by_node: Mapping[int, str],
        again: list[str],
        started: float,
    ) -> Iterator[tuple[str, bytes]]:
        """Take one reply; yield the updates whose turn has come with it, and by whom."""
        name = by_node.get(message.metadata.src_node_id, "")
        if not name and message.has_error():
            # Flower answers itself for a node that it takes for gone.
            log.warning("round %d: Flower says: %s", number, message.error.reason)
        if not name or name in order.seen:
            return
        code = flower.code_of(message)
        if code is Code.NEED_FULL_MODEL and self.point.sites[name].held is not None:
            if name not in again:
                again.append(name)
            return
        arrived = self._blob(name, message, outcome)
        outcome.took[name] = time.monotonic() - started
        if arrived is not None and self._clock is not None:
            seconds = self._clock.seconds(name, down=outcome.got.get(name, 0), up=len(arrived))
            if seconds > self._clock.deadline:
                return
            outcome.times[name] = seconds
            if self._clock.wanted > self._clock.needed:
                outcome.held[name], arrived = arrived, None
        yield from order.add(name, arrived)

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

    def _use_all(self, ready: Sequence[tuple[str, bytes]], number: int, outcome: Outcome) -> None:
        """Add updates of the model of round `number`, one after the other, or drop them."""
        for (name, _), error in zip(ready, self._added(ready), strict=True):
            self._used(name, number, error, outcome)

    def _use(self, name: str, number: int, blob: bytes, outcome: Outcome) -> None:
        """Add one update of the model of round `number`, or drop it."""
        self._use_all([(name, blob)], number, outcome)

    def _used(self, name: str, number: int, error: ValueError | None, outcome: Outcome) -> None:
        """Note that an update was added, or why it was not."""
        if isinstance(error, Disagreement):
            log.error("%s", error)
            outcome.dropped[name] = Code.LEDGER.value
        elif error is not None:
            log.warning("%s: the update was dropped: %s", name, error)
            outcome.dropped[name] = Code.BAD_UPDATE.value
        else:
            outcome.used.append(name)
            outcome.trained[name] = number
            self.point.sites[name].held = number

    def _added(self, ready: Sequence[tuple[str, bytes]]) -> Iterator[ValueError | None]:
        """Add updates in their order; yield for each what is wrong with it."""
        return self.updates.add_many(ready)
