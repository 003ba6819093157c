"""Flower's grid over a network, without its waits: nothing a site sends or withholds stops a run.

Flower's own `pull_messages` waits up to two hours for the parts of a reply whose sender has gone,
takes replies of any size, and sleeps a second where a part is a moment late. Here every call looks
once at what has arrived, and what is not whole yet is looked at again by the next call. The parts
of `flwr` used are private to Flower 1.41, which the project pins.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx
from flwr.app import Message
from flwr.app.message import make_message
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.superlink.grid.http_grid import HttpGrid

from fedlite import flower
from fedlite.messages import Code

log = logging.getLogger("fedlite.server")

# What Flower adds around one blob: metadata and records, each part with a head of its own.
_ENVELOPE_BYTES = 65_536


@dataclass
class _Arriving:
    """A reply of which some parts may not be here yet; `parts` maps their names to their bytes."""

    outline: Message
    missing: list[str]
    since: float
    parts: dict[str, bytes] = field(default_factory=dict)


class NetworkGrid(HttpGrid):
    """Flower's grid of a ServerApp process, with replies taken as they come.

    limit: bytes of the longest reply; one that is larger is an error. patience: seconds for which
    a reply may arrive part by part.
    """

    engine = "network"
    limit: int = 1 << 40
    patience: float = 600.0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Push messages one by one; return their ids in order, "" for one that was not taken.

        Flower's own announces all of them before it uploads the first: meanwhile every site asks
        again and again for its parts, which the upload then has to wait for.
        """
        ids: list[str] = []
        for message in messages:
            ids.append(next(iter(super().push_messages([message])), "") or "")
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that are whole; never waits."""
        wanted = set(message_ids)
        arriving: dict[str, _Arriving] = self.__dict__.setdefault("_arriving", {})
        # Flower forgets a question with its reply; asked again it would answer with an error.
        known = {reply.outline.metadata.reply_to_message_id for reply in arriving.values()}
        try:
            answer = self._runtime_client.PullMessages(
                PullAppMessagesRequest(message_ids=sorted(wanted - known))
            )
        except httpx.HTTPError as error:
            log.warning("the SuperLink did not answer (%s); it is asked again", error)
            return []
        now = time.monotonic()
        for proto, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            outline = message_from_proto(proto)
            names = dict.fromkeys(node.object_id for node in iterate_object_tree(tree))
            arriving[tree.object_id] = _Arriving(outline, list(names), now)
        replies = []
        for name, reply in list(arriving.items()):
            if now - reply.since > self.patience:
                found: Message | None = _in_place_of(reply, "it did not become whole")
            elif reply.outline.metadata.reply_to_message_id not in wanted:
                continue
            else:
                try:
                    found = self._look_at(name, reply)
                except httpx.HTTPError as error:
                    log.warning("a part of a reply did not come (%s); it is asked again", error)
                    continue
            if found is not None:
                del arriving[name]
                replies.append(found)
        return replies

    def _look_at(self, name: str, reply: _Arriving) -> Message | None:
        """Fetch the parts that are here; return the reply when all are, None while some lack."""
        for at, part in enumerate(reply.missing):
            answer = self._runtime_client.PullObject(
                PullObjectRequest(node=self.node, run_id=self.run.run_id, object_id=part)
            )
            if not answer.object_found:
                return _in_place_of(reply, "a part of it was taken back")
            if answer.object_available:
                reply.parts[part] = answer.object_content
            else:
                # What comes after it is late as well, and each question keeps the SuperLink busy.
                reply.missing = reply.missing[at:]
                return None
            if sum(map(len, reply.parts.values())) > self.limit + _ENVELOPE_BYTES:
                return _in_place_of(reply, f"it is larger than the {self.limit} bytes of the plan")
        self._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self.node, run_id=self.run.run_id, message_object_id=name
            )
        )
        try:
            message = inflate_object_from_contents(name, reply.parts)
        except Exception as error:  # whatever Flower's decoders raise: one site's bytes
            return _in_place_of(reply, f"it cannot be read ({type(error).__name__})")
        if not isinstance(message, Message):
            return _in_place_of(reply, "it is no message")
        if _sender(message) != _sender(reply.outline):
            return _in_place_of(reply, "it says that it is another's, or answers something else")
        flower.set_message_id(message, name)
        return message


def _sender(message: Message) -> tuple[int, int, int, str]:
    """Return what Flower checks of an outline, and nobody of what was packed with the parts."""
    about = message.metadata
    return about.run_id, about.src_node_id, about.dst_node_id, about.reply_to_message_id


def _in_place_of(reply: _Arriving, why: str) -> Message:
    """Return what stands for a reply that is not used, so that nobody waits for it any longer."""
    log.warning("a reply was dropped: %s", why)
    return make_message(reply.outline.metadata, error=flower.error(Code.BAD_UPDATE))


def without_waits(grid: Any, limit: int, patience: float) -> Any:
    """Return `grid` as one that never waits, when it is Flower's network grid; others as they are.

    Flower makes the grid and keeps a reference to it, so it is turned into the other kind in place.
    """
    if type(grid) is HttpGrid:
        grid.__class__ = NetworkGrid
    if isinstance(grid, NetworkGrid):
        grid.limit, grid.patience = limit, patience
    return grid
