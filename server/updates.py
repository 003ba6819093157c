"""What an update has to pass before it counts: the server's own plan, the witness, the bounds.

An update is added as soon as it is decoded, so that memory does not grow with the sites unless the
strategy keeps what it is given (`strategies.gathered`). Only from one on that is longer than usual,
or in a run's first round, updates wait, encoded as they came and in their order, until the round's
median is known; no more than 64 of them, or 256 MB.

Where portions of the model move by themselves (`fedlite.depth`) each has a strategy of its own, to
which the sites' updates go that hold it, and a length of its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedlite import compression, depth
from fedlite.compression import batch
from fedlite.messages import REPLY_BYTES, Reply, site_id
from fedlite.parameters import LARGEST_UPDATE, Portion, Vector
from fedlite.plan import Plan
from fedlite.privacy import client
from server.checkpoint import Checkpoint
from server.extras import Extras, length_of
from server.lengths import LEAST, median_of
from server.products import Products
from server.witness import Witness
from strategies import ServerState, Strategy, make, weighted_mean

_MOST_WAITING, _MOST_BYTES = 64, 256_000_000

Result = TypeVar("Result")


@dataclass(frozen=True)
class Aged:
    """Which model an update is of, where it need not be the round's (`server.buffered`).

    number, base: its round and its digest. age: the server's steps since, tau.
    """

    number: int
    base: bytes
    age: int

    @property
    def factor(self) -> np.float32:
        """What the update is multiplied by: 1 / sqrt(1 + tau) (Nguyen et al. 2022)."""
        return np.float32(1.0 / math.sqrt(1.0 + self.age))


@dataclass(frozen=True, eq=False)
class _Kind:
    """How the updates of sites that train by one plan are read in a round.

    envelope: of the server itself. bound: the L2 norm that no update may exceed, 0 for none.
    """

    plan: Plan
    envelope: compression.Envelope
    uplink: compression.Compressor
    reference: Vector | None
    bound: float


@dataclass(frozen=True, eq=False)
class _Opened:
    """An update whose frame is in order, and whose body has not been looked at."""

    kind: _Kind
    body: bytes
    context: compression.Context
    records: int


@dataclass(frozen=True, eq=False)
class _Waiting:
    """An update that is valid, and whose lengths will be judged."""

    name: str
    update: _Opened
    lengths: tuple[float, ...]
    aged: Aged | None


class Updates:
    """A round's updates on their way into the strategy.

    witness: remembers the heads of the sites' ledgers, when they keep any. cut: by site, how many
    times as long its update of this round was as what it was cut to. records: by site, of how many
    records it says that its update is. quorum: updates with which a round counts.
    """

    def __init__(self, plan: Plan, witness: Witness | None = None) -> None:
        """Make the strategy of the plan; call `start` before the first update."""
        self._plan = plan
        # Bytes of the longest reply that the plan allows.
        most = max(one.up_limit for one in depth.kinds(plan))
        self.longest = REPLY_BYTES + compression.HEADER_BYTES + most
        self._witness = witness
        federation = plan.scenario.federation
        self.quorum = federation.quorum
        # Where a scenario or a mechanism says how long an update is, honest ones are cut as well.
        self._said = plan.central is not None or bool(federation.update_norm)
        self._factor = 0.0 if self._said else federation.outlier_factor
        self.cut: dict[str, float] = {}
        self.records: dict[str, int] = {}
        self._lengths: list[list[float]] = [[]]
        self._sizes = (plan.layout.size, *(stretch.initial.size for stretch in plan.extras))
        self._extras = Extras(plan.extras, sites=federation.sites, factor=federation.outlier_factor)
        # Of what all sites train, and where some train only that, of the rest.
        self._strategies: list[Strategy] = [
            make(
                plan.scenario.federation,
                weighted_mean if plan.central is None else partial(self._noised_mean, at),
            )
            for at in range(2 if plan.weak else 1)
        ]
        self._strategy = self._strategies[0]
        if plan.weak:
            self._strategy.check_weak()
        # Of clear updates that the server is trusted with, nothing is told.
        self._products = Products(plan.layout, () if plan.central else plan.products)
        names = [stretch.name for stretch in plan.extras]
        self._strategy.check_updates(plan.scenario.uplink, names)

    def start(
        self, point: Checkpoint, number: int, usual: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        """Begin round `number`, in which sites train from what `point.down` leads to.

        usual: as of `server.lengths.usual`.
        """
        portions = depth.portions(self._plan, number)
        self._portions: tuple[Portion | None, ...] = portions or (None,)
        self.cut, self.records, self._lengths = {}, {}, [[] for _ in self._portions]
        self._usual = list(usual[: len(self._portions)])
        self._extras.start(point.state)
        self._products.start(point.broadcast.replica[: self._sizes[0]], number)
        unknown = (self._factor and not all(self._usual)) or self._extras.unknown
        self._waiting: list[_Waiting] | None = [] if unknown else None
        self._state, self._number = point.state, number
        self._run = point.run
        self._kinds = {plan: self._kind(plan, point) for plan in depth.kinds(self._plan)}
        for strategy, portion in zip(self._strategies, self._portions, strict=False):
            strategy.start(self._plan.layout.size if portion is None else portion.moving.size)

    def _kind(self, plan: Plan, point: Checkpoint) -> _Kind:
        down, scenario = point.down(plan), plan.scenario
        envelope = compression.Envelope(
            run=point.run,
            round=self._number,
            site=0,
            layout=plan.travelling.digest,
            base=down.digest,
            seed=scenario.federation.seed,
        )
        share = scenario.uplink.aggregate_feedback
        reference = plan.reference(down.step) if share else None
        # What a server's noise covers is the whole model, whoever trains how much of it.
        bound = self._plan.update_norm if plan.central else plan.update_norm
        return _Kind(plan, envelope, plan.up(self._number), reference, bound)

    def _kind_of(self, name: str) -> _Kind:
        return self._kinds[depth.plan_of(self._plan, name)]

    def add_many(
        self, arrived: Sequence[tuple[str, bytes]], aged: Aged | None = None
    ) -> Iterator[ValueError | None]:
        """Decode sites' updates, cut each to the bound and add it, now or at the end of the round.

        aged: which model they are of, if not the round's. Yields for one after the other why it is
        no update of this site for this round, Disagreement where its ledger's head contradicts the
        witness, or None. As many as fit into the memory of a few are opened and decoded together.
        """
        kinds = self._kinds.values()
        most = min(batch.most(kind.uplink, kind.plan.travelling.size) for kind in kinds)
        for start in range(0, len(arrived), most):
            some = arrived[start : start + most]
            opened = [self._tried(partial(self._open, name, blob, aged)) for name, blob in some]
            for (name, _), one, decoded in zip(some, opened, self._decoded(opened), strict=True):
                if isinstance(one, ValueError):
                    yield one
                elif isinstance(decoded, ValueError):
                    yield decoded
                else:
                    yield self._tried(partial(self._add, name, one, decoded, aged))

    @staticmethod
    def _tried(work: Callable[[], Result]) -> Result | ValueError:
        try:
            return work()
        except ValueError as error:
            return error

    def _open(self, name: str, blob: bytes, aged: Aged | None) -> _Opened:
        """Check an update's head and frame; what its body says is not looked at yet."""
        kind = self._kind_of(name)
        envelope = replace(kind.envelope, site=site_id(name))
        if aged is not None:
            envelope = replace(envelope, round=aged.number, base=aged.base)
        reply = Reply.decode(blob)
        self._check_head(name, reply, envelope.round)
        codec, records, body = compression.unpack(reply.frame, envelope, limit=kind.plan.up_limit)
        if codec != kind.uplink.codec:
            raise ValueError(f"codec: must be {kind.uplink.codec}, got {codec}")
        if self._plan.scenario.noised_at_server:
            body = compression.unpad(body)
        return _Opened(kind, body, envelope.context, records)

    def _decoded(
        self, opened: Sequence[_Opened | ValueError]
    ) -> Iterator[compression.Decoded | ValueError]:
        """Yield what each holds, or why it cannot be read; some of one kind are read at once."""
        for kind, group in groupby(opened, lambda one: getattr(one, "kind", None)):
            mine = list(group)
            if kind is None:
                yield from (one for one in mine if isinstance(one, ValueError))
                continue
            size = kind.plan.travelling.size
            most = batch.most(kind.uplink, size)
            for start in range(0, len(mine), most):
                some = [one for one in mine[start : start + most] if isinstance(one, _Opened)]
                yield from compression.decompress_many(
                    kind.uplink, [one.body for one in some], size, [one.context for one in some]
                )

    def _add(
        self, name: str, one: _Opened, decoded: compression.Decoded, aged: Aged | None
    ) -> None:
        kind, records = one.kind, one.records
        parts, extras, length = self._read(kind, decoded)
        if kind.bound and not self._said and length > kind.bound:
            self.cut[name] = length / kind.bound
        largest = max(_largest(part.values) for part in (*parts, *extras))
        if largest > LARGEST_UPDATE:
            raise ValueError(f"update: values must be at most {LARGEST_UPDATE:g}, got {largest:g}")
        self._strategy.weight_of(records)
        self.records[name] = records
        whole = not kind.bound and len(parts) == 1 and not extras
        lengths = (length,) if whole else tuple(length_of(part) for part in parts)
        for seen, mine in zip(self._lengths, lengths, strict=False):
            seen.append(mine)
        too_long = self._factor and any(
            mine > self._factor * usual for mine, usual in zip(lengths, self._usual, strict=False)
        )
        if (self._extras.seen(extras) or too_long) and self._waiting is None:
            self._waiting = []
        if self._waiting is None:
            self._take(name, parts, extras, records, aged)
            return
        self._waiting.append(_Waiting(name, one, lengths, aged))
        held = sum(len(other.update.body) for other in self._waiting)
        some = len(self._waiting) >= LEAST and held > _MOST_BYTES
        if some or len(self._waiting) == _MOST_WAITING:
            self._judge()

    def enough(self, used: Collection[str]) -> bool:
        """Return whether a round counts in which the updates of the sites `used` were."""
        return len(used) >= self.quorum

    def finish(self) -> ServerState:
        """Return the state that the round's updates lead to."""
        self._judge()
        state = self._state
        (*others, last) = zip(self._strategies, self._portions, strict=False)
        for strategy, portion in others:
            state = strategy.moved(state, portion)
        # Only once is the round's model counted, however many portions it has.
        return self._extras.finish(last[0].finish(state, self._number, last[1]))

    @property
    def medians(self) -> tuple[float, ...]:
        """The median length of this round's updates so far, for each portion; 0 for none.

        Of clear updates that a server is trusted with, nothing is told.
        """
        return tuple(median_of(seen) if self._factor else 0.0 for seen in self._lengths)

    @property
    def product_error(self) -> float | None:
        """What averaging factors apart has cost in this round; see `server.products`."""
        return self._products.error

    def _judge(self) -> None:
        """Add what waits, in its order; what is far longer than usual is cut to the usual."""
        waiting, self._waiting = self._waiting or [], None
        self._usual = [max(pair) for pair in zip(self._usual, self.medians, strict=True)]
        if len(self._usual) == 2 and not self._usual[1]:
            # Too few strong sites to tell what is usual of a tail: as long as the branch, a value.
            branch, tail = (portion.moving.size for portion in self._portions if portion)
            self._usual[1] = self._usual[0] * math.sqrt(max(1.0, tail / branch))
        self._extras.settle()
        again = self._decoded([one.update for one in waiting])
        for one, decoded in zip(waiting, again, strict=True):
            if isinstance(decoded, ValueError):
                # What was read once is read again.
                raise decoded
            parts, extras, _ = self._read(one.update.kind, decoded)
            bounds = zip(one.lengths, self._usual, strict=False)
            for at, (length, usual) in enumerate(bounds):
                if usual and length > self._factor * usual:
                    parts[at] = replace(parts[at], values=client.clip(parts[at].values, usual))
                    self.cut[one.name] = max(length / usual, self.cut.get(one.name, 0.0))
            self._take(one.name, parts, extras, one.update.records, one.aged)

    def _take(
        self,
        name: str,
        parts: list[compression.Decoded],
        extras: tuple[compression.Decoded, ...],
        records: int,
        aged: Aged | None,
    ) -> None:
        if aged is not None:
            parts = [replace(part, values=part.values * aged.factor) for part in parts]
        weight = self._strategy.weight_of(records)
        for strategy, part in zip(self._strategies, parts, strict=False):
            strategy.add(part, records)
        whole = depth.together(parts, self._portions, self._plan.layout.size)
        self._products.add(whole, weight, self._kind_of(name).plan.products)
        cut = self._extras.add(extras, weight)
        if cut:
            self.cut[name] = max(cut, self.cut.get(name, 0.0))

    def _read(
        self, kind: _Kind, decoded: compression.Decoded
    ) -> tuple[list[compression.Decoded], tuple[compression.Decoded, ...], float]:
        """Return an update within the bound that is known beforehand, its extras, its length.

        It comes portion by portion, as far as its site holds them.
        """
        whole = compression.restore(decoded, kind.reference)
        update, *extras = compression.split(whole, self._sizes) if self._plan.extras else (whole,)
        length = length_of(update)
        if kind.bound:
            update = replace(update, values=client.clip(update.values, kind.bound))
        if kind.plan is not self._plan:
            update, held = depth.in_whole(self._plan, update), self._portions[:1]
        else:
            held = self._portions
        parts = [update if one is None else depth.within(update, one) for one in held]
        return parts, tuple(extras), length

    def _check_head(self, name: str, reply: Reply, number: int) -> None:
        if self._witness is not None:
            payload = hashlib.sha256(reply.frame).hexdigest()
            run = self._run.hex()
            self._witness.see(name, reply.head, run=run, number=number, payload=payload)
        elif reply.head is not None:
            raise ValueError("reply: holds a ledger's head in a run that claims no privacy")

    def _noised_mean(self, at: int, total: NDArray[np.float64], weight: float) -> Vector:
        central = self._plan.central
        if central is None:
            raise ValueError("central: the mechanism is needed for the server's noise, got none")
        noise = client.entropy(self._plan.scenario.privacy.simulate_seed, self._number, at)
        federation = self._plan.scenario.federation
        # Public, too: how many of the sites that are asked train the tail.
        share = 1.0 - at * len(self._plan.weak) / federation.sites
        return client.noised_mean(total, federation.participants * share, central, noise)


def _largest(values: Vector) -> float:
    return float(max(values.max(initial=0.0), -values.min(initial=0.0)))
