"""The client's line: a mod that compresses what an app's train function replies."""

from __future__ import annotations

import logging
import sys
from types import CodeType
from typing import Any

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.client.mod.utils import make_ffn
from flwr.clientapp.mod import arrays_size_mod, message_size_mod
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode
from numpy.typing import NDArray

from fedlite.flower import frames, replica
from fedlite.flower.offer import Offer, take
from fedlite.flower.tensors import Tensors, read

log = logging.getLogger("flwr")

_Read = tuple[Tensors, dict[str, NDArray[Any]]]


def compress() -> Compress:
    """Return the mod that makes a client's replies small: `ClientApp(mods=[compress()])`.

    It must be the first of the mods, and the server's strategy must be in `Compressed`, which says
    how; without that it changes nothing. Every ArrayRecord of a reply with the names and shapes of
    the one that came is replaced by one frame; others, metrics and configs stay as they are.
    Replies to evaluate and query messages are left alone.

    Mods after it see the arrays as the app made them, so noise and clipping of theirs come before
    the compression, which then works on what is already protected. A mod before it would see a
    frame in place of arrays: only Flower's two that log sizes may be there.

    >>> compress()
    compress()
    """
    return Compress()


class Compress:
    """The mod; what it has said, it says once."""

    def __init__(self) -> None:
        """Remember nothing: what lasts is in the app's context."""
        self._said: set[str] = set()

    def __repr__(self) -> str:
        """Return the call that makes one."""
        return "compress()"

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Answer one message; raises ValueError for a wrong order of mods or a malformed offer."""
        content, told = take(message.content)
        offer = Offer.decode(told) if told is not None else None
        train = message.metadata.message_type.partition(".")[0] == "train"
        if offer is None:
            if train:
                self._say(
                    "the server's message asks for no compression, so the reply is Flower's own; "
                    "Compressed(...) of the same fedlite must be the outermost strategy there"
                )
            return call_next(message, context)
        _require_first()
        if offer.version:
            whole = replica.restore(content, offer, message, context)
            if whole is None:
                reason = f"{replica.MISSING}: this client does not have the model to start from"
                return Message(Error(ErrorCode.MOD_FAILED_PRECONDITION, reason), reply_to=message)
            content = whole
        message.content = content
        received = self._received(content, offer) if train else {}
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        if received:
            reply.content = self._compressed(reply.content, received, offer, message)
        if offer.version:
            reply.content = replica.acknowledged(reply.content, offer)
        return reply

    def _received(self, content: RecordDict, offer: Offer) -> dict[str, _Read]:
        """Return the arrays of a message, read before the app can take them out of it."""
        found = {}
        for key, record in content.array_records.items():
            try:
                arrays = read(record)
            except ValueError as error:
                self._say(f"record {key!r} is not compressed: {error}")
                continue
            found[key] = (Tensors.of(key, arrays, offer.exact), arrays)
        return found

    def _compressed(
        self, content: RecordDict, received: dict[str, _Read], offer: Offer, message: Message
    ) -> RecordDict:
        """Return a reply's content with frames in place of arrays, in the order of its records."""
        out, left = RecordDict(), dict(received)
        for key, record in content.items():
            out[key] = record
            if not isinstance(record, ArrayRecord):
                continue
            base = frames.base_of(key, received, content)
            if base not in left:
                self._say(f"record {key!r} is not compressed: the server sent no such record")
                continue
            tensors, arrays = left.pop(base)
            try:
                new = read(record)
                misfit = tensors.misfit(new)
            except ValueError as error:
                misfit = str(error)
            if misfit:
                self._say(f"record {key!r} is not compressed: {misfit}")
                continue
            told = frames.envelope(
                message.metadata.run_id,
                offer.round,
                offer.sender,
                offer.seed,
                tensors,
                tensors.values_digest(arrays),
            )
            del out[key]
            out[key] = frames.to_record(frames.seal(tensors, arrays, new, offer.choice, told))
        return out

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning("fedlite.flower.compress: %s", text)


def _wrapper() -> CodeType | None:
    """Return the code of the function in which Flower wraps a mod, or None if it has another."""
    code = make_ffn.__code__
    for name in ("wrap_ffn", "new_ffn"):
        inner = [c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name]
        if not inner:
            return None
        code = inner[0]
    return code


def _require_first() -> None:
    """Raise ValueError when a mod before this one would see frames where it expects arrays.

    Flower does not tell a mod its place. But it wraps each in a function, which is on the stack.
    """
    wrapper, frame = _wrapper(), sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is not wrapper:
            continue
        mod = frame.f_locals["_mod"]
        if not isinstance(mod, Compress) and mod not in (arrays_size_mod, message_size_mod):
            name = getattr(mod, "__name__", type(mod).__name__)
            raise ValueError(
                f"mods: compress() must be the first, and {name} is before it, which would see "
                f"frames and no arrays; write mods=[compress(), {name}]"
            )
