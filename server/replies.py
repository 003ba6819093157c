"""The grid's replies: taken as they come, for so long and no longer, and put in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from itertools import islice

from flwr.app import Message
from flwr.serverapp import Grid

log = logging.getLogger("fedlite.server")

POLL_SECONDS = 0.1


def ask(grid: Grid, messages: Iterable[Message], seconds: float) -> Iterator[Message]:
    """Push messages and yield their replies one by one, until `seconds` have passed."""
    for arrived in in_turn(grid, messages, seconds):
        yield from arrived


def in_turn(grid: Grid, messages: Iterable[Message], seconds: float) -> Iterator[list[Message]]:
    """Push messages and yield the replies that have come, until `seconds` have passed.

    A message is taken from `messages` when it is pushed, and not before. A network's grid takes all
    at once; one that says how much `room` it has gets no more, so that the others need not exist
    yet: each may hold a whole model.
    """
    questions, waiting, more = iter(messages), set[str](), True
    until = 0.0
    while more or waiting:
        if more and (room := getattr(grid, "room", None)) != 0:
            ids = list(grid.push_messages(islice(questions, room)))
            # Flower gives no id (None, or nothing) for a message that it could not take.
            waiting |= {message_id for message_id in ids if message_id}
            more = room is not None and len(ids) == room
        until = until or time.monotonic() + seconds
        arrived = pull(grid, waiting) if more or waiting else []
        for message in arrived:
            waiting.discard(message.metadata.reply_to_message_id)
        if arrived:
            yield arrived
        if time.monotonic() > until:
            return
        if waiting and not arrived:
            time.sleep(POLL_SECONDS)


def pull(grid: Grid, waiting: set[str]) -> list[Message]:
    """Return what has arrived; a reply that Flower itself cannot read is removed from `waiting`.

    Flower's grid raises whatever its decoders raise, and one site's bytes may not stop a run.
    """
    try:
        return list(grid.pull_messages(waiting))
    except Exception:
        log.exception("a reply could not be read; asking for each by itself")
    arrived: list[Message] = []
    for message_id in sorted(waiting):
        try:
            arrived += grid.pull_messages([message_id])
        except Exception:
            waiting.discard(message_id)
    return arrived


def by_flower(message: Message) -> bool:
    """Whether Flower itself answered for a node that has gone; the site said nothing."""
    return message.has_error() and not (message.error.reason or "").startswith("fedlite:")


class InOrder:
    """Releases replies in the order of names, however they arrive.

    Floating-point sums depend on their order, so parallel runs are bit-equal to serial ones only
    when updates are added in a fixed one. What waits is kept compressed.
    """

    def __init__(self, names: list[str]) -> None:
        """Wait for one reply from each of `names`."""
        self._names = names
        self._next = 0
        self._blobs: dict[str, bytes] = {}
        self.seen: set[str] = set()

    def add(self, name: str, blob: bytes | None) -> Iterator[tuple[str, bytes]]:
        """Note that a name has answered; yield what need not wait any longer.

        blob: the update, or None for an answer without one, for which nobody waits either.
        """
        self.seen.add(name)
        if blob is not None:
            self._blobs[name] = blob
        while self._next < len(self._names) and self._names[self._next] in self.seen:
            name = self._names[self._next]
            self._next += 1
            if name in self._blobs:
                yield name, self._blobs.pop(name)

    def rest(self) -> Iterator[tuple[str, bytes]]:
        """Yield, after the deadline, what waits behind a name that never answered."""
        for name in self._names:
            if name in self._blobs:
                yield name, self._blobs.pop(name)

    def missing(self) -> list[str]:
        """Return the names that have not answered."""
        return [name for name in self._names if name not in self.seen]
