"""Rounds of which the server sees sums alone: their members, their steps, and what becomes of them.

In the place of `server.updates` where sites share the noise. Nothing here can judge a single
update; what it can, it counts and names: who was missing in which step, whose shares were false.
A round is one sum, or one of each of `privacy.groups`, which a robust rule can judge.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.serverapp import Grid

from fedlite import compression, flower
from fedlite.compression import Decoded
from fedlite.messages import REPLY_BYTES, Code, Reply, site_id
from fedlite.plan import Plan
from fedlite.privacy.shared.summed import values
from fedlite.secure.collector import Collector, finish_all
from fedlite.secure.group import Card, Group, split
from fedlite.secure.masks import Words
from fedlite.secure.messages import MOST_BYTES, SUMMED, Note, Step
from fedlite.secure.rules import Refused
from fedlite.storage import write_atomic
from server import replies
from server.checkpoint import Checkpoint
from server.outcome import Outcome
from server.roster import Roster
from server.updates import Aged
from server.witness import Witness
from strategies import ServerState, weighted_mean
from strategies.over_groups import make_over, needed

log = logging.getLogger("fedlite.server")


# In the checkpoint: the sum of what was answered, where figures are asked for.
ANSWERS = "answers.json"


def encoded(names: Collection[str], total: Words) -> bytes:
    """Return whose answers a sum is of, and the sum modulo 2^bits, as JSON."""
    return json.dumps({"sites": sorted(names), "sum": total.tolist()}).encode()


def decoded(data: bytes) -> tuple[list[str], Words]:
    """Return what `encoded` wrote."""
    found = json.loads(data)
    return found["sites"], np.array(found["sum"], np.uint32)


class Sums:
    """A run's secure sums, with the interface of `Updates`; a round at a time.

    directory: the run's; the group is kept in it. longest: bytes of the longest reply. quorum:
    sites with which a round may count. cut, records, medians, product_error: what is known of
    single updates, which is nothing.
    """

    def __init__(
        self, plan: Plan, grid: Grid, roster: Roster, directory: Path, witness: Witness | None
    ) -> None:
        """Make the strategy of the plan; call `meet` before the first round."""
        if plan.shared is None:
            raise ValueError("plan: must share its noise to be summed in secret")
        self._plan, self._mechanism = plan, plan.shared
        self._grid, self._roster, self._witness = grid, roster, witness
        self._path = directory / "checkpoint" / "group"
        scenario, mechanism = plan.scenario, plan.shared
        self._strategy = make_over(scenario, weighted_mean)
        self._strategy.check_updates(scenario.uplink, ())
        # Of several groups a part may fail.
        self._needed = needed(self._strategy, mechanism.groups)
        _, inside, _ = mechanism.summed
        self.quorum = self._needed * inside
        self._joined: set[str] = set()
        self._owed: list[tuple[str, int, int]] = []
        self.cut: dict[str, float] = {}
        self.records: dict[str, int] = {}
        self.medians = (0.0,)
        self.product_error: float | None = None
        self.longest = REPLY_BYTES + compression.HEADER_BYTES + MOST_BYTES

    def meet(self, run: bytes) -> None:
        """Let all sites make a group, or take up the one that the run began with.

        Raises Refused "members" when not all are there, with the names of those whose cards cannot
        be used and why, or when the cards make no group.
        """
        if self._path.exists():
            self._group = Group.decode(self._path.read_bytes())
        else:
            mechanism = self._mechanism
            cards, wrong = self._cards(sorted(self._roster.nodes), run)
            if wrong or len(cards) != mechanism.sites:
                told = "".join(f"; {name}: {why}" for name, why in wrong.items())
                raise Refused(
                    "members",
                    f"all {mechanism.sites} sites make the group before the first round, and "
                    f"{len(cards)} are there; start those that are missing, mend those that are "
                    f"named, then begin again{told}",
                )
            parts = mechanism.groups
            seed = self._plan.scenario.federation.seed if parts > 1 else 0
            self._group = Group(mechanism.least, mechanism.honest, cards, parts, seed)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, self._group.encode())
        body = self._collectors(1, bytes(8))[0].body_bytes
        self.longest = REPLY_BYTES + compression.HEADER_BYTES + body

    def _cards(self, names: list[str], run: bytes) -> tuple[tuple[Card, ...], dict[str, str]]:
        """Ask sites for their cards; return those that may be used, and by name why others not."""
        question = Note(Step.CARD, 0, bytes(8), run).encode()
        answers = self._exchange(dict.fromkeys(names, question), None)
        cards, wrong, approved = [], {}, self._plan.scenario.members
        for name in names:
            try:
                if name not in answers:
                    raise Refused("members", "it has not answered")
                card = Card.decode(Note.decode(answers[name]).body)
                if approved and approved.get(name) != card.fingerprint:
                    raise Refused("unapproved", f"its card has the key {card.fingerprint[:16]}...")
                if (card.name, card.run) != (name, run):
                    raise Refused("not-a-member", f"its card is of {card.name!r}, or another run")
                cards.append(card)
            except Refused as refused:
                log.error("%s: refused as a member of the sums: %s", name, refused)
                wrong[name] = str(refused)
        return tuple(cards), wrong

    def members(self, names: list[str]) -> list[str]:
        """Return those of the names that are in the group, and have joined it."""
        new = [name for name in names if name in self._group.names and name not in self._joined]
        if new:
            question = Note(Step.JOIN, 0, bytes(8), self._group.encode()).encode()
            self._joined |= self._exchange(dict.fromkeys(new, question), None).keys()
        return [name for name in names if name in self._joined]

    def able(self, names: list[str], resting: Collection[str]) -> tuple[list[str], dict[str, str]]:
        """Return whom the round that was started may ask, in order, and why not the others.

        names: who is there and has budget left. resting: those of them that are at rest, if their
        groups can do without them. Nobody is asked in a group that too few are left of, as each
        would pay for a sum that nobody sees; and nobody at all where too few groups are left.
        """
        joined = self.members(names)
        out = dict.fromkeys({*names} - {*joined}, "resting")
        asked: set[str] = set()
        complete = 0
        for one in self._round:
            mine = {*joined} & {*one.group.names}
            awake = mine - {*resting}
            chosen = awake if len(awake) >= one.group.least else mine
            if len(chosen) >= one.group.least:
                asked |= chosen
                complete += 1
                out |= dict.fromkeys(mine - chosen, "resting")
        if complete < self._needed:
            asked.clear()
        out |= {name: "group" for name in joined if name not in asked and name not in out}
        return [name for name in joined if name in asked], out

    def start(
        self, point: Checkpoint, number: int, usual: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        """Begin round `number`, in which sites train from what `point.down` leads to."""
        down, seed = point.down(self._plan), self._plan.scenario.federation.seed
        layout = self._plan.travelling.digest
        self._envelope = compression.Envelope(point.run, number, 0, layout, down.digest, seed)
        self._state, self._number = point.state, number
        self._round = self._collectors(number, down.digest)
        self._summed = 0
        self._strategy.start(self._plan.layout.size)

    def _collectors(self, number: int, model: bytes) -> list[Collector]:
        """Return one for each group of a round."""
        length = self._mechanism.coordinates, self._mechanism.bits
        return [Collector(one, number, model, *length) for one in split(self._group, number)]

    def add(self, name: str, blob: bytes, aged: Aged | None = None) -> None:
        """Take a site's masked vector; raises as `Updates.add` does. Its model is the round's."""
        reply = Reply.decode(blob)
        if self._witness is not None:
            payload = hashlib.sha256(reply.frame).hexdigest()
            run = self._envelope.run.hex()
            self._witness.see(name, reply.head, run=run, number=self._number, payload=payload)
        elif reply.head is not None:
            raise ValueError("reply: holds a ledger's head in a run that claims no privacy")
        envelope = replace(self._envelope, site=site_id(name))
        mine = next((one for one in self._round if name in one.group.names), self._round[0])
        limit = mine.body_bytes
        codec, records, body = compression.unpack(reply.frame, envelope, limit=limit)
        if codec != SUMMED or records:
            raise ValueError(f"codec: must be {SUMMED} and tell no records, got {codec}, {records}")
        mine.add(name, body)

    def add_many(
        self, arrived: Sequence[tuple[str, bytes]], aged: Aged | None = None
    ) -> Iterator[ValueError | None]:
        """Take one masked vector after the other; yield for each what `add` raises."""
        for name, blob in arrived:
            try:
                self.add(name, blob, aged)
            except ValueError as error:
                yield error
            else:
                yield None

    def conclude(self, outcome: Outcome) -> None:
        """Go through the steps of the sums and hand them to the strategy.

        Who did not get so far is named in `outcome`; of a group in which too few did nothing is
        used.
        """
        for name, up, down in self._owed:
            outcome.sent_up(name, up, whole=False)
            outcome.sent_down(name, down, whole=False)
        self._owed = []
        masked, outcome.used = outcome.used, []
        sums, failed = finish_all(self._round, lambda asked: self._exchange(asked, outcome))
        for refused in failed:
            log.error("round %d: %s", self._number, refused)
        used = {name for names, _ in sums for name in names}
        # Who did what was asked is not to blame for a sum that had too few others.
        dropped = {name for one in self._round for name in one.dropped}
        wrong = (name for name in masked if name in dropped and name not in used)
        outcome.dropped |= dict.fromkeys(wrong, Code.BAD_UPDATE.value)
        for one in self._round:
            for name in sorted(one.false):
                log.error("round %d: %s told what does not fit", self._number, name)
            # Where the others' shares made up for it the sum is right, and it was in it.
            forged = sorted(one.forged - used)
            outcome.dropped |= dict.fromkeys(forged, Code.BAD_UPDATE.value)
        outcome.used = [name for name in masked if name in used]
        self._summed = len(sums)
        for names, total in sorted(sums, key=lambda found: found[0]):
            if self._plan.scenario.statistics.bins:
                # Nobody is asked again: on disk before anything else becomes of the round.
                write_atomic(self._path.with_name(ANSWERS), encoded(names, total))
            else:
                self._add(total)

    def _add(self, total: Words) -> None:
        """Hand one sum to the strategy, as the update of its members together."""
        support = self._plan.support(self._number)
        # Public and planned, whoever has answered: a sum that lost a site makes a shorter step.
        mean = values(total, self._mechanism) * support.factors / self._mechanism.divisor
        if self._mechanism.unit == "record":
            mean *= -self._plan.learning_rate(self._number)
        step = mean.astype(np.float32)
        self._strategy.add(Decoded(self._plan.layout.size, support.indices, step), 0)

    def enough(self, used: Collection[str]) -> bool:
        """Return whether the round counts, whose sums are of the sites `used`."""
        return bool(used) and self._summed >= self._needed

    def finish(self) -> ServerState:
        """Return the state that the round's sum leads to."""
        return self._strategy.finish(self._state, self._number)

    def _exchange(
        self, questions: Mapping[str, bytes], outcome: Outcome | None
    ) -> dict[str, bytes]:
        """Ask sites by name and return what they answered until the deadline."""
        nodes = {self._roster.nodes[n]: n for n in questions if n in self._roster.nodes}
        asked = (flower.ask(questions[name], node, "train", "sum") for node, name in nodes.items())
        for name in nodes.values():
            self._note(outcome, name, 0, len(questions[name]))
        found: dict[str, bytes] = {}
        deadline = self._plan.scenario.federation.deadline_seconds
        for message in replies.ask(self._grid, asked, deadline):
            name = nodes.get(message.metadata.src_node_id, "")
            if not name or name in found or flower.code_of(message) is not None:
                continue
            try:
                blob = flower.unwrap(message)
            except ValueError as error:
                log.warning("%s: %s", name, error)
                continue
            self._note(outcome, name, len(blob), 0)
            found[name] = blob[: MOST_BYTES + 1]
        return found

    def _note(self, outcome: Outcome | None, name: str, up: int, down: int) -> None:
        if outcome is None:
            self._owed.append((name, up, down))
            return
        outcome.sent_up(name, up, whole=False)
        outcome.sent_down(name, down, whole=False)
