"""Workers of a pool that wait for the next run of a sweep.

A worker takes seconds to begin, most of which go into what it imports, and that is the same for all
runs. Between two runs it closes its sites; with the next run it begins as a new one would. Runs
with code of one's own get workers of their own: what a worker has imported of it stays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

Worker = tuple[Any, Connection]

# Those that wait, while somebody plays one run after the other; None: nobody does.
_waiting: list[Worker] | None = None


class Begin(NamedTuple):
    """What a worker that was kept is told of the next run.

    arguments: of `Node`. logs: the files into which this process writes what the run has to say.
    """

    arguments: tuple[Any, ...]
    logs: tuple[str, ...]


@contextmanager
def keeping() -> Iterator[None]:
    """Let the pools of runs inside hand their workers on; at the end these are ended."""
    global _waiting
    if _waiting is not None:
        yield
        return
    _waiting = []
    try:
        yield
    finally:
        for process, connection in _waiting:
            connection.close()
            process.terminate()
        for process, _ in _waiting:
            process.join()
        _waiting = None


def take(most: int, arguments: tuple[Any, ...]) -> list[Worker]:
    """Return workers that have waited, up to `most`, each told to begin with these arguments."""
    found: list[Worker] = []
    while _waiting and len(found) < most:
        process, connection = _waiting.pop(0)
        try:
            connection.send(Begin(arguments, _logs()))
        except OSError:
            # It ended while nobody looked.
            connection.close()
            process.join()
        else:
            found.append((process, connection))
    return found


def keep(worker: Worker) -> bool:
    """Let an idle worker wait for the next run; return whether anybody will want it."""
    if _waiting is None:
        return False
    try:
        if worker[1].poll(0):
            # A reply that nobody has read: the next run would take it for one of its own.
            return False
        worker[1].send(None)
    except OSError:
        return False
    _waiting.append(worker)
    return True


def connections() -> list[Connection]:
    """Return this process's ends of those that wait, which no copy of it may hold."""
    return [connection for _, connection in _waiting or ()]


def _logs() -> tuple[str, ...]:
    handlers = logging.getLogger("fedlite").handlers
    return tuple(one.baseFilename for one in handlers if isinstance(one, logging.FileHandler))


def log_into(files: tuple[str, ...]) -> None:
    """Write what is said from now on into these files, and no longer into those of another run."""
    logger = logging.getLogger("fedlite")
    for handler in [one for one in logger.handlers if isinstance(one, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()
    for file in files:
        logger.addHandler(logging.FileHandler(file, encoding="utf-8", delay=True))
    logger.propagate = not files
