"""Tasks on several processes at once: one that dies loses its task, and no other."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def work_through(
    tasks: Iterable[T], work: Callable[[T], R], jobs: int, lost: Callable[[T], R]
) -> Iterator[tuple[T, R]]:
    """Yield each task with what `work` makes of it, as soon as it is done.

    One job works in this process; more are processes of their own, which import the main module
    again. lost(task) stands for a task whose process has died. A task is taken from `tasks` when a
    process is free for it. Whoever stops reading ends the processes.
    """
    if jobs == 1:
        for task in tasks:
            yield task, work(task)
        return
    waiting = iter(tasks)
    idle: list[tuple[BaseProcess, Connection]] = []
    busy: dict[Connection, tuple[BaseProcess, T]] = {}
    try:
        while True:
            while len(busy) < jobs:
                # A task may be anything, None too.
                more = list(zip(range(1), waiting, strict=False))
                if not more:
                    break
                process, connection = idle.pop() if idle else _start(work)
                busy[connection] = process, more[0][1]
                connection.send(more[0][1])
            if not busy:
                return
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)  # noqa: S101 - wait returns what it was given
                process, task = busy.pop(ready)
                try:
                    result = ready.recv()
                except EOFError:
                    process.join()
                    result = lost(task)
                else:
                    idle.append((process, ready))
                yield task, result
    finally:
        for connection, (process, _) in busy.items():
            idle.append((process, connection))
        for process, connection in idle:
            connection.close()
            process.terminate()
        for process, _ in idle:
            process.join()


def _start(work: Callable[[T], R]) -> tuple[BaseProcess, Connection]:
    # A forked child would share the locks of torch and of Flower's threads with this process.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work))
    process.start()
    theirs.close()
    return process, ours


def _serve(connection: Connection, work: Callable[[T], R]) -> None:
    try:
        while True:
            connection.send(work(connection.recv()))
    except (EOFError, KeyboardInterrupt):
        return
