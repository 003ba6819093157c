"""A coordinator that wants to fill, hold or end a site: over TLS, with bytes as they are said."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Send = Callable[[bytes], None]


class Coordinator:
    """What it answers, by the last part of a path; `asked` has every request's line.

    An answer is a body, or all of it from HTTP/1.1 on, or what sends it and ends the connection.
    """

    def __init__(self) -> None:
        self.port = 0
        # Seconds after each 64 KiB that it reads of what a site sends.
        self.pause = 0.0
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[Send], None] | bytes] = {}

    def serve(self, connection: ssl.SSLSocket) -> None:
        """Answer until the site hangs up."""
        stream = connection.makefile("rb")
        while line := stream.readline().decode():
            length = 0
            while (header := stream.readline().strip()) != b"":
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            while length and (part := stream.read(min(length, 65536))):
                length -= len(part)
                time.sleep(self.pause)
            self.asked.append(line.strip())
            answer = self.answers.get(line.split()[1].rpartition("/")[2], b"")
            if isinstance(answer, bytes):
                connection.sendall(answer if answer.startswith(b"HTTP/") else ok(answer))
            else:
                answer(connection.sendall)
                return


def ok(body: bytes, *headers: str) -> bytes:
    """Return a good answer."""
    head = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


@contextmanager
def coordinator(context: ssl.SSLContext, host: str = "127.0.0.1") -> Iterator[Coordinator]:
    """Serve on loopback, a thread for each connection."""
    made = Coordinator()

    def serve(plain: socket.socket) -> None:
        with context.wrap_socket(plain, True) as secure:
            made.serve(secure)

    with listening(serve, host) as made.port:
        yield made


@contextmanager
def peak() -> Iterator[Callable[[], float]]:
    """Yield what returns by how many MB this process has grown, at its largest."""
    Path("/proc/self/clear_refs").write_text("5")

    def most() -> float:
        text = Path("/proc/self/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) / 1000

    before = most()
    yield lambda: most() - before


class Tunnels:
    """A proxy. asked: the heads of all requests. status: what it answers; opens: its own TLS."""

    def __init__(self, status: int = 200, opens: ssl.SSLContext | None = None) -> None:
        self.port, self.asked, self.status, self.opens = 0, [b""][:0], status, opens

    def serve(self, near: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += near.recv(1)
        self.asked.append(head)
        near.sendall(f"HTTP/1.1 {self.status} so\r\nX: y\r\n\r\n".encode())
        if self.status != 200:
            return
        if self.opens is not None:
            self.opens.wrap_socket(near, True).recv(1)
        host, _, port = head.split()[1].decode().rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port))) as far:
            threading.Thread(target=self.pump, args=(far, near), daemon=True).start()
            self.pump(near, far)

    @staticmethod
    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(status: int = 200, opens: ssl.SSLContext | None = None) -> Iterator[Tunnels]:
    """Serve a proxy on loopback, a thread for each connection."""
    made = Tunnels(status, opens)
    with listening(lambda plain: made.serve(plain), "127.0.0.1") as made.port:
        yield made


@contextmanager
def listening(serve: Callable[[socket.socket], None], host: str) -> Iterator[int]:
    """Serve connections on loopback, each by a thread; yield the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)

    def one(plain: socket.socket) -> None:
        plain.settimeout(20)
        # The other side hangs up, as it should.
        with plain, contextlib.suppress(OSError, ValueError):
            serve(plain)

    def all_of_them() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=all_of_them, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
