"""What an attacker sends to a coordinator's front, for the tests of it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import multiprocessing
import os
import socket
import ssl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from clients.runtime.fleet import Fleet
from fedlite import flower
from fedlite.identity import nodekey
from server.coordinator import superlink
from server.coordinator.folder import Coordinator
from simulations.benchmarks.lab import family

KIND = "application/protobuf"
NOBODY = 65534


def tls(coordinator: Coordinator, port: int) -> ssl.SSLSocket:
    """Return a connection to the gateway or the SuperLink."""
    context = ssl.create_default_context(cafile=str(coordinator.ca_cert))
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    return context.wrap_socket(plain, server_hostname="localhost")


def said(coordinator: Coordinator, port: int, request: bytes) -> bytes:
    """Return all that comes back when these bytes are sent; nothing where it hangs up."""
    found = b""
    with tls(coordinator, port) as connection:
        connection.sendall(request)
        connection.settimeout(3)
        with contextlib.suppress(TimeoutError, ConnectionError, ssl.SSLError):
            while more := connection.recv(65536):
                found += more
    return found


def said_by(connection: ssl.SSLSocket) -> bytes:
    """Return what has come back on a connection; nothing where there is nothing yet."""
    connection.settimeout(0.05)
    with contextlib.suppress(OSError):
        return connection.recv(65536)
    return b""


def signature(key: Path) -> str:
    """Return the headers by which a site's request is signed now."""
    request = httpx.Request("POST", "https://h")
    private = nodekey.load(key)
    context = ProtobufRequestContext("", PushMessagesRequest(), request)
    NodeAuthHttpInterceptor(private, private.public_key()).intercept(
        context, lambda _: httpx.Response(200)
    )
    return "".join(f"{k}: {v}\r\n" for k, v in request.headers.items() if k.startswith("flwr-"))


def status(answer: bytes) -> int:
    """Return an answer's status; 0 where there is none."""
    parts = answer.split(b" ", 2)
    return int(parts[1]) if answer.startswith(b"HTTP/1") else 0


def superlink_rss(coordinator: Coordinator) -> int:
    """Return the resident bytes of the SuperLink."""
    pid = superlink.running(coordinator)
    return max(p.rss for p in family([pid or 0]) if p.role == "superlink")


@contextlib.contextmanager
def unfinished(
    coordinator: Coordinator, bodies: int, length: int, headers: str = ""
) -> Iterator[list[ssl.SSLSocket]]:
    """Yield connections on which all but the last byte of a long body was offered to the gateway.

    Each sends until it is told to stop, or nobody has taken anything for three seconds.
    """
    head = (
        "POST /v1/fleet/push-object HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: {KIND}\r\nContent-Length: {length}\r\n{headers}\r\n"
    ).encode()
    chunk, held = bytes(1 << 20), []
    for _ in range(bodies):
        connection = tls(coordinator, coordinator.settings.gateway_port)
        connection.sendall(head)
        connection.settimeout(3 if length > 10**8 else 0.3)
        with contextlib.suppress(OSError):
            for _ in range(length // len(chunk) - 1):
                connection.sendall(chunk)
        held.append(connection)
    try:
        yield held
    finally:
        for connection in held:
            connection.close()


def announcement(fleet: Fleet, message: Message, leaves: int) -> PushMessagesRequest:
    """Return the announcement of a reply to a message, in so many parts."""
    flower.identify(int(message.metadata.run_id), fleet.node_id)
    reply = flower.answer(b"x", message)
    flower.set_message_id(reply, reply.object_id)
    names = (hashlib.sha256(str(number).encode()).hexdigest() for number in range(leaves))
    children = [ObjectTree(object_id=name) for name in names]
    return PushMessagesRequest(
        node=fleet._node,
        messages_list=[message_to_proto(remove_content_from_message(reply))],
        message_object_trees=[ObjectTree(object_id=reply.object_id, children=children)],
        clientapp_runtime_list=[0.0],
    )


def as_nobody(
    port: int, ca: str, requests: Iterable[tuple[str, dict[str, str], bytes]]
) -> list[int]:
    """Return the statuses of POSTs to the SuperLink, made by another user of this machine."""

    def work(pipe: Any) -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        context = ssl.create_default_context(cadata=ca)
        found = []
        for path, headers, body in requests:
            connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
            connection.request("POST", path, body, {"Content-Type": KIND} | headers)
            found.append(connection.getresponse().status)
        pipe.send(found)

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs,))
    process.start()
    theirs.close()
    found: list[int] = ours.recv()
    process.join()
    return found
