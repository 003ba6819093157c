"""The way down: how the server's model reaches sites in few bytes.

The server keeps the exact model and the replica that sites hold. A round's broadcast is the
compressed difference between them, added to the replica at both ends, so what compression left out
stays in the difference and goes out later: error feedback without a residual vector of its own.
A site that is a few rounds behind gets the chain of frames it missed, or the full model when that
is smaller; which one it holds is known from the digest its last update was bound to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fedlite import compression
from fedlite.parameters import Vector, vector_digest

# Beyond it a rotation, or the sum of a difference and a replica, may leave what float32 can hold.
_LARGEST = np.float32(1e24)


@dataclass
class Broadcast:
    """The replica that up-to-date sites hold, and the frames that lead to it.

    replica: float32 [n]. round: the round it is for. frames: for each recent round, the frame that
    leads from the round before to it, oldest first, consecutive, the last one for `round`.
    before: the replica of the round before; not kept in the checkpoint, as every round sets it.
    """

    replica: Vector
    round: int = 0
    frames: list[tuple[int, bytes]] = field(default_factory=list)
    before: Vector | None = None

    @property
    def digest(self) -> bytes:
        """Digest of the replica."""
        return vector_digest(self.replica)

    def advance(
        self,
        model: Vector,
        compressor: compression.Compressor,
        layout: bytes,
        run: bytes,
        *,
        seed: int = 0,
    ) -> None:
        """Bring the replica nearer to `model` for the next round, and keep the frame that does so.

        The first round needs no frame: every site builds the initial model from the public seed.
        """
        self.round += 1
        self.before = self.replica
        if self.round == 1:
            return
        if compressor.codec == compression.Dense.codec:
            # A dense frame is a whole model: nothing is gained by sending a difference.
            self.frames = [(self.round, full(model, self.round, layout, run))]
            self.replica = model.copy()
            return
        envelope = compression.Envelope(
            run=run, round=self.round, site=0, layout=layout, base=self.digest, seed=seed
        )
        body = compressor.compress(model - self.replica, envelope.context)
        decoded = compressor.decompress(body, model.size, envelope.context)
        self.frames.append((self.round, compression.pack(envelope, compressor.codec, body)))
        self.replica = self.replica.copy()
        decoded.add_to(self.replica, 1.0)
        self._forget(4 * model.size)

    def can_send(self, model: Vector) -> bool:
        """Whether every compressor can send `model`, or what it differs by; NaN never can."""
        return all(bool((np.abs(v) <= _LARGEST).all()) for v in (model, model - self.replica))

    @property
    def step(self) -> Vector:
        """What the last broadcast changed, float32 [n]: the reference of aggregate feedback."""
        return self.replica - (self.replica if self.before is None else self.before)

    def frames_for(
        self, held: int | None, layout: bytes, run: bytes, *, with_step: bool = False
    ) -> tuple[bytes, ...]:
        """Return what brings a site up to date that holds the replica of round `held`.

        `held` is 1 for the initial model, None when nothing is known of what the site holds.
        With `with_step` the site can also tell what the last broadcast changed: one that needs the
        full model then gets that of the round before, and the last frame after it.
        """
        if held is not None:
            chain = [(number, frame) for number, frame in self.frames if number > held]
            complete = held >= self.round or (bool(chain) and chain[0][0] == held + 1)
            dense_bytes = 4 * self.replica.size + compression.HEADER_BYTES
            if complete and sum(len(frame) for _, frame in chain) <= dense_bytes:
                return tuple(frame for _, frame in chain)
        if with_step and self.before is not None and self.frames:
            whole = full(self.before, self.round - 1, layout, run)
            return (whole, self.frames[-1][1])
        return (full(self.replica, self.round, layout, run),)

    def _forget(self, dense_bytes: int) -> None:
        """Drop frames that no site will be sent: the full model is smaller than their chain."""
        total = 0
        for index in range(len(self.frames) - 1, -1, -1):
            total += len(self.frames[index][1])
            if total > dense_bytes:
                self.frames = self.frames[index + 1 :] or self.frames[-1:]
                return


def initial(vector: Vector) -> Broadcast:
    """Return the broadcast before the first round, when sites hold the initial model."""
    return Broadcast(replica=np.array(vector, copy=True))


def full(model: Vector, number: int, layout: bytes, run: bytes) -> bytes:
    """Return the frame that is a whole model, for round `number` of the run."""
    dense = compression.Dense()
    envelope = compression.Envelope(run=run, round=number, site=0, layout=layout, base=bytes(8))
    return compression.pack(envelope, dense.codec, dense.compress(model))
