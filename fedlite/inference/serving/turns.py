"""Work that takes time beside the event loop: a piece at a time, of each client in turn.

What one client sends could else stop all others: to redact and cut up the texts of one request may
take seconds. So a request comes in pieces, and between two of them others have theirs.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from fedlite.inference.serving.refused import Refused

# One client may hold a part of what may be under way, the whole divided by this, or one request.
_PARTS = 4
_Piece = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Turns:
    """One thread. most: bytes of requests that may be under way here at once."""

    def __init__(self, most: int) -> None:
        """Take the running event loop."""
        self.most, self.under_way = most, 0
        self._held: Counter[str] = Counter()
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "fedlite-aside")
        # By client; whose piece was taken goes behind the others.
        self._waiting: dict[str, deque[_Piece]] = {}
        self._busy = False

    @contextmanager
    def holding(self, size: int, who: str | None) -> Iterator[None]:
        """Count a request of so many bytes; who: the client, None where nobody knows.

        Raises Refused where there would be too many, of all or of this client.
        """
        name, left = who or "", self.most - self.under_way
        if who is not None and self._held[name]:
            left = min(left, self.most // _PARTS - self._held[name])
        if size > left and self.under_way:
            text = f"texts: there is room for {max(0, left)} bytes now, got {size}; come back later"
            raise Refused("RESOURCE_EXHAUSTED", text)
        self.under_way += size
        self._held[name] += size
        try:
            yield
        finally:
            self.under_way -= size
            self._held[name] -= size
            if not self._held[name]:
                del self._held[name]

    async def run(self, who: str, function: Callable[..., Any], *given: Any) -> Any:
        """Return what a function returns, called when it is this client's turn."""
        done: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.setdefault(who, deque()).append((done, function, given))
        self._next()
        return await done

    def close(self) -> None:
        """End the thread once what it does is done; what waits is cancelled."""
        for pieces in self._waiting.values():
            for done, *_ in pieces:
                done.cancel()
        self._waiting.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _next(self) -> None:
        while self._waiting and not self._busy:
            who = next(iter(self._waiting))
            pieces = self._waiting.pop(who)
            done, function, given = pieces.popleft()
            if pieces:
                self._waiting[who] = pieces
            # Nobody waits for it any more.
            if done.done():
                continue
            self._busy = True
            work = self._loop.run_in_executor(self._thread, function, *given)
            work.add_done_callback(partial(self._ended, done))

    def _ended(self, done: asyncio.Future[Any], found: asyncio.Future[Any]) -> None:
        self._busy = False
        error = None if found.cancelled() else found.exception()
        if not done.done():
            if found.cancelled():
                done.cancel()
            elif error is not None:
                done.set_exception(error)
            else:
                done.set_result(found.result())
        self._next()
