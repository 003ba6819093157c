"""How much a site may send: in one request of each path, at a time, and in how much time.

A reply comes as an announcement, which names its parts, and the parts, of at most 5 MiB each:

| reply | announcement | parts | longest part |
|---|---|---|---|
| 100 B | 425 B | 3 | 331 B |
| 5 MB | 563 B | 5 | 5,000,151 B |
| 100 MB | 1,855 B | 24 | 5,243,031 B |
| 250 MB | 3,759 B | 52 | 5,243,031 B |

Every other request is shorter than 400 bytes. Flower writes each part that is announced into its
database under the one lock that all sites wait for, so their number has a bound of its own.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from google.protobuf.message import DecodeError

# What Flower cuts a long array into, and what is around it.
PART_BYTES = 5 * 2**20 + 65_536
_SHORT = 4096
# A site's own parts on the way, eight at a time, and its questions beside them.
SITE_REQUESTS = 32
SITE_BYTES = 9 * PART_BYTES
ALL_BYTES = 6 * SITE_BYTES
# For room a request waits less than a site waits for its answer, 30 s.
ROOM_SECONDS = 20.0
_SLOWEST = 50_000  # bytes a second
_PATIENCE = 30.0

Receive = Callable[[], Awaitable[Any]]


class TooMany(Exception):
    """The site has too many requests on the way."""


class NoRoom(Exception):
    """Too many bytes are on the way, and none of them arrived in time."""


class Gone(Exception):
    """The sender has hung up."""


def parts(message_bytes: int) -> int:
    """Return into how many parts a reply of so many bytes may be cut, with those around it."""
    return 8 + math.ceil(message_bytes / (5 * 2**20))


def limits(paths: tuple[str, ...], message_bytes: int) -> dict[str, int]:
    """Return the longest body of each path, in bytes."""
    others = {
        "push-messages": _SHORT + 128 * parts(message_bytes),
        "push-object": min(PART_BYTES, message_bytes),
    }
    return {path: others.get(path, _SHORT) for path in paths}


class NotItsReply(Exception):
    """A site announces what is no reply of its own."""


def announced(body: bytes) -> int:
    """Return how many parts an announcement names; 0 when it is none, which Flower then says.

    Raises NotItsReply for a message in another's name, or one that answers nothing: Flower takes
    what it says of itself for true, and would hand a site's orders to the others as the
    coordinator's. That the node named is the one whose key signed, Flower does check.
    """
    try:
        request = PushMessagesRequest.FromString(body)
    except DecodeError:
        return 0
    for message in request.messages_list:
        about = message.metadata
        if about.src_node_id != request.node.node_id or not about.reply_to_message_id:
            raise NotItsReply
    return sum(1 for tree in request.message_object_trees for _ in _nodes(tree))


def _nodes(tree: ObjectTree) -> Iterator[ObjectTree]:
    yield tree
    for child in tree.children:
        yield from _nodes(child)


def seconds(length: int) -> float:
    """Return how long a body of so many bytes may take."""
    return _PATIENCE + length / _SLOWEST


async def read(receive: Receive, length: int) -> bytes:
    """Return a body; raises TimeoutError when it takes too long, Gone when its sender leaves."""
    found: list[bytes] = []
    async with asyncio.timeout(seconds(length)):
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise Gone
            found.append(message.get("body", b""))
            more = message.get("more_body", False)
    return b"".join(found)


class Room:
    """The requests and bytes that are on the way, of each site and of all.

    However much the others hold, a site's short requests need no room, and one long body at a time
    always finds some: of all sites together there is at most that more than `all_bytes`.
    """

    def __init__(
        self, site_bytes: int = SITE_BYTES, all_bytes: int = ALL_BYTES, short: int = _SHORT
    ) -> None:
        """Begin with none."""
        self._site_bytes, self._all_bytes, self._short = site_bytes, all_bytes, short
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    @contextmanager
    def request(self, site: str) -> Iterator[None]:
        """Count one request of a site while it is on the way; raises TooMany."""
        if self._requests[site] >= SITE_REQUESTS:
            raise TooMany
        self._requests[site] += 1
        try:
            yield
        finally:
            self._requests[site] -= 1

    @asynccontextmanager
    async def body(
        self, site: str, length: int, patience: float = ROOM_SECONDS
    ) -> AsyncIterator[None]:
        """Hold room for a body until it was dealt with; raises NoRoom after waiting for it."""
        if length <= self._short:
            yield
            return
        try:
            async with asyncio.timeout(patience):
                while not self._fits(site, length):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise NoRoom from None
        self._bytes[site] += length
        try:
            yield
        finally:
            self._bytes[site] -= length

    def _fits(self, site: str, length: int) -> bool:
        if not self._bytes[site]:
            return True
        alone = self._bytes[site] + length <= self._site_bytes
        return alone and self._bytes.total() + length <= self._all_bytes
