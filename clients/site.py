"""One site: its records, its policy on what leaves, and its share of a round."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fedlite
from clients.state import Pending, SiteState, exclusive, load, save
from fedlite import compression
from fedlite.config import Link, Scenario
from fedlite.data.spread import spread
from fedlite.messages import Code, Hello, Instruction, site_id
from fedlite.parameters import Vector, vector_digest
from fedlite.privacy import RecordMechanism
from fedlite.training import Learner
from fedlite.training.share import plan_mechanism, settle_batch


class Decline(Exception):
    """The site takes no part in this round; only the code leaves the site."""

    def __init__(self, code: Code, reason: str) -> None:
        """Keep the code for the server and the reason for the site's own log."""
        super().__init__(reason)
        self.code = code


@dataclass
class Site:
    """A site that is ready to train. `mechanism` is None when no privacy unit is set."""

    scenario: Scenario
    name: str
    learner: Learner
    mechanism: RecordMechanism | None
    path: Path

    @property
    def number(self) -> int:
        """The number that binds this site's frames to its name."""
        return site_id(self.name)

    def hello(self) -> Hello:
        """Return what the server may know of the site: its name and the model it would train."""
        return Hello(self.name, self.learner.layout.digest.hex(), fedlite.__version__)

    def take_part(self, instruction: Instruction) -> bytes:
        """Return this site's update frame for the round.

        Asked again for a round that it has answered from the same model, it sends the same frame
        again: a repeated message costs no privacy, training again would.

        Raises Decline when the site cannot or will not train.
        """
        if instruction.site != self.number:
            raise Decline(Code.BAD_INSTRUCTION, "the instruction is for another site")
        with exclusive(self.path):
            return self._take_part(instruction)

    def _take_part(self, instruction: Instruction) -> bytes:
        state = load(self.path) or SiteState(
            replica=self.learner.initial, residual=np.zeros_like(self.learner.initial)
        )
        replica = self._receive(state.replica, instruction)
        pending = state.pending
        if (
            pending is not None
            and pending.round == instruction.round
            and pending.base == instruction.model
        ):
            return pending.payload
        state.settle(instruction.acknowledged)
        state.replica = replica
        if self.mechanism is not None:
            self._reserve(state, self.mechanism)
        delta = self.learner.delta(replica, instruction.round, self.number, self.mechanism)
        return self._send(state, delta, instruction)

    def _compressor(self, link: Link) -> compression.Compressor:
        sizes = self.learner.layout.sizes
        return compression.make(
            link.compressor, density=link.density, values=link.values, sections=sizes
        )

    def _receive(self, replica: Vector, instruction: Instruction) -> Vector:
        """Bring the site's model to the one that the instruction names, frame by frame."""
        sparse = self._compressor(self.scenario.downlink)
        dense = compression.Dense()
        size = self.learner.layout.size
        current, digest = replica, vector_digest(replica)
        count = len(instruction.frames)
        for number, frame in enumerate(instruction.frames):
            if digest == instruction.model:
                break
            # A dense frame is a whole model and starts from nothing.
            full = frame[3:4] == bytes([dense.codec])
            compressor = dense if full else sparse
            try:
                envelope = compression.Envelope(
                    run=instruction.run,
                    # A chain's frames are numbered by the round they lead to; the last is this one.
                    round=instruction.round - count + 1 + number,
                    site=0,
                    layout=self.learner.layout.digest,
                    base=bytes(8) if full else digest,
                )
                codec, _, body = compression.unpack(frame, envelope, limit=compressor.limit(size))
                if codec != compressor.codec:
                    raise ValueError(f"codec: must be {compressor.codec}, got {codec}")
                decoded = compressor.decompress(body, size)
            except ValueError as error:
                if current is not replica:
                    raise Decline(Code.NEED_FULL_MODEL, f"frame {number}: {error}") from None
                # The site may already be past the start of the chain: the server does not know of
                # a round whose reply was lost.
                continue
            if full:
                current = decoded.dense()
            else:
                current = current.copy()
                decoded.add_to(current, 1.0)
            digest = vector_digest(current)
        if digest != instruction.model:
            raise Decline(Code.NEED_FULL_MODEL, "the chain does not lead to the model named")
        return current

    def _reserve(self, state: SiteState, mechanism: RecordMechanism) -> None:
        """Write down the steps of this round before the first of them is taken.

        A crash in between costs the site a round of its budget, never an unrecorded release.
        """
        steps = self.scenario.training.steps
        if state.steps_reserved + steps > mechanism.steps:
            raise Decline(
                Code.BUDGET,
                f"{state.steps_reserved} of {mechanism.steps} planned private steps are spent",
            )
        state.steps_reserved += steps
        save(self.path, state)

    def _send(self, state: SiteState, delta: Vector, instruction: Instruction) -> bytes:
        """Compress the delta, remember both possible residuals, and return the frame."""
        link = self.scenario.uplink
        compressor = self._compressor(link)
        residual = compression.Residual(state.residual) if link.error_feedback else None
        body, _, left = compression.compress(compressor, delta, residual)
        envelope = compression.Envelope(
            run=instruction.run,
            round=instruction.round,
            site=self.number,
            layout=self.learner.layout.digest,
            base=instruction.model,
        )
        disclosed = self.scenario.federation.weighting == "records"
        records = len(self.learner.labels) if disclosed else 0
        payload = compression.pack(envelope, compressor.codec, body, records)
        state.pending = Pending(
            round=instruction.round,
            base=instruction.model,
            payload=payload,
            unsent=delta if residual is None else delta + residual.value,
            residual=left.value if link.error_feedback else np.zeros_like(delta),
        )
        state.releases += 1
        save(self.path, state)
        return payload


def open_simulated_site(scenario: Scenario, index: int, directory: Path) -> Site:
    """Build simulated site `index` (from 0); its state lives in `directory`.

    Raises ValueError when the data, the model or the privacy plan is not usable.
    """
    federation = scenario.federation
    source, sites = spread(scenario.data, federation.sites, federation.seed)
    data = sites[index]
    if scenario.private and scenario.privacy.delta >= 1 / len(data.train):
        raise ValueError(
            f"privacy.delta: must be less than 1 / records, which is 1 / {len(data.train)} at "
            f"{data.name}, got {scenario.privacy.delta}; use 1e-5 or less"
        )
    scenario = settle_batch(scenario, len(source.train))
    mechanism = plan_mechanism(scenario) if scenario.private else None
    learner = Learner(scenario, data.train, source.classes)
    return Site(scenario, data.name, learner, mechanism, directory / f"{data.name}.safetensors")


def default_state_directory(run: int) -> Path:
    """Return where a simulated site keeps its state when nobody said where."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "fedlite" / f"{run:016x}"
