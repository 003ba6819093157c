"""How a server over HTTP reads the head of a request: in little room, and in little time.

Nobody has shown anything yet while a head comes in, so neither may depend on who sends it. What
uvicorn reads it with has no bound of its own. `uvicorn.protocols` is pinned with Flower.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Flower's own heads have some 1,200 bytes; nginx lets 32 KiB through.
HEAD_BYTES = 65_536
HEAD_SECONDS = 15.0


class BoundedHeads(HttpToolsProtocol):
    """Hangs up on a head that is too long, or is not there in time."""

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
        """Stop waiting."""
        self._whole = True
        self._stop()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Get ready for the next head."""
        self._whole, self._bytes = False, 0
        super().on_message_complete()

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
