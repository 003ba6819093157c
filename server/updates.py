"""What an update has to pass before it counts: the server's own plan, the witness, the bounds.

An update is added as soon as it is decoded, so that memory does not grow with the sites unless the
strategy keeps what it is given (`strategies.gathered`). Only from one on that is longer than usual,
or in a run's first round, updates wait, encoded as they came and in their order, until the round's
median is known; no more than 64 of them, or 256 MB.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedlite import compression
from fedlite.messages import REPLY_BYTES, Reply, site_id
from fedlite.parameters import LARGEST_UPDATE, Vector
from fedlite.plan import Plan
from fedlite.privacy import client
from server.checkpoint import Checkpoint
from server.extras import Extras, length_of
from server.lengths import LEAST, median_of
from server.products import Products
from server.witness import Witness
from strategies import ServerState, Strategy, make, weighted_mean

_MOST_WAITING, _MOST_BYTES = 64, 256_000_000


@dataclass(frozen=True)
class _Waiting:
    """An update that is valid, and whose length will be judged."""

    name: str
    body: bytes
    envelope: compression.Envelope
    records: int
    length: float


class Updates:
    """A round's updates on their way into the strategy.

    witness: remembers the heads of the sites' ledgers, when they keep any. cut: by site, how many
    times as long its update of this round was as what it was cut to.
    """

    def __init__(self, plan: Plan, witness: Witness | None = None) -> None:
        """Make the strategy of the plan; call `start` before the first update."""
        self._plan = plan
        # Bytes of the longest reply that the plan allows.
        self.longest = REPLY_BYTES + compression.HEADER_BYTES + plan.up_limit
        self._witness = witness
        self._bound = plan.update_norm
        federation = plan.scenario.federation
        # Where a scenario or a mechanism says how long an update is, honest ones are cut as well.
        self._said = plan.central is not None or bool(federation.update_norm)
        self._factor = 0.0 if self._said else federation.outlier_factor
        self.cut: dict[str, float] = {}
        self._lengths: list[float] = []
        self._sizes = (plan.layout.size, *(stretch.initial.size for stretch in plan.extras))
        self._extras = Extras(plan.extras, sites=federation.sites, factor=federation.outlier_factor)
        self._strategy: Strategy = make(
            plan.scenario.federation,
            weighted_mean if plan.central is None else self._noised_mean,
        )
        # Of clear updates that the server is trusted with, nothing is told.
        self._products = Products(plan.layout, () if plan.central else plan.products)
        names = [stretch.name for stretch in plan.extras]
        self._strategy.check_updates(plan.scenario.uplink, names)

    def start(self, point: Checkpoint, number: int, usual: float = 0.0) -> None:
        """Begin round `number`, in which sites train from what `point.broadcast` leads to.

        usual: the largest median of the rounds before in which the same values moved
        (`server.lengths`), 0 for none.
        """
        self.cut, self._lengths, self._usual = {}, [], usual
        self._extras.start(point.state)
        self._products.start(point.broadcast.replica[: self._sizes[0]], number)
        unknown = (self._factor and not usual) or self._extras.unknown
        self._waiting: list[_Waiting] | None = [] if unknown else None
        self._state, self._number = point.state, number
        self._envelope = compression.Envelope(
            run=point.run,
            round=number,
            site=0,
            layout=self._plan.travelling.digest,
            base=point.broadcast.digest,
            seed=self._plan.scenario.federation.seed,
        )
        share = self._plan.scenario.uplink.aggregate_feedback
        self._reference = self._plan.reference(point.broadcast.step) if share else None
        self._uplink, self._turn = self._plan.up(number), self._plan.turn(number)
        self._strategy.start(self._plan.layout.size)

    def add(self, name: str, blob: bytes) -> None:
        """Decode a site's update, cut it to the bound and add it, now or at the end of the round.

        Raises Disagreement when its ledger's head contradicts the witness, ValueError when it is
        in any other way no update of this site for this round.
        """
        envelope = replace(self._envelope, site=site_id(name))
        reply = Reply.decode(blob)
        self._check_head(name, reply)
        codec, records, body = compression.unpack(reply.frame, envelope, limit=self._plan.up_limit)
        if codec != self._uplink.codec:
            raise ValueError(f"codec: must be {self._uplink.codec}, got {codec}")
        if self._plan.scenario.noised_at_server:
            body = compression.unpad(body)
        update, extras, length = self._read(body, envelope)
        if self._bound and not self._said and length > self._bound:
            self.cut[name] = length / self._bound
            length = self._bound
        largest = max(_largest(part.values) for part in (update, *extras))
        if largest > LARGEST_UPDATE:
            raise ValueError(f"update: values must be at most {LARGEST_UPDATE:g}, got {largest:g}")
        self._strategy.weight_of(records)
        self._lengths.append(length)
        too_long = self._factor and length > self._factor * self._usual
        if (self._extras.seen(extras) or too_long) and self._waiting is None:
            self._waiting = []
        if self._waiting is None:
            self._take(name, update, extras, records)
            return
        self._waiting.append(_Waiting(name, body, envelope, records, length))
        held = sum(len(one.body) for one in self._waiting)
        some = len(self._waiting) >= LEAST and held > _MOST_BYTES
        if some or len(self._waiting) == _MOST_WAITING:
            self._judge()

    def finish(self) -> ServerState:
        """Return the state that the round's updates lead to."""
        self._judge()
        return self._extras.finish(self._strategy.finish(self._state, self._number, self._turn))

    @property
    def median(self) -> float:
        """The median length of this round's updates so far; 0 where there is none to be told.

        Of clear updates that a server is trusted with, nothing is told.
        """
        return median_of(self._lengths) if self._factor else 0.0

    @property
    def product_error(self) -> float | None:
        """What averaging factors apart has cost in this round; see `server.products`."""
        return self._products.error

    def _judge(self) -> None:
        """Add what waits, in its order; what is far longer than usual is cut to the usual."""
        waiting, self._waiting = self._waiting or [], None
        self._usual = max(self._usual, self.median)
        self._extras.settle()
        for one in waiting:
            update, extras, _ = self._read(one.body, one.envelope)
            if self._usual and one.length > self._factor * self._usual:
                update = replace(update, values=client.clip(update.values, self._usual))
                self.cut[one.name] = one.length / self._usual
            self._take(one.name, update, extras, one.records)

    def _take(
        self,
        name: str,
        update: compression.Decoded,
        extras: tuple[compression.Decoded, ...],
        records: int,
    ) -> None:
        weight = self._strategy.weight_of(records)
        self._strategy.add(update, records)
        self._products.add(update, weight)
        cut = self._extras.add(extras, weight)
        if cut:
            self.cut[name] = max(cut, self.cut.get(name, 0.0))

    def _read(
        self, body: bytes, envelope: compression.Envelope
    ) -> tuple[compression.Decoded, tuple[compression.Decoded, ...], float]:
        """Return an update within the bound that is known beforehand, its extras, its length."""
        decoded = self._uplink.decompress(body, sum(self._sizes), envelope.context)
        whole = compression.restore(decoded, self._reference)
        update, *extras = compression.split(whole, self._sizes) if self._plan.extras else (whole,)
        length = length_of(update)
        if self._bound:
            update = replace(update, values=client.clip(update.values, self._bound))
        return update, tuple(extras), length

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


def _largest(values: Vector) -> float:
    return float(max(values.max(initial=0.0), -values.min(initial=0.0)))
