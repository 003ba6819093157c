"""Buffered asynchronous aggregation in virtual time: FedBuff (Nguyen et al. 2022, algorithm 1).

As many sites train at any time as a round would ask. One that has answered is followed at once by
another, drawn from those that are free, which trains from the model of that moment. The server
takes a step when it has K updates; one of a model tau steps old counts 1 / sqrt(1 + tau), and the
sum is divided by K. A step of the server is a round of the record.

A site is asked once for a model, so in a run at most once for each round, as a plan has it. What
depends on a model of the round before is refused (`fedlite.scenario.network_rules`, `check`).

What was sent and has not arrived is in the checkpoint, answers and all: a resumed run goes on with
the same arrivals. Answers are fetched in one go as late as their order allows, so that workers have
several to do.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from fedlite import flower
from fedlite.messages import Code
from fedlite.plan import Plan
from server import lengths, replies
from server.asking import Asking
from server.checkpoint import Flight
from server.clock import Clock
from server.outcome import Outcome
from server.updates import Aged
from strategies import ServerState

log = logging.getLogger("fedlite.server")


def check(plan: Plan) -> None:
    """Raise ValueError where the model's updates cannot be of different age."""
    if plan.scenario.network.buffer and (plan.extras or plan.turns):
        names = ", ".join(stretch.name for stretch in plan.extras) or "values that take turns"
        raise ValueError(
            "network.buffer: must be 0 for a model with running statistics, a second vector or "
            "values that take turns (rule: what travels behind it is of one round), got "
            f"{plan.scenario.network.buffer} with {names}; leave it out, or take GroupNorm"
        )


class Buffered(Asking):
    """Plays the steps of the server, each from the arrivals of K updates."""

    def round(self, number: int) -> tuple[Outcome, ServerState]:
        """Play step `number`; return what came of it, and the state that it leads to."""
        clock, wanted = self._clock, self.scenario.network.buffer
        if clock is None:
            raise ValueError(
                "network.buffer: must be 0 outside of a simulation (rule: who is free is known in "
                f"virtual time alone), got {wanted}; leave it out"
            )
        self.point.advance(self.plan, number)
        self.updates.start(self.point, number, lengths.usual(self.plan, self._records, number))
        outcome, begun = Outcome(self.plan), self.now
        self._number, self._asked, self._new = number, set[str](), list[tuple[Flight, bytes]]()
        self._rng = np.random.default_rng([self.scenario.federation.seed, number])
        self._free, _ = self._able(number)
        ages: list[int] = []
        now = begun
        self._fill(clock, now, outcome)
        while len(outcome.used) < wanted and (flight := self._next(outcome)) is not None:
            now = max(now, flight.ends)
            if flight.code:
                outcome.dropped[flight.name] = flight.code
            elif not flight.blob:
                outcome.missing.append(flight.name)
            elif self._arrive(flight, outcome):
                ages.append(number - flight.number)
            if len(outcome.used) < wanted:
                self._fill(clock, now, outcome)
        arrived = {*outcome.used, *outcome.dropped, *outcome.missing}
        outcome.drawn = sorted(arrived) if len(arrived) < len(self._free) else []
        # What is on its way is kept with its answer: of this model there will be none later.
        self._fetch(outcome)
        outcome.seconds = now - begun
        outcome.staleness = float(np.mean(ages)) if ages else 0.0
        return outcome, self.updates.finish()

    def _fill(self, clock: Clock, now: float, outcome: Outcome) -> None:
        """Let sites begin until as many train as a round would ask, or nobody else is free."""
        busy = {flight.name for flight in self.point.flights} | {f.name for f, _ in self._new}
        while len(busy) < min(clock.needed, len(self._free)):
            out = busy | self._asked
            # Few are out where sites are many: a draw that hits one is drawn again.
            for _ in range(20):
                name = self._free[int(self._rng.integers(len(self._free)))]
                if name not in out and clock.awake(name, now):
                    break
            else:
                left = [n for n in self._free if n not in out and clock.awake(n, now)]
                if not left:
                    return
                name = left[int(self._rng.integers(len(left)))]
            busy.add(name)
            self._asked.add(name)
            self._new.append(self._begin(clock, name, now, outcome))

    def _begin(self, clock: Clock, name: str, now: float, outcome: Outcome) -> tuple[Flight, bytes]:
        """Return what a site is asked at `now`, and the flight; it ends no sooner than it says."""
        down = self.point.down(self.plan)
        asked = self._instruction(name, self._number, self.plan, down.digest).encode()
        outcome.sent_down(name, len(asked))
        record = self.point.sites[name]
        record.asked = min(record.asked + 1, self._number)
        base, round_ = down.digest, self._number
        if clock.drops_out(name, self._number):
            return Flight(name, round_, base, now + clock.deadline), b""
        return Flight(name, round_, base, now + clock.seconds(name, down=len(asked))), asked

    def _next(self, outcome: Outcome) -> Flight | None:
        """Take the flight that ends first; None where nothing is on its way."""
        flights = self.point.flights
        first = min(flights, key=_order, default=None)
        soonest = min((flight.ends for flight, _ in self._new), default=math.inf)
        if first is None or soonest <= first.ends:
            self._fetch(outcome)
            first = min(flights, key=_order, default=None)
        if first is not None:
            flights.remove(first)
        return first

    def _fetch(self, outcome: Outcome) -> None:
        """Get the answers of those that have begun since; then it is known when they arrive."""
        clock, new, self._new = self._clock, self._new, []
        nodes = {self.roster.nodes[f.name]: f for f, asked in new if asked}
        messages = [
            flower.ask(asked, self.roster.nodes[f.name], "train", str(f.number))
            for f, asked in new
            if asked
        ]
        told: dict[str, Flight] = {}
        for message in replies.ask(self.grid, messages, self.scenario.federation.deadline_seconds):
            flight = nodes.get(message.metadata.src_node_id)
            if flight is None or flight.name in told or clock is None:
                continue
            # Here it is only fetched: what is no update is dropped when it arrives.
            dropped, outcome.dropped = outcome.dropped, {}
            blob = self._blob(flight.name, message, outcome)
            code, outcome.dropped = outcome.dropped.get(flight.name, ""), dropped
            if code == Code.NEED_FULL_MODEL:
                self.point.sites[flight.name].held = None
            ends = flight.ends + clock.sending(flight.name, len(blob or b""))
            told[flight.name] = replace(flight, ends=ends, blob=blob or b"", code=code)
        # In the order in which they began, however the answers came.
        self.point.flights += [told.get(flight.name, flight) for flight, _ in new]

    def _arrive(self, flight: Flight, outcome: Outcome) -> bool:
        """Add an update that has arrived, or drop it; return whether it counts."""
        before = len(outcome.used)
        self._aged = Aged(flight.number, flight.base, self._number - flight.number)
        self._use(flight.name, flight.number, flight.blob, outcome)
        return len(outcome.used) > before

    def _added(self, ready: Sequence[tuple[str, bytes]]) -> Iterator[ValueError | None]:
        return self.updates.add_many(ready, self._aged)


def _order(flight: Flight) -> tuple[float, str]:
    return flight.ends, flight.name
