"""Frames between a site's own process and the one in which approved code runs.

Each is a length (u64, little-endian) and so many bytes. Whoever reads says beforehand how long a
frame may be and until when it must be whole: the other end may send one byte and sleep, or announce
more than the memory holds. Plain reads and writes, which a sandbox can leave open.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time

_LENGTH = struct.Struct("<Q")
_BLOCK = 1 << 20
_FOREVER = float("inf")


class TooLong(ValueError):
    """A frame is longer than its reader allows; nothing of it was read."""


class Pipe:
    """One end, on an open file descriptor that it owns; not for several threads."""

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor."""
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)

    @classmethod
    def pair(cls) -> tuple[Pipe, Pipe]:
        """Return two connected ends."""
        here, there = socket.socketpair()
        return cls(here.detach()), cls(there.detach())

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def send(self, frame: bytes, seconds: float = _FOREVER) -> None:
        """Write a frame; raises TimeoutError, and OSError when the other end is gone."""
        until = time.monotonic() + seconds
        for part in (_LENGTH.pack(len(frame)), memoryview(frame)):
            sent = 0
            while sent < len(part):
                self._wait(select.POLLOUT, until)
                try:
                    sent += os.write(self._descriptor, part[sent : sent + _BLOCK])
                except BlockingIOError:
                    continue

    def receive(self, limit: int | None = None, seconds: float = _FOREVER) -> bytes:
        """Return the next frame, whole.

        Raises TooLong when it is announced as longer than `limit` bytes, TimeoutError when it is
        not whole after `seconds`, EOFError when the other end is gone, OSError.
        """
        until = time.monotonic() + seconds
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, until))
        if limit is not None and length > limit:
            raise TooLong(f"a frame may have {limit} bytes, {length} are announced")
        return bytes(self._read(length, until))

    def close(self) -> None:
        """Close it; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _read(self, length: int, until: float) -> bytearray:
        # Grows with what comes, not with what is announced.
        read = bytearray()
        while len(read) < length:
            self._wait(select.POLLIN, until)
            try:
                block = os.read(self._descriptor, min(_BLOCK, length - len(read)))
            except BlockingIOError:
                continue
            except ConnectionResetError:
                block = b""
            if not block:
                raise EOFError("the other end is gone")
            read += block
        return read

    def _wait(self, event: int, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the other end took too long")
        poll = select.poll()
        poll.register(self._descriptor, event)
        # At most an hour at a time: poll counts milliseconds in an int.
        if not poll.poll(None if left == _FOREVER else min(left, 3600.0) * 1000):
            self._wait(event, until)
