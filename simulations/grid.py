"""Flower's Grid in one process or a pool: the same apps, really serialised messages, no Ray.

Every message is turned into protobuf bytes and back in both directions, as if it had crossed a
network: apps can neither share objects by accident nor be measured without their true cost.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedlite import flower
from fedlite.messages import Code

FIRST_NODE = 1000


class Engine(Protocol):
    """Executes serialised messages at simulated nodes."""

    name: str

    def submit(self, node: int, data: bytes) -> Future[bytes]:
        """Take one message for `node`; the future holds the serialised reply."""

    def advance(self, seconds: float) -> None:
        """Do some of the work, or wait for it, for about `seconds` at most."""

    def cpu_seconds(self) -> float:
        """Return the CPU time spent so far by all processes, in seconds."""

    def close(self) -> None:
        """End all processes."""


class Node:
    """Runs the ClientApp for messages that arrive as bytes; one a process."""

    def __init__(self, run_id: int, sites: int, run_config: Mapping[str, Any], state: Path) -> None:
        """Import the ClientApp, one torch thread only."""
        from clients.app import app
        from fedlite.training.share import settle_process

        settle_process()
        flower.identify(run_id, 0)
        self._app = app
        self._contexts = {
            FIRST_NODE + index: Context(
                run_id=run_id,
                node_id=FIRST_NODE + index,
                node_config={
                    "partition-id": index,
                    "num-partitions": sites,
                    "state-path": str(state),
                },
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for index in range(sites)
        }

    def handle(self, node: int, data: bytes) -> bytes:
        """Return the serialised reply of `node` to a serialised message."""
        message = flower.from_bytes(data)
        reply: Message = self._app(message, self._contexts[node])
        return flower.to_bytes(reply)


class Serial:
    """Runs one message after the other in this process."""

    name = "serial"

    def __init__(self, node: Node) -> None:
        """Keep the node and an empty queue."""
        self._node = node
        self._queue: list[tuple[int, bytes, Future[bytes]]] = []

    def submit(self, node: int, data: bytes) -> Future[bytes]:
        """Queue one message."""
        future: Future[bytes] = Future()
        self._queue.append((node, data, future))
        return future

    def advance(self, seconds: float) -> None:
        """Handle the oldest message."""
        if self._queue:
            node, data, future = self._queue.pop(0)
            future.set_result(self._node.handle(node, data))

    def cpu_seconds(self) -> float:
        """Return this process's CPU time."""
        return time.process_time()

    def close(self) -> None:
        """Nothing to end."""


class Pool:
    """Runs messages in worker processes, each with one torch thread.

    A worker takes the messages of sites that it has served before: what a site has prepared
    (loaded records, fixed features) stays in that process. It takes others when it would idle.
    A worker that dies answers for its message with a code, and is replaced.
    """

    name = "pool"

    def __init__(self, workers: int, arguments: tuple[Any, ...]) -> None:
        """Start `workers` processes; `arguments` are those of `Node`."""
        self._arguments = arguments
        # spawn: a forked child would share torch's and Flower's locks with this process.
        self._context = multiprocessing.get_context("spawn")
        self._workers = [self._start() for _ in range(workers)]
        self._home: dict[int, int] = {}
        self._queue: list[tuple[int, bytes, Future[bytes]]] = []
        self._busy: dict[int, tuple[int, bytes, Future[bytes]]] = {}
        self._cpu = [0.0] * workers
        self._cpu_of_dead = 0.0

    def _start(self) -> tuple[Any, Connection]:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_work, args=(there, self._arguments), daemon=True)
        process.start()
        there.close()
        return process, here

    def submit(self, node: int, data: bytes) -> Future[bytes]:
        """Queue one message."""
        future: Future[bytes] = Future()
        self._queue.append((node, data, future))
        return future

    def advance(self, seconds: float) -> None:
        """Hand messages to idle workers, then wait for the first reply."""
        for number in range(len(self._workers)):
            if number not in self._busy and self._queue:
                self._hand_over(number)
        busy = {self._workers[number][1]: number for number in self._busy}
        for connection in wait(list(busy), timeout=seconds) if busy else []:
            number = busy[connection]  # type: ignore[index]
            _, data, future = self._busy.pop(number)
            try:
                self._cpu[number], reply = self._workers[number][1].recv()
            except (EOFError, OSError):
                self._replace(number)
                reply = flower.to_bytes(flower.decline(Code.FAILED, flower.from_bytes(data)))
            future.set_result(reply)

    def _hand_over(self, number: int) -> None:
        def preference(entry: tuple[int, bytes, Future[bytes]]) -> int:
            home = self._home.get(entry[0])
            return 0 if home == number else 1 if home is None else 2

        best = min(range(len(self._queue)), key=lambda i: (preference(self._queue[i]), i))
        node, data, future = self._queue.pop(best)
        self._home.setdefault(node, number)
        self._busy[number] = (node, data, future)
        try:
            self._workers[number][1].send((node, data))
        except OSError:
            # The worker is gone; its connection reports that to `advance`.
            return

    def _replace(self, number: int) -> None:
        process, connection = self._workers[number]
        connection.close()
        process.join()
        self._cpu_of_dead += self._cpu[number]
        self._cpu[number] = 0.0
        self._workers[number] = self._start()

    def cpu_seconds(self) -> float:
        """Return the CPU time of this process and, as of their last replies, of all workers."""
        return time.process_time() + sum(self._cpu) + self._cpu_of_dead

    def close(self) -> None:
        """End the workers."""
        for process, connection in self._workers:
            connection.close()
            process.terminate()
        for process, _ in self._workers:
            process.join()


def _work(connection: Connection, arguments: tuple[Any, ...]) -> None:
    node = Node(*arguments)
    while True:
        try:
            address, data = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        reply = node.handle(address, data)
        connection.send((time.process_time(), reply))


def make_engine(
    name: str,
    *,
    run_id: int,
    sites: int,
    run_config: Mapping[str, Any],
    state: Path,
) -> Engine:
    """Return the engine `serial` or `pool`; the pool has a worker a core, at most one a site."""
    arguments = (run_id, sites, dict(run_config), state)
    if name == "serial":
        return Serial(Node(*arguments))
    return Pool(min(os.cpu_count() or 1, sites), arguments)


class SimulationGrid(Grid):
    """Flower's Grid over an engine; one per process, because Flower's run identity is global."""

    def __init__(self, run_id: int, sites: int, engine: Engine) -> None:
        """Take the place of a SuperLink with `sites` connected nodes."""
        self._run = Run.create_empty(run_id=run_id)
        self._nodes = [FIRST_NODE + index for index in range(sites)]
        self._engine = engine
        self._futures: dict[str, Future[bytes]] = {}
        flower.identify(run_id, 0)

    @property
    def engine(self) -> str:
        """Name of the engine, for the record."""
        return self._engine.name

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all processes so far."""
        return self._engine.cpu_seconds()

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
            self._futures[message_id] = self._engine.submit(message.metadata.dst_node_id, data)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Let the engine work for a moment and return the replies that are ready."""
        wanted = set(message_ids)
        self._engine.advance(0.1)
        ready = [i for i, future in self._futures.items() if i in wanted and future.done()]
        replies = []
        for message_id in ready:
            reply = flower.from_bytes(self._futures.pop(message_id).result())
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
