"""The REST form of the Open Inference Protocol, version 2: JSON over HTTP, by the same service.

Every request becomes the message that gRPC would have brought, and goes the same way from there:
the same token, limits, batch, log and answer. Nothing of a body is read before it is known who
sends it, and no more than the longest that could be right.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import uvicorn

from fedlite.deployment.heads import BoundedHeads, Listener
from fedlite.inference.bundle import Bundle
from fedlite.inference.serving import asking, protocol
from fedlite.inference.serving.doors import Door
from fedlite.inference.serving.gate import WHO, Gate
from fedlite.inference.serving.refused import Refused
from fedlite.inference.serving.service import Service

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
# What is asked by GET, and which method of gRPC that is; {} stands for a name.
_ASKED = {
    "/v2/health/live": "ServerLive",
    "/v2/health/ready": "ServerReady",
    "/v2": "ServerMetadata",
}
_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/infer)?")
# A number in JSON has up to 25 characters; a character of a text up to six for its two bytes.
_NUMBER, _TEXT = 32, 3
# A text; one that does not end goes to the end, so that none is looked through twice.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
# Commas and brackets of a request around its rows.
_AROUND = 256
# Seconds in which a body must come, and more for so many of its bytes; for an answer.
_PATIENCE, _SLOWEST, _SECONDS = 10.0, 100_000, 60.0
_DEEPEST, _OUTPUTS = 16, 16
# Connections beyond those that are answered, which are told so; who comes after them is hung up on.
_TOLD = 32
# Milliseconds for which a client may leave unread what was sent.
_UNREAD = 30_000


def longest(bundle: Bundle, rows: int) -> int:
    """Return how many bytes the body of a request of so many rows may have."""
    message = asking.longest(bundle, rows)
    return _TEXT * message if bundle.reads_texts else _NUMBER * message // 10


def most_values(bundle: Bundle, rows: int) -> int:
    """Return how many commas and brackets the JSON of so many rows may have, around it included.

    Each becomes an object of up to 72 bytes, of which an empty list needs three bytes of a body.

    >>> from types import SimpleNamespace
    >>> flat = SimpleNamespace(shape=(64,), numbers=64, reads_texts=False)
    >>> most_values(flat, 3) - most_values(flat, 2)
    66
    """
    shape = () if bundle.reads_texts else bundle.shape
    lists = sum(math.prod(shape[:deep]) for deep in range(len(shape)))
    return rows * (bundle.numbers + 2 * max(1, lists)) + _AROUND


class _Call:
    """What the service asks of a call."""

    def time_remaining(self) -> float:
        """Return for how long somebody waits, in seconds."""
        return _SECONDS


class _Gone(Exception):
    """The client has hung up."""


class Rest:
    """An ASGI application. most, values: bytes of a body, and commas and brackets in it."""

    def __init__(self, service: Service, gate: Gate, most: int, values: int) -> None:
        """Take the service that answers, and the gate that knows who may ask."""
        self._service, self._gate = service, gate
        self._most, self._values = most, values

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            status, told = await self._answer(scope, receive)
        except Refused as refusal:
            status, told = _STATUS[refusal.code], {"error": refusal.text}
        except _Gone:
            return
        body = json.dumps(told).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if status >= 400:
            # What is left of the request's body is not read.
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Mapping[str, Any], receive: Receive) -> tuple[int, Any]:
        method, name, version = _asked(scope["method"], scope["path"])
        headers = {key.decode("latin-1"): value for key, value in scope["headers"]}
        shown = headers.get("authorization", b"").decode("latin-1")
        WHO.set(self._gate.known(f"/{protocol.INFERENCE}/{method}", [("authorization", shown)]))
        kind = protocol.classes(protocol.INFERENCE)[method][0]
        if method == "ModelInfer":
            return 200, await self._infer(name, version, headers, receive)
        asked = kind(name=name, version=version) if name else kind()
        found = await self._service.call(method, asked, _Call())
        if method in ("ServerLive", "ServerReady", "ModelReady"):
            good = found.live if method == "ServerLive" else found.ready
            return 200 if good else 503, {"live" if method == "ServerLive" else "ready": good}
        return 200, _metadata(found)

    async def _infer(
        self, name: str, version: str, headers: Mapping[str, bytes], receive: Receive
    ) -> dict[str, Any]:
        try:
            if "inference-header-content-length" in headers:
                raise _wrong(
                    "body: must be JSON alone; binary tensors are for gRPC (binary_data=False)"
                )
            if headers.get("content-encoding", b"identity") != b"identity":
                raise _wrong("body: must not be packed; nothing is unpacked here")
            body = await _read(receive, self._most)
            # JSON takes time, in which others are answered; one at a time, as it takes room, too.
            made = await self._service.aside(_request, name, version, body, self._values)
            del body
        except Refused as refusal:
            # What is no request is counted as over gRPC; the others are when they are answered.
            self._service.unread("ModelInfer", refusal)
            raise
        work = asyncio.ensure_future(self._service.call("ModelInfer", made, _Call()))
        left = asyncio.ensure_future(receive())
        try:
            await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise _Gone
            return _response(work.result())
        finally:
            work.cancel()
            left.cancel()


def _asked(how: str, path: str) -> tuple[str, str, str]:
    """Return the method of gRPC that a path stands for, and the model's name and version."""
    found = _MODEL.fullmatch(path)
    what = found[3] if found else None
    method = _ASKED.get(path.rstrip("/"), "")
    if found:
        method = {None: "ModelMetadata", "/ready": "ModelReady", "/infer": "ModelInfer"}[what]
    if not method or how != ("POST" if what == "/infer" else "GET"):
        raise Refused("NOT_FOUND", f"path: must be one of the protocol's, got {how} {path!r:.80}")
    return method, (found[1] if found else ""), (found[2] or "" if found else "")


async def _read(receive: Receive, most: int) -> bytes:
    """Return a body of at most so many bytes, that comes in time."""
    found = bytearray()
    until = asyncio.get_running_loop().time() + _PATIENCE
    more = True
    while more:
        try:
            async with asyncio.timeout_at(until + len(found) / _SLOWEST):
                message = await receive()
        except TimeoutError:
            raise Refused("DEADLINE_EXCEEDED", "body: comes too slowly") from None
        if message["type"] != "http.request":
            raise _Gone
        found += message.get("body", b"")
        if len(found) > most:
            rule = f"body: must have at most {most} bytes; send it in parts"
            raise Refused("RESOURCE_EXHAUSTED", rule)
        more = message.get("more_body", False)
    return bytes(found)


def _bound(body: bytes, values: int) -> None:
    """Raise Refused where JSON has more commas and brackets outside of texts than `values`."""

    def found(text: bytes) -> int:
        return sum(map(text.count, (b",", b"[", b"{")))

    # Those in texts count only where they would be too many, as that takes a copy.
    if found(body) > values and found(_STRING.sub(b"", body)) > values:
        raise _wrong("body: has more values than its rows need; send what the shape says, once")


def _request(name: str, version: str, body: bytes, values: int) -> Any:
    """Return the message of gRPC that says what a body of JSON does; raises Refused."""
    _bound(body, values)
    try:
        # Of bytes Python would take UTF-16, too, in which quotes and commas are counted wrongly.
        told = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise _wrong("body: must be JSON in UTF-8") from None
    inputs, outputs = (_list(told, key) for key in ("inputs", "outputs"))
    if len(inputs) != 1:
        raise _wrong(f"inputs: must be one tensor called {asking.INPUT!r}, got {len(inputs)}")
    if len(outputs) > _OUTPUTS:
        raise _wrong(f"outputs: must be at most {_OUTPUTS}, got {len(outputs)}; name each once")
    made = protocol.message("inference.ModelInferRequest")(
        model_name=name, model_version=version, id=_text(told, "id")
    )
    missing = told.get("parameters", {})
    missing = missing.get("missing") if isinstance(missing, dict) else None
    if isinstance(missing, bool):
        made.parameters["missing"].bool_param = missing
    elif missing is not None:
        raise _wrong("parameters.missing: must be true or false")
    (given,) = inputs
    shape = given.get("shape")
    if not isinstance(shape, list) or len(shape) > _DEEPEST or not all(map(_size, shape)):
        raise _wrong("x: shape must be a list of whole numbers")
    kind = _text(given, "datatype")
    tensor = made.inputs.add(name=_text(given, "name"), datatype=kind, shape=shape)
    _fill(tensor.contents, kind, given.get("data"))
    for output in outputs:
        made.outputs.add(name=_text(output, "name"))
    return made


def _fill(contents: Any, kind: str, data: Any) -> None:
    """Put the data of a tensor, in lists within lists, into typed contents."""
    flat: list[Any] = []
    _flatten(data, flat, 0)
    there = set(map(type, flat))
    if kind == "BYTES":
        if there - {str}:
            raise _wrong("x: data must be texts for BYTES")
        try:
            contents.bytes_contents.extend(one.encode() for one in flat)
        except UnicodeEncodeError:
            raise _wrong("x: data must be Unicode, and has half a character") from None
        return
    dtype, field = asking.TYPES.get(kind, ("", ""))
    right = {int, float} if kind.startswith("FP") else {bool} if kind == "BOOL" else {int}
    if not field or there - right:
        raise _wrong("x: data must be numbers of its datatype, FP32 or FP64, and no FP16")
    try:
        # What is beyond FP32 becomes infinite, and is refused as such.
        with np.errstate(over="ignore"):
            getattr(contents, field).extend(np.array(flat, dtype).tolist())
    except (OverflowError, ValueError):
        raise _wrong(f"x: data must hold numbers that fit into {kind}") from None


def _flatten(data: Any, found: list[Any], depth: int) -> None:
    if not isinstance(data, list) or depth > _DEEPEST:
        raise _wrong(f"x: data must be a list, of lists at most {_DEEPEST} deep")
    for one in data:
        if isinstance(one, list):
            _flatten(one, found, depth + 1)
        else:
            found.append(one)


def _response(found: Any) -> dict[str, Any]:
    return {
        "model_name": found.model_name,
        "model_version": found.model_version,
        "id": found.id,
        "outputs": [
            {
                "name": one.name,
                "datatype": one.datatype,
                "shape": list(one.shape),
                "data": _values(one),
            }
            for one in found.outputs
        ],
    }


def _values(tensor: Any) -> list[Any]:
    ((_, values),) = tensor.contents.ListFields()
    return [one.decode() if isinstance(one, bytes) else one for one in values]


def _metadata(found: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"name": found.name}
    if hasattr(found, "extensions"):
        return told | {"version": found.version, "extensions": list(found.extensions)}
    for side in ("inputs", "outputs"):
        told[side] = [
            {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}
            for one in getattr(found, side)
        ]
    return told | {"versions": list(found.versions), "platform": found.platform}


def _list(told: Any, key: str) -> list[dict[str, Any]]:
    found = told.get(key, []) if isinstance(told, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _wrong(f"{key}: must be a list of objects")
    return found


def _text(told: Mapping[str, Any], key: str) -> str:
    found = told.get(key, "")
    try:
        if isinstance(found, str) and found.encode() is not None:
            return found
    except UnicodeEncodeError:
        pass
    raise _wrong(f"{key}: must be a text")


def _size(value: Any) -> bool:
    return type(value) is int and -1 <= value < 1 << 40


def _wrong(text: str) -> Refused:
    return Refused("INVALID_ARGUMENT", text)


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Capture none."""
        yield


@asynccontextmanager
async def listening(app: Rest, door: Door, port: int, calls: int) -> AsyncIterator[int]:
    """Serve the application at a port of a door until the context is left; give the port.

    calls: connections at once. Raises ValueError where the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in door.host else socket.AF_INET
    try:
        bound = socket.create_server((door.host, port), family=family)
    except OSError as error:
        why = f"cannot be listened on at {door.host} ({error.strerror}); choose another"
        raise ValueError(f"--http {port}: {why}") from None
    # A client that reads nothing would else hold its connection, and what was sent, for ever.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD)
    config = uvicorn.Config(
        app,
        http=BoundedHeads,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        limit_concurrency=calls,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
        ssl_certfile=door.cert,
        ssl_keyfile=door.key,
    )
    server = _Server(config)
    listener = Listener(bound, calls + _TOLD)
    task = asyncio.ensure_future(server.serve([listener]))
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await task
