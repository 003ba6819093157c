"""The server's line: a strategy around a strategy, which sees arrays where frames arrived."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from inspect import signature
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies
from flwr.serverapp.strategy import Result, Strategy

from fedlite.flower import plain
from fedlite.flower.asked import Asked
from fedlite.flower.asking import Asking
from fedlite.flower.broadcast import Broadcast
from fedlite.flower.offer import Offer, up_link
from fedlite.flower.recommended import layers, recommend
from fedlite.flower.replica import MISSING, take_acknowledgement
from fedlite.scenario.links import SMALL

log = logging.getLogger("flwr")

_STEPS = (
    *("configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate"),
    "summary",
)
# What Flower raises on replies that are not made alike.
_UNLIKE = (InconsistentMessageReplies, AggregationError, TypeError, ValueError)
_ODD = "its records are not named and made as those of the others"


class Compressed(Strategy):
    """Any strategy of Flower, with small messages: `Compressed(FedAvg(...))`.

    Clients that have `compress` send a compressed difference to the model that they got; it is
    decoded here, so the strategy sees whole models, as ever. Clients without it are served as if
    this were not here. BatchNorm's statistics, integers, scalars and whatever matches `exact` are
    sent as they are. Aggregated tensors get back the dtype that the first model had: FedAvg makes
    floats of integers, FedAdam float64 of float32.

    A frame that is damaged, replayed, of another model, too long or not finite makes its reply one
    of Flower's failures, with the reason in the log; the run goes on.

    Privacy: what server-side wrappers promise still holds, as they clip and noise what has been
    decoded. So it does for client-side clipping (`fixedclipping_mod`, `adaptiveclipping_mod` after
    `compress`), as decoded updates, which may be longer than they were, are clipped once more here.
    After `LocalDpMod` compression works on what is noised already. fedlite's own ledgers and
    budgets have no part in it.

    Args:
        strategy: of `flwr.serverapp.strategy` or your own; wrappers of it go inside.
        compressor: "rotated-topk", "eden", "randk" or "dense"; "" for the recommended: rotated-topk
            at a density that goes by the number of clients a round, as their errors average out,
            eden where they do not (medians, Krum, clipping, one client), dense below 4,096 values.
        density: share of the values that is sent, of rotated-topk and randk; 0 for their own.
        values: how a value is written, of randk and dense ("fp16"); "" for their own.
        bits: bits a value, 1 to 8, of eden.
        exact: patterns (`fnmatch`) of the names of tensors to send as they are.
        seed: of the public randomness of rotations, 0 to 2**64 - 1.
        downlink: send differences down, too, to clients that remember the last model in their
            `context.state`. Clients then train and evaluate what they have, which follows the
            strategy's model; what is left out of one difference is in the next.

    Raises:
        ValueError: an argument breaks its rule, or `strategy` is none.

    >>> from flwr.serverapp.strategy import FedAvg
    >>> Compressed(FedAvg(), density=0.05).fraction_train
    1.0
    >>> Compressed(FedAvg(), density=7)
    Traceback (most recent call last):
    ValueError: Compressed.density: must be from 0.0 to 1.0, got 7.0; the default is 0.0
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        compressor: str = "",
        density: float = 0.0,
        values: str = "",
        bits: int = 1,
        exact: Sequence[str] = (),
        seed: int = 0,
        downlink: bool = False,
    ) -> None:
        """Check the arguments; nothing is sent before `start`."""
        if not isinstance(strategy, Strategy) or isinstance(strategy, Compressed):
            raise ValueError(
                "Compressed.strategy: must be a strategy of flwr.serverapp.strategy that is not "
                f"compressed yet, got {type(strategy).__name__}; write Compressed(FedAvg(...))"
            )
        if isinstance(exact, str) or not all(isinstance(pattern, str) for pattern in exact):
            raise ValueError(f'Compressed.exact: must be a list of texts, got {exact!r}; ["bn*"]')
        if type(seed) is not int or not 0 <= seed < 2**64:
            raise ValueError(
                f"Compressed.seed: must be from 0 to 2**64 - 1, got {seed!r}; 0 will do"
            )
        given = {"density": density, "values": values, "bits": bits}
        chosen = {"compressor": compressor or "rotated-topk"} | given
        link = up_link(chosen, "Compressed")
        self.strategy = strategy
        # Bound here: while `start` runs, the strategy's own names lead to this object.
        self._inner = {name: getattr(strategy, name) for name in _STEPS}
        named = bool(compressor) or (density, values, bits) != (0.0, "", 1)
        self._link = link if named else None
        self._exact, self._seed, self._downlink = tuple(exact), seed, downlink
        self._asking: Asking | None = None
        self._asked: dict[int, Asked] = {}
        self._first: ArrayRecord | None = None
        self._grid: Grid | None = None
        self._timeout: float | None = None
        self._said: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        """Return what the strategy itself has beyond the steps of a round."""
        if name == "strategy":
            raise AttributeError(name)
        return getattr(self.strategy, name)

    def start(self, *args: Any, **kwargs: Any) -> Result:
        """Run the strategy's own `start`, with messages compressed; arguments are those of it."""
        given = signature(self.strategy.start).bind(*args, **kwargs)
        given.apply_defaults()
        self._timeout = given.arguments.get("timeout")
        broadcast = Broadcast(self._seed, self._exact) if self._downlink else None
        self._asking, self._first = Asking(self._exact, broadcast, self._say), None
        for name in _STEPS:
            setattr(self.strategy, name, getattr(self, name))
        try:
            return self.strategy.start(*args, **kwargs)
        finally:
            self._asking = None
            for name in _STEPS:
                delattr(self.strategy, name)

    def summary(self) -> None:
        """Log what is compressed how, and the strategy's own summary."""
        up = "recommended" if self._link is None else self._link.compressor
        down = "differences" if self._downlink else "whole models"
        log.info("\t├──> fedlite: up %s, down %s", up, down)
        self._inner["summary"]()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the strategy choose and ask, and say in each message how to reply."""
        if self._first is None:
            self._first = arrays.copy()
        arrays = as_at_first(arrays, self._first)
        messages = list(self._inner["configure_train"](server_round, arrays, config, grid))
        return self._offer(server_round, messages, grid, train=True)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the strategy choose and ask; small models go down if that is wanted."""
        messages = list(self._inner["configure_evaluate"](server_round, arrays, config, grid))
        if not self._downlink:
            return messages
        return self._offer(server_round, messages, grid, train=False)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decode what came, and let the strategy aggregate it."""
        decoded = [self._decoded(reply) for reply in self._complete(replies)]
        if self._asked and any(not count and reply.has_content() for reply, count in decoded):
            self._say(
                "replies came as Flower's own; their clients need compress() of the same fedlite, "
                "first in ClientApp(mods=[...]), or say in their log why they do not compress"
            )
        some = any(count for _, count in decoded)
        fitting = [self._fitting(reply) if some else reply for reply, _ in decoded]
        try:
            model, metrics = self._inner["aggregate_train"](server_round, fitting)
        except _UNLIKE:
            # Flower would end the run for one reply that is not made as the others are.
            odd = {id(reply) for reply in plain.odd(fitting)} if some else set()
            if not odd:
                raise
            fitting = [self._dropped(r, _ODD) if id(r) in odd else r for r in fitting]
            model, metrics = self._inner["aggregate_train"](server_round, fitting)
        if model is not None and self._first is not None:
            model = as_at_first(model, self._first)
        return model, metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Let the strategy aggregate what it would have got without compression.

        Scores that are not made as most others' are left out, as one of them would end the run.
        """
        inner, every = self._inner["aggregate_evaluate"], list(self._complete(replies))
        came = [r for r in every if r.has_error() or not any(self._overweight(r))]
        if len(came) < len(every):
            self._say("scores with a weight that can be none are left out")
        try:
            found = inner(server_round, came)
        except _UNLIKE:
            odd = {id(reply) for reply in plain.odd(came)}
            if not odd:
                raise
            self._say("scores that are not named and made as most others' are left out")
            found = inner(server_round, [reply for reply in came if id(reply) not in odd])
        return cast(MetricRecord | None, found)

    def _offer(
        self, number: int, messages: list[Message], grid: Grid, *, train: bool
    ) -> list[Message]:
        if self._asking is None:
            raise ValueError(
                "Compressed: must be the outermost strategy, and be run by its start(), as a "
                "wrapper around it would see frames where it clips and noises arrays; write "
                "Compressed(Wrapper(FedAvg(...)))"
            )
        self._grid = grid
        link = self._link or recommend(self.strategy, len(messages))
        small = 0 if self._link else SMALL
        offer = Offer(number, 1, self._seed, link, self._exact, small)
        self._asked = self._asking.ask(messages, offer, train=train)
        return messages

    def _complete(self, replies: Iterable[Message]) -> list[Message]:
        """Return the replies, those to the whole model in place of what asked for it."""
        came, again = [], []
        for reply in replies:
            asked = self._asked.get(reply.metadata.src_node_id)
            lost = reply.has_error() and (reply.error.reason or "").startswith(MISSING)
            if asked is not None and asked.offer.version and lost:
                again.append(asked.again())
            else:
                came.append(reply)
        if again and self._grid is not None:
            log.info("fedlite: %d clients get the whole model, which they lost", len(again))
            came += self._grid.send_and_receive(again, timeout=self._timeout)
        for reply in came:
            asked = self._asked.get(reply.metadata.src_node_id)
            if self._asking and asked and asked.offer.version and reply.has_content():
                reply.content, digest = take_acknowledgement(reply.content)
                self._asking.has(asked.node, digest)
        return came

    def _decoded(self, reply: Message) -> tuple[Message, int]:
        """Return a reply with arrays in place of its frames, and how many there were."""
        asked = self._asked.get(reply.metadata.src_node_id)
        if asked is None or reply.has_error():
            return reply, 0
        try:
            reply.content, count = asked.decoded(reply.content)
        except ValueError as error:
            return self._dropped(reply, str(error)), 0
        return reply, count

    def _fitting(self, reply: Message) -> Message:
        """Return a reply, or a failure where it would not go with those of the others."""
        asked = self._asked.get(reply.metadata.src_node_id)
        if asked is None or reply.has_error():
            return reply
        wrong = [asked.misfit(reply.content), *self._overweight(reply)]
        return self._dropped(reply, why) if (why := next(filter(None, wrong), "")) else reply

    def _overweight(self, reply: Message) -> list[str]:
        """Return why the number by which each layer of the strategy weighs a reply can be none."""
        keys = (getattr(one, "weighted_by_key", "") for one in layers(self.strategy))
        return [plain.overweight(reply, key) for key in keys]

    def _dropped(self, reply: Message, why: str) -> Message:
        """Return a failure of the client in place of its reply."""
        asked = self._asked.get(reply.metadata.src_node_id)
        return reply if asked is None else asked.failed(f"fedlite: the update was dropped: {why}")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning("fedlite.flower.Compressed: %s", text)


def as_at_first(arrays: ArrayRecord, first: ArrayRecord) -> ArrayRecord:
    """Return `arrays` with the dtypes of `first`, where names and shapes are the same.

    Strategies make floats of integers, and float64 of float32; integers are rounded.
    """
    return ArrayRecord({name: _cast(array, first.get(name)) for name, array in arrays.items()})


def _cast(array: Array, first: Array | None) -> Array:
    if first is None or array.dtype == first.dtype or tuple(array.shape) != tuple(first.shape):
        return array
    values, wanted = array.numpy(), first.numpy().dtype
    if wanted.kind in "iu":
        if not np.isfinite(values).all():
            return array
        values = np.rint(values)
    with np.errstate(over="ignore"):
        return Array(np.asarray(values.astype(wanted)))
