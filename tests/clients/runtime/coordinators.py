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
    made, family = Coordinator(), socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    made.port = listener.getsockname()[1]

    def one(plain: socket.socket) -> None:
        plain.settimeout(20)
        # The site hangs up, as it should.
        with contextlib.suppress(OSError, ValueError), context.wrap_socket(plain, True) as secure:
            made.serve(secure)

    def all_of_them() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=all_of_them, daemon=True).start()
    try:
        yield made
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextmanager
def peak() -> Iterator[Callable[[], float]]:
    """Yield what returns by how many MB this process has grown, at its largest."""
    Path("/proc/self/clear_refs").write_text("5")

    def most() -> float:
        text = Path("/proc/self/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) / 1000

    before = most()
    yield lambda: most() - before
