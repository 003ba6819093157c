"""One site: its records, its policy on what leaves, and its share of a round."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fedlite
from clients.failing import diverged, failed
from clients.replicas import Replicas
from clients.state import Pending, SiteState, exclusive, load, nothing, save
from clients.sums import Sums
from fedlite import compression
from fedlite.data import Dataset
from fedlite.deployment.protocol import spoken
from fedlite.guard.guardian import Decline, Guardian
from fedlite.guard.remote import Remote
from fedlite.messages import Code, Hello, Instruction, Reply, site_id
from fedlite.objectives import OWN
from fedlite.parameters import LARGEST_DELTA, LARGEST_WEIGHT, Kept, Vector, vector_digest
from fedlite.plan import Plan
from fedlite.privacy import Mechanism, SharedMechanism, client
from fedlite.privacy.shared.summed import residues
from fedlite.questions import answer
from fedlite.scenario import Scenario
from fedlite.secure.masks import pack
from fedlite.secure.messages import SUMMED, Note
from fedlite.steps import Step, alone
from fedlite.training import Learner, Share
from fedlite.training.share import Asked


@dataclass
class Site:
    """A site that is ready to train.

    path: the file of what it remembers of this run. guardian: who holds its budget and its policy.
    commitment: to exactly the records that it trains on. calibration: those that choose which
    inputs leave early; None where the scenario holds out none. replicas: where simulated sites hold
    their models; None for a site that keeps its own. keeps: False where a simulated site remembers
    nothing, as nothing of a round counts in the next (`clients.opening.forgetful`). table: the
    training records as they were read, where figures are asked for and nothing is trained.
    """

    plan: Plan
    name: str
    learner: Learner
    path: Path
    guardian: Guardian | Remote
    commitment: str = ""
    calibration: Dataset | None = None
    replicas: Replicas | None = None
    keeps: bool = True
    table: NDArray[np.float64] | None = None

    @property
    def scenario(self) -> Scenario:
        """The plan's."""
        return self.plan.scenario

    @property
    def mechanism(self) -> Mechanism | None:
        """What protects its records; None when no privacy unit is set."""
        return self.plan.mechanism

    @property
    def number(self) -> int:
        """The number that binds this site's frames to its name."""
        return site_id(self.name)

    @property
    def unit(self) -> str:
        """What protects an update, as policies and ledgers name it."""
        return self.plan.unit

    @property
    def protection(self) -> str:
        """Unit, records and plan in one word: what a residual may be carried over within."""
        told = f"{self.unit}|{self.commitment}|{self.mechanism}|{self.scenario.uplink}"
        if self.plan.term is not None:
            # Of one objective another, or the same with other options, would make something else.
            training = self.scenario.training
            told += f"|{training.objective}|{training.objective_options}"
        return hashlib.sha256(told.encode()).hexdigest()

    def hello(self) -> Hello:
        """Return what the server may know of the site: its name and the model it would train."""
        head, rotations = self.guardian.head()
        layout = self.plan.travelling.digest.hex()
        return Hello(self.name, layout, fedlite.__version__, head, rotations, spoken())

    def take_part(self, instruction: Instruction) -> Reply:
        """Return this site's update for the round, with the head of its ledger when it is private.

        Asked again for a round that it has answered from the same model, it sends the same frame
        again: a repeated message costs no privacy, training again would.

        Raises Decline when the site cannot or will not train.
        """
        return alone(self.part(instruction))

    def part(self, instruction: Instruction) -> Generator[Step, Any, Reply]:
        """Do what `take_part` does, but yield what is asked of others, and be sent what they made.

        That is its share of training (`Asked`), and then, where nothing is kept of what compression
        leaves out, its bytes (`compression.Packing`).
        What a share costs is on disk when it is asked for. The site's file is held until the end.
        """
        if instruction.site != self.number:
            raise Decline(Code.BAD_INSTRUCTION, "the instruction is for another site")
        with exclusive(self.path) if self.keeps else nullcontext(), self.guardian.held():
            self.guardian.admit(instruction)
            frame = yield from self._take_part(instruction)
            return Reply(frame, self.guardian.release(instruction, frame))

    def _take_part(self, instruction: Instruction) -> Generator[Step, Any, bytes]:
        known = load(self.path, self.replicas) if self.keeps else None
        state = known or SiteState(
            replica=self.plan.first,
            residual=nothing(self.plan.first.size),
            records=self.commitment,
        )
        if state.records != self.commitment:
            raise Decline(
                Code.DATA,
                "the records are not those that this run began with (rule: what a run spends is "
                "spent on one table); put them back until it has ended, or take part in a new run",
            )
        state.guard(self.protection)
        replica, step = self._receive(state, instruction)
        pending = state.pending
        if (
            pending is not None
            and pending.round == instruction.round
            and pending.base == instruction.model
        ):
            return pending.payload
        if self.scenario.uplink.aggregate_feedback and step is None:
            raise Decline(Code.NEED_FULL_MODEL, "what the last broadcast changed is not known here")
        state.settle(instruction.acknowledged)
        state.replica, state.round = replica, instruction.round
        state.digest = instruction.model
        if known is None:
            # A crash in the first training must not make the site forget which records it was of.
            self._save(state)
        if self.plan.shared is not None:
            return self._mask(state, instruction, self.plan.shared)
        self.guardian.reserve(instruction)
        share = yield from self._trained(state, instruction)
        payload = yield from self._compress(state, share, step, instruction)
        # Before it is released: what is on record can then always be sent again.
        self._save(state)
        return payload

    def _trained(self, state: SiteState, asked: Instruction) -> Generator[Asked, Share, Share]:
        """Return the share of a round; under privacy whatever goes wrong in it ends alike."""
        try:
            share = yield Asked(
                self.learner, state.replica, asked.round, self.number, self.mechanism, state.kept
            )
            # In a residual it would be sent again in every round, and be refused in every round.
            if not np.abs(share.delta).max(initial=0.0) <= LARGEST_DELTA:
                raise diverged(LARGEST_DELTA)
        except Exception as error:
            if self.mechanism is None:
                raise
            if self.unit == "client-server":
                # Who sends is public there and noised is only what is sent: its records may not
                # decide whether a site is heard.
                failed(self.name, error)
                return Share(np.zeros_like(state.replica), state.kept)
            raise failed(self.name, error) from error
        return share

    def _save(self, state: SiteState) -> None:
        if self.keeps:
            save(self.path, state, self.replicas)

    @property
    def sums(self) -> Sums:
        """Its part in secure sums; raises Decline where it is the site's own process that takes it.

        A simulated site is one process.
        """
        if self.plan.shared is None or isinstance(self.guardian, Remote):
            raise Decline(Code.BAD_INSTRUCTION, "no step of a secure sum is taken here")
        return Sums(self.plan.shared, self.name, self._sums_path, self.guardian)

    @property
    def _sums_path(self) -> Path:
        return self.path.with_suffix(".sums")

    def forget_sums(self) -> None:
        """Remove its keys for sums, once the run is over; in a deployment they are not here."""
        self._sums_path.unlink(missing_ok=True)

    def step(self, note: Note) -> Note:
        """Return the answer to a step of a secure sum; raises Decline."""
        with exclusive(self.path):
            return self.sums.step(note)

    def _mask(
        self, state: SiteState, instruction: Instruction, mechanism: SharedMechanism
    ) -> bytes:
        """Return the frame of the site's part of a sum, under masks, and keep it in `state`.

        Approved code hands it over without, and keeps nothing of it: the site's own process has the
        keys, and what it masked last.
        """
        number, sums = instruction.round, None
        if isinstance(self.guardian, Remote):
            self.guardian.reserve(instruction)
        else:
            sums = self.sums
            if masked := sums.check(instruction.run, number, instruction.model):
                # A crash came before its frame was kept. Its steps are reserved, and cost no more.
                return self._summed(state, instruction, masked)
            self.guardian.reserve(instruction, sums.group())
        try:
            if self.table is None:
                units = self.learner.units(state.replica, number, self.number, mechanism)
            else:
                units = answer(self.scenario, self.table, mechanism, self.number, number)
        except Exception as error:
            raise failed(self.name, error) from error
        values, bits = residues(units, mechanism.bits), mechanism.bits
        if sums is None:
            save(self.path, state, self.replicas)
            return compression.pack(self._envelope(instruction), SUMMED, pack(values, bits))
        return self._summed(state, instruction, sums.mask(number, instruction.model, values, bits))

    def _summed(self, state: SiteState, instruction: Instruction, body: bytes) -> bytes:
        """Return the frame of a masked vector, and keep it in `state`."""
        zero = nothing(state.replica.size)
        payload = compression.pack(self._envelope(instruction), SUMMED, body)
        state.pending = Pending(instruction.round, instruction.model, payload, zero, zero)
        save(self.path, state, self.replicas)
        return payload

    def _receive(self, state: SiteState, instruction: Instruction) -> tuple[Vector, Vector | None]:
        """Bring the site's model to the one that the instruction names, frame by frame.

        Returns that model, and what the last broadcast changed; None when the site cannot tell.
        """
        replica = state.replica
        dense = compression.Dense()
        current, digest = replica, state.digest or vector_digest(replica)
        at, before = state.round, None
        count = len(instruction.frames)
        # An honest chain has a frame a round at most. What a server may ask for is bounded by the
        # plan, as every frame costs a copy and a digest of the model.
        if count > instruction.round or instruction.round > self.scenario.federation.rounds:
            raise Decline(
                Code.BAD_INSTRUCTION,
                f"round {instruction.round} of {self.scenario.federation.rounds} with {count} "
                "frames: the plan has no such round, or no round needs so many",
            )
        for number, frame in enumerate(instruction.frames):
            # Aggregate feedback asks what the last frame changed, also when that was nothing.
            if digest == instruction.model and not self.scenario.uplink.aggregate_feedback:
                break
            # A chain's frames are numbered by the round they lead to; the last is this one.
            leads_to = instruction.round - count + 1 + number
            # A dense frame is a whole model and starts from nothing.
            full = frame[3:4] == bytes([dense.codec])
            compressor = dense if full else self.plan.down(leads_to)
            try:
                envelope = compression.Envelope(
                    run=instruction.run,
                    round=leads_to,
                    site=0,
                    layout=self.plan.travelling.digest,
                    base=bytes(8) if full else digest,
                    seed=self.scenario.federation.seed,
                )
                after = self._led(frame, envelope, compressor, current)
            except ValueError as error:
                if current is not replica:
                    raise Decline(Code.NEED_FULL_MODEL, f"frame {number}: {error}") from None
                # The site may already be past the start of the chain: the server does not know of
                # a round whose reply was lost.
                continue
            before = current if not full or at == envelope.round - 1 else None
            at = envelope.round
            digest, current = after
        if digest != instruction.model:
            raise Decline(Code.NEED_FULL_MODEL, "the chain does not lead to the model named")
        if self.mechanism and not np.abs(current).max(initial=0.0) <= LARGEST_WEIGHT:
            raise Decline(
                Code.BAD_INSTRUCTION,
                f"the model has a weight beyond {LARGEST_WEIGHT:g} or not finite: no record is "
                "touched by it; see whether the server's training has diverged",
            )
        if instruction.round == 1:
            # There was no broadcast before the first round, so nothing has changed.
            before = current
        return current, None if before is None else current - before

    def _led(
        self,
        frame: bytes,
        envelope: compression.Envelope,
        compressor: compression.Compressor,
        current: Vector,
    ) -> tuple[bytes, Vector]:
        """Return digest and model that a frame leads to from `current`; ValueError for a bad one.

        Of simulated sites that hold the same model and get the same frame, one decodes it.
        """
        full, size = compressor.codec == compression.Dense.codec, self.plan.travelling.size

        def decode() -> Vector:
            limit = compressor.limit(size) if full else self.plan.down_limit
            codec, _, body = compression.unpack(frame, envelope, limit=limit)
            if codec != compressor.codec:
                raise ValueError(f"codec: must be {compressor.codec}, got {codec}")
            decoded = compressor.decompress(body, size, envelope.context)
            # Refused, too, when the sum is not finite.
            return (decoded if full else compression.restore(decoded, current)).dense()

        if self.replicas is not None:
            return self.replicas.led((envelope, frame), decode)
        model = decode()
        return vector_digest(model), model

    def _envelope(self, instruction: Instruction) -> compression.Envelope:
        return compression.Envelope(
            run=instruction.run,
            round=instruction.round,
            site=self.number,
            layout=self.plan.travelling.digest,
            base=instruction.model,
            seed=self.scenario.federation.seed,
        )

    def _compress(
        self, state: SiteState, share: Share, step: Vector | None, instruction: Instruction
    ) -> Generator[Step, Any, bytes]:
        """Compress the delta into a frame and keep in `state` what either fate of it leads to."""
        link, compressor = self.scenario.uplink, self.plan.up(instruction.round)
        residual = compression.Residual(state.residual) if link.error_feedback else None
        reference = None
        if link.aggregate_feedback and step is not None:
            reference = self.plan.reference(step)
        envelope = self._envelope(instruction)
        if residual is None and not isinstance(compressor, compression.Joined | compression.Part):
            # Nothing is remembered of it, so nobody asks what the server will make of it.
            change = share.delta if reference is None else share.delta - reference
            body: bytes = yield compression.Packing(compressor, change, envelope.context)
            update = None
        else:
            # Without a residual nothing is kept of what the server cuts off.
            bound = self.plan.update_norm if link.error_feedback else 0.0
            sent = yield from compression.compressing(
                compressor,
                share.delta,
                residual,
                reference=reference,
                context=envelope.context,
                cut=partial(client.clip, bound=bound) if bound else None,
            )
            body, update = sent.body, sent.update
        disclosed = self.scenario.federation.weighting == "records"
        records = len(self.learner.labels) if disclosed else 0
        if self.scenario.noised_at_server:
            # Not noised yet: neither its length nor its hash in a ledger may tell of the records.
            # A run that claims nothing keeps no ledger, and can be repeated bit for bit.
            size = compression.SALT_BYTES
            salt = secrets.token_bytes(size) if self.scenario.claims_privacy else bytes(size)
            body = compression.pad(body, compressor.limit(share.delta.size), salt)
        payload = compression.pack(envelope, compressor.codec, body, records)
        kept = share.kept | self._own(state.kept, update)
        unsent = left = nothing(share.delta.size)
        if residual is not None:
            # What an objective keeps is of the rounds that were used: of another neither its
            # state nor its delta is carried on, or the two would tell of different rounds.
            unsent = state.residual if kept else sent.unsent.value
            left = sent.residual.value
        state.pending = Pending(
            instruction.round, instruction.model, payload, unsent, residual=left, kept=kept
        )
        return payload

    def _own(self, kept: Kept, update: compression.Decoded | None) -> Kept:
        """Return this site's own extras, as the server will have them once it uses `update`."""
        mine = [stretch.name for stretch in self.plan.extras if stretch.per_site]
        if not mine or update is None:
            return {}
        _, changes = self.plan.split(update.dense())
        return {OWN + name: kept.get(OWN + name, np.float32(0)) + changes[name] for name in mine}
