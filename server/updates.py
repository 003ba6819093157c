"""What an update has to pass before it counts: the server's own plan, the witness, the bound."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedlite import compression
from fedlite.messages import REPLY_BYTES, Reply, site_id
from fedlite.parameters import LARGEST_UPDATE, Vector
from fedlite.plan import Plan
from fedlite.privacy import client
from server.checkpoint import Checkpoint
from server.witness import Witness
from strategies import ServerState, Strategy, make, weighted_mean


class Updates:
    """A round's updates on their way into the strategy.

    witness: remembers the heads of the sites' ledgers, when they keep any.
    """

    def __init__(self, plan: Plan, witness: Witness | None = None) -> None:
        """Make the strategy of the plan; call `start` before the first update."""
        self._plan = plan
        # Bytes of the longest reply that the plan allows.
        self.longest = REPLY_BYTES + compression.HEADER_BYTES + plan.up_limit
        self._witness = witness
        self._bound = plan.update_norm
        self._strategy: Strategy = make(
            plan.scenario.federation,
            weighted_mean if plan.central is None else self._noised_mean,
        )

    def start(self, point: Checkpoint, number: int) -> None:
        """Begin round `number`, in which sites train from what `point.broadcast` leads to."""
        self._state, self._number = point.state, number
        self._envelope = compression.Envelope(
            run=point.run,
            round=number,
            site=0,
            layout=self._plan.layout.digest,
            base=point.broadcast.digest,
            seed=self._plan.scenario.federation.seed,
        )
        share = self._plan.scenario.uplink.aggregate_feedback
        self._reference = np.float32(share) * point.broadcast.step if share else None
        self._strategy.start(self._plan.layout.size)

    def add(self, name: str, blob: bytes) -> None:
        """Decode a site's update, cut it to the bound and add it.

        Raises Disagreement when its ledger's head contradicts the witness, ValueError when it is
        in any other way no update of this site for this round.
        """
        envelope = replace(self._envelope, site=site_id(name))
        reply = Reply.decode(blob)
        self._check_head(name, reply)
        codec, records, body = compression.unpack(reply.frame, envelope, limit=self._plan.up_limit)
        if codec != self._plan.uplink.codec:
            raise ValueError(f"codec: must be {self._plan.uplink.codec}, got {codec}")
        if self._plan.scenario.noised_at_server:
            body = compression.unpad(body)
        decoded = self._plan.uplink.decompress(body, self._plan.layout.size, envelope.context)
        update = compression.restore(decoded, self._reference)
        if self._bound:
            update = replace(update, values=client.clip(update.values, self._bound))
        values = update.values
        largest = float(max(values.max(initial=0.0), -values.min(initial=0.0)))
        if largest > LARGEST_UPDATE:
            raise ValueError(f"update: values must be at most {LARGEST_UPDATE:g}, got {largest:g}")
        self._strategy.add(update, records)

    def finish(self) -> ServerState:
        """Return the state that the round's updates lead to."""
        return self._strategy.finish(self._state, self._number)

    def _check_head(self, name: str, reply: Reply) -> None:
        if self._witness is not None:
            payload = hashlib.sha256(reply.frame).hexdigest()
            run, number = self._envelope.run.hex(), self._number
            self._witness.see(name, reply.head, run=run, number=number, payload=payload)
        elif reply.head is not None:
            raise ValueError("reply: holds a ledger's head in a run that claims no privacy")

    def _noised_mean(self, total: NDArray[np.float64], weight: float) -> Vector:
        central = self._plan.central
        if central is None:
            raise ValueError("central: the mechanism is needed for the server's noise, got none")
        noise = client.entropy(self._plan.scenario.privacy.simulate_seed, self._number, 0)
        participants = self._plan.scenario.federation.participants
        return client.noised_mean(total, participants, central, noise)
