"""The site's one supervised process: it takes messages, lets only approved code see them, answers.

Nothing of a bundle is imported here. What a worker returns is read, measured and packed anew: a
reply holds one blob or one code and nothing else. A message that was taken is on disk until its
reply has arrived, so a site that is killed at any moment answers it when it is back: with the reply
that was ready, or by saying that there is none.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Message, MessageType

from clients.runtime import gate, lock, runbook, seats, setup
from clients.runtime.desk import Desk
from clients.runtime.fetching import Fetching
from clients.runtime.fleet import Incoming, Refused, RunOver, TooLarge, Unreachable, connection
from clients.runtime.gate import ApprovedRun
from clients.runtime.inflight import InFlight
from clients.runtime.pace import Pace, until_tick
from clients.runtime.status import Answered, StatusFile
from clients.runtime.warm import Workers
from fedlite import flower
from fedlite.deployment import bundle as bundles
from fedlite.deployment.journal import Journal
from fedlite.guard import policy as site_policy
from fedlite.messages import Code

log = logging.getLogger("fedlite.site")

_LONGEST_WAIT = 30.0
# A site that was killed is let in again as soon as the coordinator has forgotten it.
_REFUSED_WAIT = 2.0


class Runtime:
    """A site at work for one coordinator.

    home: the folder that `fedlite site init` made, with policy, ledgers and approved bundles. seat:
    the folder of what the site has with this coordinator; by default `home`.

    Raises ValueError or OSError, with the mend, when the folder is not that of a site that has
    joined a coordinator, or when another process works from it already.
    """

    def __init__(
        self, home: Path, seat: Path | None = None, say: Callable[[str], None] = log.info
    ) -> None:
        """Read what the site is; start a worker, which loads torch meanwhile."""
        self.home = home.absolute()
        self.seat = (seat or home).absolute()
        self._say = say
        if not self.home.is_dir():
            raise ValueError(f"{home}: no such folder; make it with `fedlite site init {home}`")
        self._lock = lock.hold(self.seat)
        self.address = seats.joined(self.seat).address
        policy = site_policy.load(self.home / setup.POLICY)
        self._journal = Journal(self.home / "audit")
        self._fleet = connection(self.seat)
        self._runs: dict[int, tuple[bytes, dict[str, Any]]] = {}
        self._inflight = InFlight(self.seat)
        workers = Workers(self.home, self.seat, policy)
        self._desk = Desk(self.home, workers, self._note, self.seat)
        self._stop = threading.Event()
        self._status = StatusFile(self.seat, self.address, say)
        self._fetching = Fetching(self.home, self.seat, self._note, say)

    # Life --------------------------------------------------------------------------------------

    def serve(self, stop: threading.Event, patience: float = 60.0) -> None:
        """Work until `stop` is set.

        patience: seconds for which a refusal is taken as passing: a site that was killed is on
        line for the coordinator a while longer, and refused until it is not. Raises Refused.
        """
        self._stop = stop
        try:
            while not stop.is_set():
                try:
                    self._connect(stop, patience)
                    self._work(stop)
                except Unreachable as error:
                    self._status.tell("unreachable", str(error))
                except Refused as error:
                    if self._status.state == "refused":
                        raise
                    # It may be the old key's: connecting tries the next one, and gives up in time.
                    self._status.tell("refused", f"{error}; trying again")
                    stop.wait(_REFUSED_WAIT)
        finally:
            self._status.tell("stopped")
            self.close()

    def close(self) -> None:
        """End the workers and leave the coordinator."""
        self._desk.close()
        self._fleet.close()
        self._lock.close()

    def _connect(self, stop: threading.Event, patience: float) -> None:
        """Activate, waiting longer each time that it fails."""
        wait, until = 1.0, time.monotonic() + patience
        while not stop.is_set():
            try:
                number = self._fleet.activate()
                self._status.coordinator_release = self._fleet.release
                self._status.tell("connected", f"connected to {self.address} as node {number}")
                return
            except Unreachable as error:
                self._status.tell("unreachable", f"{error}; trying again")
            except Refused as error:
                if self._next_key_accepted():
                    continue
                if time.monotonic() > until:
                    self._status.tell("refused")
                    self._note("refused", why=str(error))
                    raise
                self._status.tell("refused", f"{error}; trying again")
                wait = min(wait, _REFUSED_WAIT)
            # Sites that lost the same coordinator should not all come back in the same second.
            stop.wait(wait * random.uniform(0.7, 1.3))  # noqa: S311
            wait = min(2 * wait, _LONGEST_WAIT)

    def _next_key_accepted(self) -> bool:
        """Go over to the next node key once the coordinator takes it; never before."""
        if not (self.seat / setup.NEXT).exists():
            return False
        fleet = connection(self.seat, setup.NEXT)
        try:
            fleet.activate()
        except (Refused, Unreachable):
            return False
        finally:
            fleet.close()
        setup.finish_rotation(self.home, self.seat)
        self._fleet.close()
        self._fleet = connection(self.seat)
        self._status.tell("starting", "the coordinator has taken the new node key")
        return True

    def _work(self, stop: threading.Event) -> None:
        """Take messages and answer them; only `stop` and a lasting refusal end it."""
        lost, pace = 0.0, Pace()
        # The coordinator gives a message out once: one that is not on disk yet must not be dropped.
        held: Incoming | None = None
        while not stop.is_set():
            try:
                if self._finish_interrupted():
                    held = None
                asked = time.monotonic()
                held = held or self._fleet.receive()
                if lost:
                    self._status.tell("connected", "connected again")
                lost = 0.0
                if held is None:
                    self._fetching.step(self._fleet.released)
                    # Also between two parts: whoever has to fetch asks for work no more often.
                    stop.wait(pace.pause(time.monotonic() - asked))
                else:
                    self._handle(held)
                    pace.answered(held.run)
                    held = None
            except Unreachable as error:
                lost = min(2 * lost or 0.5, _LONGEST_WAIT)
                self._status.tell("unreachable", f"{error}; trying again")
                stop.wait(lost * random.uniform(0.7, 1.3))  # noqa: S311
            except Refused:
                raise
            except Exception:
                # Whatever one message did to it, the site must be there for the next.
                log.exception("a message could not be answered; it is given up")
                self._inflight.forget()
                held = None
                stop.wait(1.0)

    # One message -------------------------------------------------------------------------------

    def _handle(self, incoming: Incoming) -> None:
        """Answer one message; what goes wrong leaves as a code."""
        flower.identify(incoming.run, self._fleet.node_id)
        try:
            approved = self._approve(incoming.run)
            if isinstance(approved, ApprovedRun):
                message = self._fleet.content(incoming, approved.policy.limits.down)
                # On disk before the coordinator forgets it: nobody would ever send it again.
                self._inflight.take(message)
                self._fleet.confirm(incoming)
        except TooLarge as error:
            self._say(str(error))
            self._note("refuse", why=str(error))
            approved = Code.POLICY
        except RunOver as error:
            # Kept already where confirming told so: to train it would spend privacy for nobody.
            self._inflight.forget()
            log.info("%s", error)
            return
        except (Unreachable, Refused):
            raise
        except OSError as error:
            # Without its message on disk a round that is interrupted could not be answered.
            self._say(f"no room to keep a message ({error}); free some space")
            approved = Code.FAILED
        except ValueError as error:
            self._say(f"declined: {error}")
            approved = Code.DATA
        if isinstance(approved, Code):
            self._deliver(flower.decline(approved, incoming.stub))
        else:
            self._answer(message, approved)

    def _answer(self, message: Message, approved: ApprovedRun) -> None:
        started = time.monotonic()
        reply, outcome = self._desk.answer(message, approved, self._fleet.node_id)
        try:
            self._inflight.ready(reply)
        except OSError as error:
            log.error("the reply could not be kept, only sent: %s", error)
        seconds = time.monotonic() - started
        name = message.metadata.group_id
        answered = Answered(
            run=str(approved.config.get("run.id", "")),
            scenario=str(approved.config.get("federation.name", "")),
            round=name,
            seconds=round(seconds, 3),
            bytes_up=len(flower.to_bytes(reply)),
            bytes_down=len(flower.to_bytes(message)),
            outcome=outcome,
        )
        self._status.count(answered)
        try:
            asked = message.metadata.message_type in (MessageType.TRAIN, MessageType.EVALUATE)
            blob = b"" if reply.has_error() else flower.unwrap(reply)
            runbook.note(self.home, self.seat, approved, answered, update=asked, blob=blob)
        except OSError as error:
            log.error("the record of the run could not be written: %s", error)
        log.info("round %s: %s in %.1f s", name, outcome, seconds)
        self._deliver_on_time(reply, approved.policy.clock)

    def _deliver_on_time(self, reply: Message, clock: int) -> None:
        """Deliver a reply at the next tick of the site's clock since its message came.

        Told to stop before that, leave it on disk: the next start delivers it.
        """
        came = self._inflight.came()
        if clock and came is not None and self._stop.wait(until_tick(time.time() - came, clock)):
            return
        self._deliver(reply)

    def _deliver(self, reply: Message) -> None:
        try:
            self._fleet.push(reply)
        except RunOver as error:
            log.info("a reply came too late: %s", error)
        self._inflight.forget()

    def _finish_interrupted(self) -> bool:
        """Send the reply that was ready, or answer the message that was taken, before any other.

        Returns whether there was one.
        """
        if (reply := self._inflight.reply()) is not None:
            flower.identify(int(reply.metadata.run_id), self._fleet.node_id)
            self._deliver_on_time(reply, site_policy.load(self.home / setup.POLICY).clock)
            return True
        if (message := self._inflight.message()) is None:
            return False
        run = int(message.metadata.run_id)
        flower.identify(run, self._fleet.node_id)
        if not self._inflight.own:
            # A killed site is let in again only once its rounds have gone on without it. To train
            # now would spend privacy on an update that nobody waits for.
            self._deliver(flower.decline(Code.FAILED, message))
            return True
        try:
            approved = self._approve(run)
        except RunOver:
            approved = Code.FAILED
        if isinstance(approved, Code):
            self._inflight.forget()
        else:
            self._answer(message, approved)
        return True

    # What may run ------------------------------------------------------------------------------

    def _approve(self, run: int) -> ApprovedRun | Code:
        """Compare bundle and settings with what the operator approved; import nothing of them."""
        policy = site_policy.load(self.home / setup.POLICY)
        if run not in self._runs:
            claimed, given = self._fleet.run_config(run)
            self._runs = {run: (self._fleet.bundle(claimed, run), given)}
        content, given = self._runs[run]
        try:
            return gate.check(policy, content, given)
        except gate.NotApproved as error:
            if gate.keep_refused(self.home, content):
                digest = bundles.digest(content)
                self._note("refuse", bundle=digest, why=str(error))
                self._say(
                    f"refused bundle {digest[:12]}: {error}; see it with "
                    f"`fedlite site approve {self.home}`"
                )
            return Code.UNAPPROVED

    def _note(self, action: str, **facts: str | int) -> None:
        """Write into the journal; what is refused stays refused where that fails."""
        try:
            self._journal.write(action, **facts)
        except OSError as error:
            log.error("the journal could not be written: %s", error)
