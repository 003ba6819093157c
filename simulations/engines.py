"""What executes the messages of a simulation: one process, or a pool of them.

A task goes through queues from which each is taken once, and nothing looks at all of them, so that
a round costs the same per message however many sites it has.
"""

from __future__ import annotations

import gc
import heapq
import logging
import multiprocessing
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fedlite import flower
from fedlite.messages import Code
from simulations import forking, kept
from simulations.node import FIRST_NODE, Node, close_all, timed

log = logging.getLogger("fedlite.server")

# So many seconds without a message, and a worker keeps no more memory than it needs.
_IDLE = 0.2

AHEAD = 64
"""Messages that an engine likes to have waiting: enough to choose from, few enough to hold."""


class Task(NamedTuple):
    """One serialised message for a node, and the future that gets the serialised reply.

    Tasks are in the order in which they are handed out: by `rank`, then as they came. again: it was
    handed to a worker that died.
    """

    rank: float
    number: int
    node: int
    data: bytes
    reply: Future[bytes]
    again: bool = False


class Engine(Protocol):
    """Executes serialised messages at simulated nodes."""

    name: str

    @property
    def room(self) -> int:
        """How many more messages it can use now; it takes any number."""

    def submit(self, node: int, data: bytes) -> Future[bytes]:
        """Take one message for `node`; the future holds the serialised reply."""

    def advance(self, seconds: float) -> None:
        """Work, or wait for the work, for about `seconds` or until nothing is left to do.

        A message that has been begun in this process is finished, however long it takes.
        """

    def cpu_seconds(self) -> float:
        """Return the CPU time spent so far by all processes, in seconds."""

    def site_seconds(self, node: int) -> float:
        """Return the CPU time that the messages of a node have taken so far, in seconds."""

    def trained(self) -> dict[str, int]:
        """Return how many shares were trained `alone` and how many `together` with others."""

    def close(self) -> None:
        """End all processes."""


def _group(queue: deque[Task] | list[Task], most: int, take: Callable[[], Task]) -> list[Task]:
    """Take up to `most` tasks, at least one, and of one node no two.

    A task that has killed a worker is taken by itself.
    """
    tasks = [take()]
    nodes = {tasks[0].node}
    while queue and len(tasks) < most and not (tasks[0].again or queue[0].again):
        if queue[0].node in nodes:
            break
        nodes.add(queue[0].node)
        tasks.append(take())
    return tasks


def _failed(task: Task) -> bytes:
    """Return the serialised answer of a site that could not do what it was asked."""
    return flower.to_bytes(flower.decline(Code.FAILED, flower.from_bytes(task.data)))


class Serial:
    """Runs one message after the other, or a few together, in this process."""

    name = "serial"

    def __init__(self, node: Node) -> None:
        """Keep the node and an empty queue."""
        self._node = node
        self._queue: deque[Task] = deque()
        self._spent: dict[int, float] = defaultdict(float)

    @property
    def room(self) -> int:
        """How many more messages it can use now."""
        return max(0, AHEAD - len(self._queue))

    def submit(self, node: int, data: bytes) -> Future[bytes]:
        """Queue one message."""
        task = Task(0.0, 0, node, data, Future())
        self._queue.append(task)
        return task.reply

    def advance(self, seconds: float) -> None:
        """Handle the oldest messages, at least one."""
        until = time.monotonic() + seconds
        while self._queue:
            tasks = _group(self._queue, self._node.most, self._queue.popleft)
            try:
                replies, spent = timed(self._node, [(task.node, task.data) for task in tasks])
            except Exception:  # who waits for these would wait until the deadline
                log.exception("%d sites could not be asked; they are left out", len(tasks))
                replies, spent = [_failed(task) for task in tasks], 0.0
            for task, reply in zip(tasks, replies, strict=True):
                self._spent[task.node] += spent
                task.reply.set_result(reply)
            if time.monotonic() >= until:
                return

    def cpu_seconds(self) -> float:
        """Return this process's CPU time."""
        return time.process_time()

    def site_seconds(self, node: int) -> float:
        """Return what the node's messages have taken."""
        return self._spent[node]

    def trained(self) -> dict[str, int]:
        """Return the node's counts."""
        return dict(self._node.trained)

    def close(self) -> None:
        """Close the sites: what they remember is on the disk."""
        close_all()


class Pool:
    """Runs messages in worker processes, each with one torch thread.

    A worker takes the messages of sites that it has served before: what a site has prepared
    (loaded records, fixed features) stays in that process. It takes others when it would idle.
    Of those that wait, the one with the most work is handed out first, so that none is left to one
    worker at the end of a round. A worker that dies is replaced, and its message tried once more;
    the second time it is answered with a code, and the log says how the worker ended.
    """

    name = "pool"

    def __init__(
        self,
        workers: int,
        arguments: tuple[Any, ...],
        work: Sequence[float] = (),
        most: int = 1,
        *,
        keep: bool = False,
    ) -> None:
        """Start `workers` processes; `arguments` are those of `Node`.

        work: about how much a message is for each node, from the first, in any unit. most: the
        messages that a worker gets at once, as long as it does not say that it wants fewer. keep:
        whether workers may come from the run before and go on to the next (`simulations.kept`).
        """
        self._arguments, self._work, self._submitted = arguments, work, 0
        # Read by NumPy's linear algebra when a worker imports it; see `fedlite.cli`.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        self._keep = keep
        self._workers = kept.take(workers, arguments) if keep else []
        missing = workers - len(self._workers)
        # What a copy has imported and read is there once; one that is no copy does so anew.
        self._copied = bool(missing) and forking.possible()
        self._context: Any = multiprocessing.get_context("fork" if self._copied else "spawn")
        if self._copied:
            forking.settle()
        for _ in range(missing):
            self._workers.append(self._start())
        # Later this process may have threads, and files that nobody else should hold.
        self._context = multiprocessing.get_context("spawn")
        # Which worker has served a node, and what waits for each; None: for whoever is free.
        self._home: dict[int, int] = {}
        self._queues: dict[int | None, list[Task]] = {n: [] for n in (None, *range(workers))}
        self._waiting = 0
        self._busy: dict[int, list[Task]] = {}
        self._most = [most] * workers
        self._trained: list[dict[str, int]] = [{} for _ in range(workers)]
        self._cpu = [0.0] * workers
        self._cpu_of_dead = 0.0
        self._spent: dict[int, float] = defaultdict(float)

    def _start(self) -> tuple[Any, Connection]:
        here, there = self._context.Pipe()
        # A copy has our ends, too; while it does, a worker would not see that this process ended.
        copied = self._context.get_start_method() == "fork"
        others = [*kept.connections(), *(connection for _, connection in self._workers)]
        ours = [here, *others] if copied else []
        arguments = there, self._arguments, ours
        process = self._context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        there.close()
        return process, here

    @property
    def room(self) -> int:
        """How many more messages it can use now."""
        return max(0, AHEAD - self._waiting)

    def submit(self, node: int, data: bytes) -> Future[bytes]:
        """Queue one message."""
        at = node - FIRST_NODE
        rank = -float(self._work[at]) if 0 <= at < len(self._work) else 0.0
        self._submitted += 1
        task = Task(rank, self._submitted, node, data, Future())
        self._put(task)
        return task.reply

    def _put(self, task: Task) -> None:
        heapq.heappush(self._queues[self._home.get(task.node)], task)
        self._waiting += 1

    def advance(self, seconds: float) -> None:
        """Hand messages to idle workers and take replies."""
        until = time.monotonic() + seconds
        while self._waiting or self._busy:
            for number in range(len(self._workers)):
                if number not in self._busy and self._waiting:
                    self._hand_over(number)
            left = until - time.monotonic()
            if left <= 0:
                return
            busy = {self._workers[number][1]: number for number in self._busy}
            for connection in wait(list(busy), timeout=left):
                self._take(busy[connection])  # type: ignore[index]

    def _take(self, number: int) -> None:
        process, connection = self._workers[number]
        # Busy until all of its reply is here: nobody may read the rest of one as that of the next.
        tasks = self._busy[number]
        try:
            told = connection.recv()
            self._cpu[number], replies, seconds, self._most[number], self._trained[number] = told
        except Exception as error:
            if not isinstance(error, EOFError | OSError):
                log.exception("the reply of a worker could not be read; it is ended")
                process.terminate()
            how = self._replace(number)
            del self._busy[number]
            for task in tasks:
                self._lost(task, how)
            return
        del self._busy[number]
        for task, reply in zip(tasks, replies, strict=True):
            self._spent[task.node] += seconds
            task.reply.set_result(reply)

    def _lost(self, task: Task, how: str) -> None:
        """Put a task of a worker that died back, or answer that it cannot be done."""
        if not task.again:
            log.warning("a worker ended (%s); its message is tried once more", how)
            self._put(task._replace(again=True))
            return
        log.error(
            "node %d: two workers ended while it trained (%s); it is left out of this round. "
            "A machine out of memory ends them by signal 9: use --engine serial",
            task.node,
            how,
        )
        task.reply.set_result(_failed(task))

    def _hand_over(self, number: int) -> None:
        queues = self._queues
        # What others wait for last, and then where most waits.
        others = max(queues.values(), key=len)
        queue = queues[number] or queues[None] or others
        # No worker may be left without work at the end of a round.
        fair = -(-self._waiting // len(self._workers))
        tasks = _group(queue, min(self._most[number], fair), partial(heapq.heappop, queue))
        self._waiting -= len(tasks)
        for task in tasks:
            self._home.setdefault(task.node, number)
        self._busy[number] = tasks
        try:
            self._workers[number][1].send([(task.node, task.data) for task in tasks])
        except OSError:
            # The worker is gone; its connection reports that to `advance`.
            return

    def _replace(self, number: int) -> str:
        """Start another worker, and return how this one ended."""
        process, connection = self._workers[number]
        connection.close()
        process.join()
        self._cpu_of_dead += self._cpu[number]
        self._cpu[number] = 0.0
        self._workers[number] = self._start()
        code = process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def cpu_seconds(self) -> float:
        """Return the CPU time of this process and, as of their last replies, of all workers."""
        return time.process_time() + sum(self._cpu) + self._cpu_of_dead

    def site_seconds(self, node: int) -> float:
        """Return what the node's messages have taken; not those in which a worker died."""
        return self._spent[node]

    def trained(self) -> dict[str, int]:
        """Return the sums of the workers' counts; not of those that died."""
        ways = ("alone", "together")
        return {way: sum(one.get(way, 0) for one in self._trained) for way in ways}

    def close(self) -> None:
        """End the workers, or let those that are idle wait for the next run."""
        ended = [
            worker
            for number, worker in enumerate(self._workers)
            if number in self._busy or not (self._keep and kept.keep(worker))
        ]
        for process, connection in ended:
            connection.close()
            process.terminate()
        for process, _ in ended:
            process.join()
        if self._copied:
            gc.unfreeze()


def _work(connection: Connection, arguments: tuple[Any, ...], others: Sequence[Connection]) -> None:
    for other in others:
        other.close()
    node: Node | None = Node(*arguments)
    before = 0.0
    while True:
        try:
            if not connection.poll(_IDLE):
                forking.give_back()
            asked = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        if asked is None or isinstance(asked, kept.Begin):
            # Between two runs, or with the first word of the next.
            node = None
            close_all()
            if asked is not None:
                kept.log_into(asked.logs)
                before = time.process_time()
                node = Node(*asked.arguments)
            continue
        if node is None:
            return
        replies, seconds = timed(node, asked)
        spent = time.process_time() - before
        connection.send((spent, replies, seconds, node.most, node.trained))


def make_engine(
    name: str,
    *,
    run_id: int,
    sites: int,
    run_config: Mapping[str, Any],
    state: Path,
    work: Sequence[float] = (),
    most: int = 1,
    keep: bool = False,
) -> Engine:
    """Return the engine `serial` or `pool`; the pool has a worker a core, at most one a site.

    work: as for `Pool`, of the sites in their order. most: how many sites may be asked at once, to
    train together where that is faster. keep: as for `Pool`.
    """
    arguments = (run_id, sites, dict(run_config), state, most)
    if name == "serial":
        return Serial(Node(*arguments))
    return Pool(min(os.cpu_count() or 1, sites), arguments, work, most, keep=keep)
