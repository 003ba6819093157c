"""From a strategy's messages to those that go out: an offer in each, and small models if wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from flwr.app import ArrayRecord, Message, RecordDict

from fedlite.flower import frames
from fedlite.flower.asked import Asked, Base
from fedlite.flower.broadcast import Broadcast
from fedlite.flower.offer import Offer, give
from fedlite.flower.tensors import Tensors, read


class Asking:
    """How a run asks. broadcast: of a run that sends differences down, else None."""

    def __init__(
        self, exact: tuple[str, ...], broadcast: Broadcast | None, say: Callable[[str], None]
    ) -> None:
        """Begin a run; `say` gets what is not compressed, and why."""
        self._exact, self._say, self.broadcast = exact, say, broadcast
        # By client, the digest of the model that it remembers.
        self._held: dict[int, bytes] = {}

    def ask(self, messages: Sequence[Message], offer: Offer, *, train: bool) -> dict[int, Asked]:
        """Put an offer into each message, and return by client what was asked.

        offer: of the round; each message gets a sender of its own.
        """
        found: dict[int, Asked] = {}
        # By the identity of records, which strategies share among their messages.
        bases: dict[int, Base | None] = {}
        for sender, message in enumerate(messages, start=1):
            if message.metadata.dst_node_id in found:
                # A reply could not be told from one to the other message.
                continue
            asked = self._asked(message, replace(offer, sender=sender), bases)
            if asked is None:
                self._say("no record holds tensors of floats, so nothing is compressed")
            elif train or asked.offer.version:
                found[asked.node] = asked
                message.content = give(self._down(asked), asked.offer)
        return found

    def has(self, node: int, digest: bytes) -> None:
        """Remember what a client says that it has; b"" for nothing."""
        self._held[node] = digest

    def _asked(self, message: Message, offer: Offer, bases: dict[int, Base | None]) -> Asked | None:
        content = message.content
        records = content.array_records
        for key, record in records.items():
            if id(record) not in bases:
                first = not bases and len(records) == 1
                bases[id(record)] = self._base(key, record, message, advance=first)
        mine = {key: base for key, r in records.items() if (base := bases[id(r)]) is not None}
        if not any(base.tensors.size for base in mine.values()):
            return None
        (base, *others), broadcast = mine.values(), self.broadcast
        if broadcast is not None and not others and base.digest == broadcast.digest:
            whole = {key: broadcast.whole() for key in mine}
            content = RecordDict({**dict(content.items()), **whole})
            offer = replace(offer, version=broadcast.version, model=broadcast.digest.hex())
        return Asked(message, content, offer, mine)

    def _base(
        self, key: str, record: ArrayRecord, message: Message, *, advance: bool
    ) -> Base | None:
        """Return what updates of a record start from; None for one that is not compressed."""
        try:
            arrays = read(record)
        except ValueError as error:
            self._say(f"record {key!r} is not compressed: {error}")
            return None
        had = arrays
        if self.broadcast is not None and advance:
            self.broadcast.advance(key, arrays, message.metadata.run_id)
            had = dict(self.broadcast.arrays)
        tensors = Tensors.of(key, had, self._exact)
        return Base(tensors, tensors.values_digest(had), arrays)

    def _down(self, asked: Asked) -> RecordDict:
        """Return a message's content, with frames for a model where the client has an older one."""
        chain = None
        if asked.offer.version and self.broadcast is not None:
            chain = self.broadcast.chain(self._held.get(asked.node, b""))
        if chain is None:
            return asked.content
        (key,) = asked.bases
        sent = {key: frames.to_record(chain)}
        return RecordDict({**dict(asked.content.items()), **sent})
