"""What a client was asked, and the reply that is held against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM
from numpy.typing import NDArray

from fedlite.flower import frames, plain
from fedlite.flower.offer import Offer, give
from fedlite.flower.tensors import Arrays, Tensors, write


@dataclass(frozen=True, eq=False)
class Base:
    """What an update starts from.

    digest: of what the client has. onto: what the change is added to, which differs from that by
    what compression left out on the way down.
    """

    tensors: Tensors
    digest: bytes
    onto: Arrays


@dataclass(frozen=True, eq=False)
class Asked:
    """One message. content: as the strategy made it, but for a model that went as frames, whole."""

    message: Message
    content: RecordDict
    offer: Offer
    bases: Mapping[str, Base]

    @property
    def node(self) -> int:
        """The client."""
        return self.message.metadata.dst_node_id

    def again(self) -> Message:
        """Return the same question with the whole model."""
        told = self.message.metadata
        return Message(
            give(self.content, self.offer),
            self.node,
            told.message_type,
            ttl=told.ttl,
            group_id=told.group_id,
        )

    def failed(self, reason: str) -> Message:
        """Return the reply of this client as one of Flower's failures."""
        return Message(Error(ErrorCode.UNKNOWN, reason), reply_to=self.message)

    @property
    def clip(self) -> float | None:
        """The L2 norm to which the message tells clients to clip, for the noise of a wrapper.

        An update may be longer where it is decoded than it was where it was clipped.
        """
        for record in self.content.config_records.values():
            if isinstance(norm := record.get(KEY_CLIPPING_NORM), float | int):
                return float(norm)
        return None

    def decoded(self, content: RecordDict) -> tuple[RecordDict, int]:
        """Return a reply's content with arrays in place of frames, and how many there were.

        Raises ValueError when a frame is no update of this client for this message.
        """
        out, left, count, clip = RecordDict(), dict(self.bases), 0, self.clip
        for key, record in content.items():
            blob = frames.of_record(record)
            if blob is None:
                out[key] = record
                continue
            # Each at most once: a reply must not make more models than it was asked for.
            name = frames.base_of(key, self.bases, content)
            if name not in left:
                raise ValueError(f"record {key!r}: nothing like it was sent, or it came before")
            base = left.pop(name)
            new = self._unsealed(base, blob)
            out[key] = write(new if clip is None else clipped(new, base.onto, clip))
            count += 1
        return out, count

    def misfit(self, content: RecordDict) -> str:
        """Return how the arrays of a reply differ from what was sent, or ""."""
        for key, record in content.items():
            base = self.bases.get(key)
            if base is None or not isinstance(record, ArrayRecord):
                continue
            if why := plain.misfit(record, base.tensors, base.onto):
                return f"record {key!r}: {why}"
        return ""

    def _unsealed(self, base: Base, blob: bytes) -> dict[str, NDArray[Any]]:
        told = frames.envelope(
            self.message.metadata.run_id,
            self.offer.round,
            self.offer.sender,
            self.offer.seed,
            base.tensors,
            base.digest,
        )
        return frames.unseal(base.tensors, base.onto, blob, self.offer.choice, told)


def clipped(new: Arrays, onto: Arrays, norm: float) -> dict[str, NDArray[Any]]:
    """Return `new`, its distance to `onto` over all tensors cut to the L2 norm `norm`.

    As Flower's wrappers do it, but that a distance of zero is one, and integers stay integers.
    """
    steps = {name: np.subtract(array, onto[name], dtype=np.float64) for name, array in new.items()}
    length = float(np.sqrt(sum(np.square(step).sum() for step in steps.values())))
    if length <= norm:
        return dict(new)
    factor = norm / length
    return {
        name: np.asarray((onto[name] + factor * step).astype(new[name].dtype))
        for name, step in steps.items()
    }
