"""The round loop: whom to ask, what to send, which answers count, and when to stop waiting.

Nothing here waits without a limit and no answer can stop a run: a reply that is wrong in any way is
dropped, counted and named, and the round goes on with the others.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedlite import compression, flower
from fedlite.config import Scenario
from fedlite.messages import REPLY_BYTES, Code, Hello, Instruction, Reply, site_id
from fedlite.parameters import Layout, Vector
from fedlite.privacy import ClientMechanism, client
from fedlite.reporting.record import (
    RoundRecord,
    append_round,
    read_rounds,
    rewrite_rounds,
)
from server import broadcast, checkpoint
from server.checkpoint import Checkpoint, SiteRecord
from server.deployment import Enrolled
from server.witness import Disagreement, Witness
from strategies import ServerState, Strategy, make, weighted_mean

log = logging.getLogger("fedlite.server")

_POLL_SECONDS = 0.1
_VOID_ROUNDS = 3
# A site that has not approved the bundle is asked again: its operator may be reading it.
_ASK_AGAIN_SECONDS = 5.0
# Beyond it a rotation, or the sum of a difference and a replica, may leave what float32 can hold.
_LARGEST = np.float32(1e24)


class RunFailed(RuntimeError):
    """The run cannot go on; the text says why and what to do. The last checkpoint is whole."""


@dataclass
class Outcome:
    """What one round's replies came to."""

    used: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    asked: int = 0
    replies: int = 0


class Rounds:
    """A run from its first round, or from its checkpoint, to its last.

    grid: Flower's way to the sites. layout: the model's layout. initial: float32 [n], the
    model that every site builds from the public seed. central: the mechanism whose noise the server
    adds, if it does. witness: remembers the heads of the sites' ledgers, when they keep any.
    enrolled(node) returns which approved site a node is; without it, every node is who it says.
    wait: seconds for which the first round waits for all sites; 0 is the deadline of a round.
    notice is told, for a person, whom the run waits for.
    epsilon(asked) returns the privacy loss of a site that was asked so often. evaluate(round,
    model) returns accuracy and AUC by branch.
    """

    def __init__(
        self,
        grid: Grid,
        scenario: Scenario,
        directory: Path,
        *,
        run: bytes,
        layout: Layout,
        initial: Vector,
        central: ClientMechanism | None = None,
        witness: Witness | None = None,
        enrolled: Callable[[int], Enrolled | None] | None = None,
        wait: float = 0.0,
        notice: Callable[[str], object] = log.debug,
    ) -> None:
        """Start afresh, or go on after the last checkpoint in `directory`."""
        self._notice = notice
        self.grid = grid
        self._enrolled = enrolled
        self._wait = wait or scenario.federation.deadline_seconds
        self.scenario = scenario
        self.directory = directory
        self.layout = layout.digest
        self._witness = witness
        self.roster: dict[str, int] = {}
        self.refused: dict[int, str] = {}
        # Whose operators have not approved the bundle yet, and when they were last asked.
        self.unapproved: dict[int, float] = {}
        self._greeted: dict[str, tuple[int, float]] = {}
        found = checkpoint.load(directory / "checkpoint")
        if found is None:
            found = Checkpoint(run, 0, ServerState.initial(initial), broadcast.initial(initial))
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
        self._compressor, self._down = (
            link.make(layout.sizes) for link in (scenario.uplink, scenario.downlink)
        )
        self._aggregate = scenario.uplink.aggregate_feedback
        self._reference: Vector | None = None
        # Bytes of the longest reply that the plan allows.
        self.longest = REPLY_BYTES + compression.HEADER_BYTES + self._compressor.limit(initial.size)
        self._central = central
        # The noise of the server and the bound that it is made for come from the same object.
        self._bound = central.clip if central else scenario.federation.update_norm
        self._strategy: Strategy = make(
            scenario.federation, weighted_mean if central is None else self._noised_mean
        )

    def play(
        self,
        *,
        epsilon: Callable[[int], float | None],
        evaluate: Callable[[int, Vector], tuple[dict[str, float], dict[str, float]]],
        cpu_seconds: Callable[[], float],
    ) -> Iterator[RoundRecord]:
        """Run the rounds that are left; yields each round's record once it is on disk.

        Raises RunFailed when too few sites can be found, or answer, several times in a row.
        """
        federation = self.scenario.federation
        for site in self.point.sites.values():
            # A ceiling may have been raised while the run was interrupted.
            site.spent = False
        self._gather_sites()
        void = 0
        for number in range(self.point.round + 1, federation.rounds + 1):
            started, cpu = time.monotonic(), cpu_seconds()
            if number > 1:
                self._wait_for_quorum()
            outcome, state = self._round(number)
            # Too few answers make no round: their senders are told so and take the updates back.
            enough = len(outcome.used) >= federation.quorum
            if enough and not _sendable(state.model, self.point.broadcast.replica):
                log.error("round %d: the updates' sum is too large and is not used", number)
                enough = False
            void = 0 if enough else void + 1
            if not void:
                for name in outcome.used:
                    self.point.sites[name].acknowledged = number
                    self.point.sites[name].used += 1
                self.point.state = state
            self.point.round = number
            accuracy, auc = evaluate(number, self.point.state.released)
            dense = 4 * self.point.state.model.size
            record = RoundRecord(
                round=number,
                accepted=0 if void else len(outcome.used),
                dropped=outcome.dropped,
                missing=outcome.missing,
                accuracy=accuracy,
                auc=auc,
                bytes_up=outcome.bytes_up,
                bytes_down=outcome.bytes_down,
                dense_up=dense * outcome.replies,
                dense_down=dense * outcome.asked,
                epsilon=epsilon(max((s.asked for s in self.point.sites.values()), default=0)),
                seconds=round(time.monotonic() - started, 4),
                cpu_seconds=round(cpu_seconds() - cpu, 4),
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
            if void >= _VOID_ROUNDS:
                raise RunFailed(
                    f"federation.quorum: {federation.quorum} updates a round are needed, and "
                    f"{void} rounds in a row had fewer (last: {self._why(outcome)}); mend the "
                    f"sites, then resume {self.directory}"
                )

    def _out_of_budget(self) -> bool:
        """Whether the sites whose own budgets are spent leave too few for any further round."""
        spent = [name for name in self.roster if self.point.sites[name].spent]
        return bool(spent) and len(self.roster) - len(spent) < self.scenario.federation.quorum

    def _why(self, outcome: Outcome) -> str:
        parts = [f"{name} {code}" for name, code in sorted(outcome.dropped.items())]
        parts += [f"{name} no reply" for name in outcome.missing]
        return ", ".join(parts) or f"{len(outcome.used)} used"

    # Who is there ------------------------------------------------------------------------------

    def _gather_sites(self) -> None:
        """Wait for the scenario's number of sites, but no longer than the deadline."""
        federation = self.scenario.federation
        until, said = time.monotonic() + self._wait, ""
        while len(self.roster) + len(self.refused) < federation.sites:
            met = self._meet()
            if (text := self._gathered()) != said:
                said = text
                self._notice(text)
            if not met:
                if time.monotonic() > until:
                    break
                time.sleep(_POLL_SECONDS)
        if len(self.roster) < federation.quorum:
            codes = set(self.refused.values()) | ({"unapproved"} if self.unapproved else set())
            why = ", ".join(sorted(codes)) or "nobody else answered"
            raise RunFailed(
                f"federation.quorum: needs {federation.quorum} sites, only {len(self.roster)} can "
                f"take part ({why}); the refused sites' own logs say why"
            )

    def _gathered(self) -> str:
        ready = f"{len(self.roster)} of {self.scenario.federation.sites} sites ready"
        parts = [f"{ready} ({', '.join(sorted(self.roster))})" if self.roster else ready]
        if self.unapproved:
            found = [self._enrolled(node) if self._enrolled else None for node in self.unapproved]
            names = sorted(site.name for site in found if site is not None)
            parts.append(f"not approved there yet: {', '.join(names) or len(self.unapproved)}")
        if self.refused:
            parts.append("refused: " + ", ".join(sorted(self.refused.values())))
        return "; ".join(parts)

    def _meet(self) -> int:
        """Ask nodes that are new for their name; return how many have answered since last time.

        It never waits, so a node that does not answer costs the others nothing. A site that comes
        back as another node takes its old place.
        """
        here, now = set(self.grid.get_node_ids()), time.monotonic()
        self.roster = {name: node for name, node in self.roster.items() if node in here}
        for message_id, (_, asked) in list(self._greeted.items()):
            if now - asked > self.scenario.federation.deadline_seconds:
                del self._greeted[message_id]
        waiting = {node for node, _ in self._greeted.values()}
        waiting |= {n for n, at in self.unapproved.items() if now - at < _ASK_AGAIN_SECONDS}
        new = sorted(here - set(self.roster.values()) - set(self.refused) - waiting)
        questions = [flower.ask(b"?", node, "query", "hello") for node in new]
        for node, message_id in zip(new, self.grid.push_messages(questions), strict=False):
            if message_id:
                self._greeted[message_id] = (node, now)
        answered = 0
        for message in self._pull(set(self._greeted)) if self._greeted else []:
            found = self._greeted.pop(message.metadata.reply_to_message_id, None)
            if found is not None and not _by_flower(message):
                self._enter(found[0], message)
                answered += 1
        return answered

    def _wait_for_quorum(self) -> None:
        """Meet who is new; where too few are there, wait for them, but no longer than the deadline.

        A cut connection takes all sites off line at once: rounds without them would only be void.
        """
        until = time.monotonic() + self.scenario.federation.deadline_seconds
        while True:
            self._meet()
            there = [name for name in self.roster if not self.point.sites[name].spent]
            if len(there) >= self.scenario.federation.quorum or time.monotonic() > until:
                return
            time.sleep(_POLL_SECONDS)

    def _enter(self, node: int, message: Message) -> None:
        """Enter a node that fits into the roster, or remember why it does not."""
        code, hello = flower.code_of(message), None
        if code is None:
            try:
                hello = Hello.decode(flower.unwrap(message))
                code = self._problem(node, hello)
            except ValueError as error:
                log.error("a hello was refused: %s", error)
                code = Code.BAD_UPDATE
        self.unapproved.pop(node, None)
        if code is None and hello is not None:
            self.roster[hello.site] = node
            self.point.sites.setdefault(hello.site, SiteRecord())
        elif code is Code.UNAPPROVED:
            self.unapproved[node] = time.monotonic()
        elif code is not None:
            self.refused[node] = code.value
            log.warning("a site cannot take part: %s", code.value)

    def _problem(self, node: int, hello: Hello) -> Code | None:
        """Return why a site may not take part, or None when it may."""
        if hello.layout != self.layout.hex() or hello.site in self.roster:
            log.error("%s: another model, or a name that is taken", hello.site)
            return Code.CONFIG
        site = self._enrolled(node) if self._enrolled else None
        if self._enrolled and (site is None or site.name != hello.site):
            log.error("a node says that it is %s, and is not approved as that", hello.site)
            return Code.CONFIG
        if self._witness is not None:
            if site is not None:
                self._witness.expect(site.name, site.ledger_key)
            try:
                self._witness.greet(hello.site, hello.head, hello.rotations)
            except Disagreement as error:
                log.error("%s", error)
                return Code.LEDGER
        return None

    def _replies(self, messages: list[Message]) -> Iterator[Message]:
        """Push messages and yield their replies as they come, until the deadline."""
        # Flower gives no id (None, or nothing) for a message that it could not take.
        waiting = {message_id for message_id in self.grid.push_messages(messages) if message_id}
        until = time.monotonic() + self.scenario.federation.deadline_seconds
        while waiting:
            arrived = self._pull(waiting)
            for message in arrived:
                waiting.discard(message.metadata.reply_to_message_id)
                yield message
            if not waiting or time.monotonic() > until:
                return
            if not arrived:
                time.sleep(_POLL_SECONDS)

    def _pull(self, waiting: set[str]) -> list[Message]:
        """Return what has arrived; a reply that Flower itself cannot read is no longer waited for.

        Flower's grid raises whatever its decoders raise, and one site's bytes may not stop a run.
        """
        try:
            return list(self.grid.pull_messages(list(waiting)))
        except Exception:
            log.exception("a reply could not be read; asking for each by itself")
        arrived: list[Message] = []
        for message_id in sorted(waiting):
            try:
                arrived += self.grid.pull_messages([message_id])
            except Exception:
                waiting.discard(message_id)
        return arrived

    # One round ---------------------------------------------------------------------------------

    def _round(self, number: int) -> tuple[Outcome, ServerState]:
        federation = self.scenario.federation
        point = self.point
        run, down = point.run, replace(point.broadcast)
        down.frames = list(down.frames)
        down.advance(point.state.model, self._down, self.layout, run)
        point.broadcast = down
        self._reference = np.float32(self._aggregate) * down.step if self._aggregate else None

        names = sorted(name for name in self.roster if not point.sites[name].spent)
        rng = np.random.default_rng([federation.seed, number])
        wanted = min(federation.participants, len(names))
        chosen = sorted(names[i] for i in rng.choice(len(names), wanted, replace=False))

        outcome = Outcome()
        self._strategy.start(point.state.model.size)
        fold = _InOrder(chosen)
        again = self._ask(chosen, number, outcome, fold)
        if again:
            # A site that lost its model gets all of it, once, in the same round.
            for name in again:
                point.sites[name].held = None
            self._ask(again, number, outcome, fold)
        for name in fold.rest():
            self._use(name, number, fold.blobs[name], outcome)
        outcome.missing = [n for n in chosen if n not in fold.seen]
        return outcome, self._strategy.finish(point.state, number)

    def _ask(self, names: list[str], number: int, outcome: Outcome, fold: _InOrder) -> list[str]:
        """Invite sites, use replies in the order of names, return who needs the full model."""
        point, digest = self.point, self.point.broadcast.digest
        questions, again = [], []
        by_node = {self.roster[name]: name for name in names}
        for name in names:
            record = point.sites[name]
            blob = Instruction(
                run=point.run,
                round=number,
                site=site_id(name),
                acknowledged=record.acknowledged,
                model=digest,
                frames=point.broadcast.frames_for(
                    record.held, self.layout, point.run, with_step=self._aggregate > 0
                ),
                receipt=self._witness.receipt(name) if self._witness else None,
            ).encode()
            outcome.bytes_down += len(blob)
            outcome.asked += 1
            record.asked = min(record.asked + 1, number)
            questions.append(flower.ask(blob, self.roster[name], "train", str(number)))
        for message in self._replies(questions):
            name = by_node.get(message.metadata.src_node_id, "")
            if not name and message.has_error():
                # Flower answers itself for a node that it takes for gone.
                log.warning("round %d: Flower says: %s", number, message.error.reason)
            if not name or name in fold.seen:
                continue
            code = flower.code_of(message)
            if code is Code.NEED_FULL_MODEL and point.sites[name].held is not None:
                if name not in again:
                    again.append(name)
                continue
            fold.seen.add(name)
            blob = b""
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
                    record = point.sites[name]
                    record.asked, record.spent = record.asked - 1, True
            else:
                outcome.bytes_up += len(blob)
                outcome.replies += 1
                point.sites[name].releases += 1
                # What waits for its turn may not fill the memory: too long a reply never waits.
                fold.blobs[name] = blob[: self.longest + 1]
            for ready in fold.ready():
                self._use(ready, number, fold.blobs.pop(ready), outcome)
        return again

    def _use(self, name: str, number: int, blob: bytes, outcome: Outcome) -> None:
        """Decode one update against the server's own plan and add it, or drop it."""
        point, size = self.point, self.point.state.model.size
        envelope = compression.Envelope(
            run=point.run,
            round=number,
            site=site_id(name),
            layout=self.layout,
            base=point.broadcast.digest,
        )
        try:
            reply = Reply.decode(blob)
            self._check_head(name, number, reply)
            codec, records, body = compression.unpack(
                reply.frame, envelope, limit=self._compressor.limit(size)
            )
            if codec != self._compressor.codec:
                raise ValueError(f"codec: must be {self._compressor.codec}, got {codec}")
            decoded = self._compressor.decompress(body, size, envelope.context)
            update = compression.restore(decoded, self._reference)
            self._strategy.add(self._clip(update), records)
        except Disagreement as error:
            log.error("%s", error)
            outcome.dropped[name] = Code.LEDGER.value
            return
        except ValueError as error:
            log.warning("%s: the update was dropped: %s", name, error)
            outcome.dropped[name] = Code.BAD_UPDATE.value
            return
        outcome.used.append(name)
        point.sites[name].held = number

    def _check_head(self, name: str, number: int, reply: Reply) -> None:
        if self._witness is not None:
            payload = hashlib.sha256(reply.frame).hexdigest()
            run = self.point.run.hex()
            self._witness.see(name, reply.head, run=run, number=number, payload=payload)
        elif reply.head is not None:
            raise ValueError("reply: holds a ledger's head in a run that claims no privacy")

    def _clip(self, update: compression.Decoded) -> compression.Decoded:
        if not self._bound:
            return update
        return replace(update, values=client.clip(update.values, self._bound))

    def _noised_mean(self, total: NDArray[np.float64], weight: float) -> Vector:
        if self._central is None:
            raise ValueError("central: the mechanism is needed for the server's noise, got none")
        seed, number = self.scenario.privacy.simulate_seed, self.point.round + 1
        noise = client.entropy(seed, number, 0)
        return client.noised_mean(
            total, self.scenario.federation.participants, self._central, noise
        )


def _by_flower(message: Message) -> bool:
    """Whether Flower itself answered for a node that has gone; the site said nothing."""
    return message.has_error() and not (message.error.reason or "").startswith("fedlite:")


def _sendable(model: Vector, replica: Vector) -> bool:
    """Whether every compressor can send the model, or what it differs by; NaN never can."""
    return all(bool((np.abs(v) <= _LARGEST).all()) for v in (model, model - replica))


class _InOrder:
    """Releases replies in the order of names, however they arrive.

    Floating-point sums depend on their order, so parallel runs are bit-equal to serial ones only
    when updates are added in a fixed one. What waits is kept compressed.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.seen: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self._next = 0

    def ready(self) -> Iterator[str]:
        """Yield names whose turn has come, and whose predecessors have all been seen."""
        while self._next < len(self.names) and self.names[self._next] in self.seen:
            name = self.names[self._next]
            self._next += 1
            if name in self.blobs:
                yield name

    def rest(self) -> list[str]:
        """Return, after the deadline, the names that wait behind one that never came."""
        return [name for name in self.names if name in self.blobs]
