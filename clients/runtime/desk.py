"""The desk at which a message is answered: what is asked, what the worker says, what may leave.

The worker runs approved code and is believed in nothing: the budget is held by the guardian in this
process, and what is sent is packed here from one layout, one frame or one code.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

from flwr.app import Message, MessageType

import fedlite
from clients.runtime.gate import EXEMPT, ApprovedRun
from clients.runtime.inflight import check_room
from clients.runtime.masking import Masking
from clients.runtime.warm import AnswerTooLong, WorkerFailed, Workers
from fedlite import flower
from fedlite.deployment.protocol import spoken
from fedlite.guard import egress, guardian
from fedlite.guard.guardian import Decline, Guardian
from fedlite.inference import told
from fedlite.messages import Code, Counted, Hello, Instruction, Reply
from fedlite.privacy.ledger import LedgerError
from fedlite.scenario import ScenarioError, from_run_config
from fedlite.secure.messages import Note, is_note

log = logging.getLogger("fedlite.site")

_LAYOUT = re.compile(r"[0-9a-f]{16}")


class Desk:
    """Answers by the workers of the site whose folder is `home`; `note` writes its journal.

    seat: where it keeps what it has with this coordinator.
    """

    def __init__(
        self, home: Path, workers: Workers, note: Callable[..., None], seat: Path | None = None
    ) -> None:
        """Take over the workers."""
        self._home, self._workers, self._note = home, workers, note
        self._seat = seat or home
        self._guardians: dict[str, Guardian] = {}
        self._layouts: dict[str, str] = {}
        self._told = ""

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    def answer(self, message: Message, approved: ApprovedRun, node: int) -> tuple[Message, str]:
        """Let the worker answer, hold what it says to the budget and the policy, pack it anew.

        node: Flower's number of this site. Returns the reply and a word for it.
        """
        try:
            outgoing, guard = self._worked(message, approved, node)
            if isinstance(outgoing, Code):
                return flower.decline(outgoing, message), outgoing.value
            return guard.send(outgoing, message), "sent"
        except Decline as decline:
            code = self._declined(decline)
        except egress.NotAllowed as error:
            self._note("refuse", why=str(error))
            code = Code.POLICY
        except ScenarioError as error:
            log.error("%s", error)
            code = Code.CONFIG
        except LedgerError as error:
            log.error("%s", error)
            if error.rule.startswith("release"):
                self._note("refuse", why=f"approved code trained unasked: {error}"[:500])
            code = Code.DATA
        except WorkerFailed as error:
            log.error("%s", error)
            self._note("worker-ended", why=str(error)[:500])
            code = Code.FAILED
        except Exception as error:
            # The bytes are those of approved code: decoders raise what they like.
            log.error("%s", error)
            code = Code.FAILED
        return flower.decline(code, message), code.value

    def _declined(self, decline: Decline) -> Code:
        """Say why; what is wrong with a ledger is a person's business, once."""
        log.warning("declined (%s): %s", decline.code, decline)
        if decline.code is Code.LEDGER and str(decline) != self._told:
            self._told = str(decline)
            self._note("refuse", why=self._told[:500])
        return decline.code

    def _worked(
        self, message: Message, approved: ApprovedRun, node: int
    ) -> tuple[Hello | Reply | Note | Code, Guardian]:
        """Return what may leave; what is private is on record by then."""
        policy, run = approved.policy, int(message.metadata.run_id)
        guard = self._guardian(approved)
        asked: Instruction | None = None
        counts = message.metadata.message_type == MessageType.EVALUATE
        if counts:
            guard = guard.for_counts()
        name = str(approved.config.get("run.id", ""))
        masking = Masking.of(guard, self._seat, name, approved.bundle.sha256)
        train = message.metadata.message_type == MessageType.TRAIN
        if masking is not None and train and (step := _step(message)):
            check_room(self._home)
            return masking.step(step), guard
        if counts or train:
            check_room(self._home)
            asked = _instruction(message, approved)
            guard.admit(asked)
        chosen = policy.data_set(guard.scenario.data.name)
        if chosen is None:
            raise Decline(Code.POLICY, f"site.toml: has no [data.{guard.scenario.data.name}]")
        known = masking.known(asked) if masking and asked and not counts else b""
        worker = self._workers.get(approved, chosen, run, node)
        # What is masked was reserved: it is sent again, whatever is trained anew.
        paid = bool(known)

        def reserve() -> Code | None:
            nonlocal paid
            code = None if known else self._reserve(guard, asked, masking)
            paid = paid or code is None
            return code

        try:
            said = worker.ask(flower.to_bytes(message), policy.limits, reserve)
        except AnswerTooLong as error:
            raise egress.NotAllowed(f"limits.up: {error}") from None
        if isinstance(said, Code):
            return said, guard
        if len(said) > policy.limits.up:
            raise egress.NotAllowed(f"limits.up: {len(said)} bytes were to leave")
        if asked is None:
            if masking is not None and _is_over(message, guard):
                masking.forget()
            # Of what the code says only the layout counts: the rest the site knows itself.
            layout = self._layout(approved, Hello.decode(said).layout)
            head = guard.head()
            return Hello(policy.site, layout, fedlite.__version__, *head, spoken()), guard
        frame = Reply.decode(said).frame
        if counts:
            _check_counts(frame, guard)
        elif masking is not None:
            if not paid:
                raise egress.NotAllowed(
                    f"sum: round {asked.round} was answered and never asked for; nothing is masked"
                )
            check_room(self._home)
            frame = masking.masked(asked, frame)
            if len(frame) > policy.limits.up:
                raise egress.NotAllowed(f"limits.up: {len(frame)} bytes were to leave")
        # A ledger whose write failed refuses everything until a person acts.
        check_room(self._home)
        kind = Counted if counts else Reply
        return kind(frame, guard.release(asked, frame)), guard

    def _guardian(self, approved: ApprovedRun) -> Guardian:
        """Return who holds the run to its budget, made from what was approved."""
        told = [approved.bundle.sha256, approved.config, repr(approved.policy)]
        key = json.dumps(told, sort_keys=True)
        if key not in self._guardians:
            scenario = from_run_config(approved.config)
            folder = self._home / "bundles" / approved.bundle.sha256
            run = str(approved.config.get("run.id", ""))
            self._guardians = {
                key: guardian.deployed(scenario, self._home, run, folder, approved.policy)
            }
        return self._guardians[key]

    def _layout(self, approved: ApprovedRun, told: str) -> str:
        """Return the layout that approved code tells, if it is one, and the one that it told first.

        A hello is asked for as often as the server likes, and no ledger has a row for it.
        """
        settings = {key: value for key, value in approved.config.items() if key not in EXEMPT}
        key = json.dumps([approved.bundle.sha256, settings], sort_keys=True)
        if not _LAYOUT.fullmatch(told) or self._layouts.setdefault(key, told) != told:
            raise egress.NotAllowed(
                "hello: must tell one layout, 16 hex digits, and no other later"
            )
        return told

    def _reserve(
        self, guard: Guardian, asked: Instruction | None, masking: Masking | None
    ) -> Code | None:
        """Write a round down before it is trained; return the code when that may not be."""
        try:
            if asked is None:
                raise Decline(Code.POLICY, "a hello trains nothing")
            check_room(self._home)
            if guard.unit != "none":
                guard.commitment()
                if self._workers.stale(guard.policy()):
                    raise Decline(Code.DATA, "the records were replaced meanwhile; ask again")
            guard.reserve(asked, masking.group if masking else {})
        except Decline as decline:
            return self._declined(decline)
        except (ValueError, OSError) as error:
            log.error("the round could not be written down: %s", error)
            return Code.DATA if isinstance(error, ValueError) else Code.FAILED
        return None


def _step(message: Message) -> bytes:
    """Return the step of a sum that a message asks for, or nothing where it asks for another thing.

    Raises Decline when it is malformed.
    """
    try:
        blob = flower.unwrap(message)
    except ValueError as error:
        raise Decline(Code.BAD_INSTRUCTION, str(error)) from None
    return blob if is_note(blob) else b""


def _is_over(message: Message, guard: Guardian) -> bool:
    """Return whether a run's released model was brought: no sum of it is to come."""
    last = guard.scenario.federation.rounds
    try:
        return Instruction.decode(flower.unwrap(message)).round == last + 1
    except ValueError:
        return False


def _check_counts(frame: bytes, guard: Guardian) -> None:
    """Let nothing out as counts that is of another form or length; raises egress.NotAllowed."""
    noise = guard.mechanism.noise_multiplier if guard.mechanism else 0.0
    try:
        told.check(frame, noise, guard.scenario.inference.risk)
    except ValueError as error:
        raise egress.NotAllowed(f"counts: {error}") from None


def _instruction(message: Message, approved: ApprovedRun) -> Instruction:
    """Return what is asked; raises Decline when it is malformed or belongs to another run."""
    try:
        asked = Instruction.decode(flower.unwrap(message))
    except ValueError as error:
        raise Decline(Code.BAD_INSTRUCTION, str(error)) from None
    if asked.run.hex() != approved.config.get("run.id"):
        raise Decline(Code.BAD_INSTRUCTION, "the instruction is for another run than its bundle")
    return asked
