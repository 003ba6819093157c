"""How a server over HTTP reads the head of a request: in little room, and in little time.

Nobody has shown anything yet while a head comes in, so neither may depend on who sends it. What
uvicorn reads it with has no bound of its own. `uvicorn.protocols` is pinned with Flower.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Flower's own heads have some 1,200 bytes; nginx lets 32 KiB through.
HEAD_BYTES = 65_536
HEAD_SECONDS = 15.0
# Requests that came before the one before them was answered: each is an object of some kilobytes.
PIPELINED = 8


class BoundedHeads(HttpToolsProtocol):
    """Hangs up on a head that is too long, or is not there in time, and on too many at once."""

    _bytes = 0
    _whole = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head; uvicorn bounds the time between requests itself."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take some bytes of a head or a body."""
        if not self._whole:
            self._bytes += len(data)
            if self._timer is None:
                self._wait()
        super().data_received(data)
        if not self._whole and self._bytes > HEAD_BYTES:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        """Stop waiting for it. Raises ValueError, which ends the reading, for too many."""
        self._whole = True
        self._stop()
        super().on_headers_complete()
        if len(self.pipeline) > PIPELINED:
            self.pipeline.clear()
            raise ValueError(f"at most {PIPELINED} requests may wait for those before them")

    def on_message_complete(self) -> None:
        """Get ready for the next head."""
        self._whole, self._bytes = False, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Hang up where the body was not waited for: what is left of it has no time of its own."""
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Listener(socket.socket):
    """A socket that is listened on, with so many connections at once; what more come it closes.

    uvicorn counts a connection when its first head is whole, so who says nothing, or begins no
    handshake of TLS, is counted here alone. most: settable, above 0.
    """

    def __init__(self, bound: socket.socket, most: int) -> None:
        """Take over a bound socket."""
        super().__init__(fileno=bound.detach())
        self.most = most
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def accept(self) -> tuple[socket.socket, Any]:
        """Return a connection; raises BlockingIOError, as for none, where there are too many."""
        line, address = super().accept()
        if len(self._open) >= self.most:
            # What was closed may still be known to somebody.
            for one in [one for one in self._open if one.fileno() < 0]:
                self._open.discard(one)
        if len(self._open) >= self.most:
            line.close()
            raise BlockingIOError
        self._open.add(line)
        return line, address
