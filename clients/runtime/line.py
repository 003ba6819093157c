"""HTTP to a coordinator that nobody here has to trust: an answer has an end that is known before.

Flower's client unpacks what says that it is packed, follows to wherever it is sent, keeps cookies,
and waits as long as a byte comes now and then. Here an answer is taken as it is, up to a limit that
the caller names; it must come at a least rate; and of its head only the release is kept.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import httpcore
import httpx

from clients.runtime import proxy
from fedlite.deployment import protocol

# Of one call, from the name's look-up to the answer's last byte; so many bytes give a second more.
SECONDS, RATE = 60.0, 32_000
# Of an answer that announces a message, where Flower names each part; and of an error.
SMALL, _ERROR = 1_000_000, 16_000
_PART = 65_536


class TooLong(httpx.TransportError):
    """The answer is longer than the caller lets it be, or packed."""


class Clock(threading.local):
    """When the call of this thread must be over: later by what has moved, but at `_most`.

    limit: the longest answer, in bytes. head: whether that has not begun yet, so that what comes
    makes nothing later.
    """

    limit = SMALL
    head = True
    _until = _most = 0.0

    def start(self, sending: int) -> None:
        """Begin a call that sends so many bytes."""
        self.head = True
        self._until = time.monotonic() + SECONDS
        self._most = self._until + (sending + self.limit) / RATE

    def moved(self, size: int) -> None:
        """Note that so many bytes went or came."""
        self._until = min(self._until + size / RATE, self._most)

    def left(self, timeout: float | None, error: type[Exception]) -> float:
        """Return for how many seconds the next step may last, more than 0; raise `error` at 0."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise error(f"less than {RATE} bytes a second after {SECONDS:g} s")
        return left if timeout is None else min(left, timeout)


class _Stream(httpcore.NetworkStream):
    """A connection whose every step ends when the call must."""

    def __init__(self, stream: httpcore.NetworkStream, clock: Clock) -> None:
        self._stream, self._clock = stream, clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, self._clock.left(timeout, httpcore.ReadTimeout))
        if not self._clock.head:
            self._clock.moved(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # By parts: one that nobody reads must not get a timeout of its own for each byte.
        for begin in range(0, len(buffer), _PART):
            part = buffer[begin : begin + _PART]
            self._stream.write(part, self._clock.left(timeout, httpcore.WriteTimeout))
            self._clock.moved(len(part))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = self._clock.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._clock)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    """Opens connections, through the proxy; all addresses of a name share the call's time."""

    def __init__(self, clock: Clock, way: proxy.Proxy | None) -> None:
        self._clock, self._way = clock, way

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        if self._way is None:
            return self._connect(host, port, timeout, socket_options)
        # Not httpcore's own, which asks for an address of IPv6 without its brackets.
        stream = self._connect(self._way.host, self._way.port, timeout, socket_options)
        status = self._way.tunnel(
            host, port, lambda data: stream.write(data, timeout), lambda n: stream.read(n, timeout)
        )
        if status != HTTPStatus.OK:
            stream.close()
            raise httpcore.ProxyError(str(status))
        return stream

    def _connect(
        self, host: str, port: int, timeout: float | None, options: Iterable[Any] | None
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        problem: Exception = httpcore.ConnectError("the name has no address")
        for *_, where in found:
            left = self._clock.left(timeout, httpcore.ConnectTimeout)
            try:
                plain = super().connect_tcp(str(where[0]), port, left, None, options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
            else:
                return _Stream(plain, self._clock)
        raise problem


class Line(httpx.HTTPTransport):
    """The way to one coordinator, through the proxy that the environment names, if any.

    host, port: the coordinator's. ca: PEM of its own authority; no other is trusted, so a proxy
    that opens TLS is no way. `clock.limit` is the longest answer that the next call of this thread
    takes, in bytes; a call that goes beyond it raises TooLong.
    """

    def __init__(self, host: str, port: int, ca: bytes) -> None:
        """Prepare; nothing is opened yet. Raises ValueError for a proxy that is none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=ca.decode("ascii"))
        super().__init__(verify=context, trust_env=False)
        self.clock = Clock()
        self.proxy = proxy.find(host, port)
        # What the gateway says that it runs, in its last answer.
        self.release: protocol.Release | None = None
        # The one that httpx makes takes no backend.
        backend = _Backend(self.clock, self.proxy)
        self._pool = httpcore.ConnectionPool(context, keepalive_expiry=5.0, network_backend=backend)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Make a call and return its whole answer."""
        request.headers["accept-encoding"] = "identity"
        self.clock.start(int(request.headers.get("content-length", 0)))
        answer = super().handle_request(request)
        self.clock.head = False
        try:
            limit = _ERROR if answer.is_error else self.clock.limit
            content = _body(answer, limit)
        finally:
            answer.close()
        # No type: httpx would decode a text by whatever codec it names, a packing one, too.
        if told := protocol.of_header(answer.headers.get(protocol.HEADER)):
            self.release = told
        return httpx.Response(answer.status_code, content=content)


def _body(answer: httpx.Response, limit: int) -> bytes:
    packed = answer.headers.get("content-encoding", "identity")
    if packed.strip().lower() != "identity":
        raise TooLong(f"packed ({packed[:40]!r}), and nothing is unpacked here")
    if (told := answer.headers.get("content-length", "0")).isdigit() and int(told) > limit:
        raise TooLong(f"{told[:20]} bytes, where at most {limit} are taken")
    content = bytearray()
    for part in answer.stream:  # type: ignore[union-attr]
        content += part
        if len(content) > limit:
            raise TooLong(f"more than {limit} bytes")
    return bytes(content)
