"""Flower's Grid over an engine: the same apps, really serialised messages, no Ray.

Every message is turned into protobuf bytes and back in both directions, as if it had crossed a
network: apps can neither share objects by accident nor be measured without their true cost.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence, Set
from concurrent.futures import Future
from functools import partial

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedlite import flower
from simulations.engines import Engine
from simulations.node import FIRST_NODE


class SimulationGrid(Grid):
    """Flower's Grid over an engine; one per process, because Flower's run identity is global."""

    def __init__(
        self, run_id: int, sites: int, engine: Engine, names: Sequence[str] | None = None
    ) -> None:
        """Take the place of a SuperLink with `sites` connected nodes.

        names: of the sites, where whoever made the grid vouches for them: nobody has to be asked.
        """
        self._run = Run.create_empty(run_id=run_id)
        self._nodes = [FIRST_NODE + index for index in range(sites)]
        self.introduced = None if names is None else dict(zip(names, self._nodes, strict=True))
        self._engine = engine
        self._ready: dict[str, bytes] = {}
        flower.identify(run_id, 0)

    @property
    def engine(self) -> str:
        """Name of the engine, for the record."""
        return self._engine.name

    @property
    def room(self) -> int:
        """How many more messages the engine can use now: more would only be held."""
        return self._engine.room

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all processes so far."""
        return self._engine.cpu_seconds()

    def site_seconds(self, node: int) -> float:
        """Return the CPU seconds that a node's messages have taken so far."""
        return self._engine.site_seconds(node)

    def trained(self) -> dict[str, int]:
        """Return how many shares were trained `alone` and how many `together` with others."""
        return self._engine.trained()

    def set_run(self, run: Run) -> None:
        """Set the run this grid works for."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run this grid works for."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message (deprecated in Flower, but still part of the interface)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the ids of all simulated nodes."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand messages to the engine and return their ids."""
        ids = []
        for message in messages:
            message_id = uuid.uuid4().hex
            flower.set_message_id(message, message_id)
            data = flower.to_bytes(message)
            future = self._engine.submit(message.metadata.dst_node_id, data)
            future.add_done_callback(partial(self._arrive, message_id))
            ids.append(message_id)
        return ids

    def _arrive(self, message_id: str, future: Future[bytes]) -> None:
        self._ready[message_id] = future.result()

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Let the engine work for a moment and return the replies that are ready."""
        wanted = message_ids if isinstance(message_ids, Set) else set(message_ids)
        self._engine.advance(0.1)
        replies = []
        for message_id in [i for i in self._ready if i in wanted]:
            reply = flower.from_bytes(self._ready.pop(message_id))
            flower.set_message_id(reply, uuid.uuid4().hex)
            replies.append(reply)
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Push messages and wait for all replies, or until `timeout` seconds have passed."""
        waiting = set(self.push_messages(messages))
        until = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (until is None or time.monotonic() < until):
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies
