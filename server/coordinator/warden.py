"""What stands before Flower's SuperLink, in its own process: no byte of a body passes it unasked.

Flower's control and runtime interfaces have no authentication, and its sites' interface reads a
whole body before it looks at who sends it. So every request must show one of two secrets
(`secret`). The coordinator's own opens everything. The gateway's opens twelve paths, and there a
request must be signed by an approved site and be short enough before its body is read.

Started as Flower's own `flower-superlink`, with the same options. Everything imported from `flwr`
below is private to Flower 1.41, which the project pins.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import uvicorn
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.http_logging import get_uvicorn_log_config
from flwr.supercore.logger import console_handler
from flwr.superlink.cli.flower_superlink import (
    SuperLinkLifespan,
    _parse_superlink_lifespan_config,
)
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet import node_auth

from fedlite.deployment.heads import BoundedHeads
from fedlite.inference.announcement import PART_BYTES
from server.coordinator import bodies, known, released, secret
from server.coordinator.folder import Coordinator
from server.coordinator.gateway import SITES
from server.coordinator.known import Known, Sites, Unauthenticated
from server.coordinator.launcher import HEADER
from server.coordinator.refusals import Refusals
from server.deployment import from_environment

Scope = Mapping[str, Any]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, bodies.Receive, Send], Awaitable[None]]

_ACTIVATE = "activate-node"


class Refused(Exception):
    """A request that goes no further. rule: why, in a word, for the record."""

    def __init__(self, status: int, rule: str, said: Mapping[str, Any] | None = None) -> None:
        """Keep the HTTP status, and what is said beside it."""
        super().__init__(rule)
        self.status, self.rule = status, rule
        self.said = said or {"detail": f"refused: {rule}"}


class Warden:
    """An ASGI application around the SuperLink's."""

    def __init__(self, app: App, coordinator: Coordinator) -> None:
        """Read both secrets and the approved sites; raises ValueError where they are not there."""
        message_bytes = coordinator.settings.message_bytes
        self._app = app
        self._own = secret.read(coordinator.control_secret).encode()
        self._gateway = secret.read(coordinator.sites_secret).encode()
        self._sites = Sites(coordinator.path)
        self._limits = bodies.limits(tuple(SITES.values()), message_bytes)
        self._parts = bodies.parts(message_bytes)
        self._room = bodies.Room()
        self._refusals = Refusals(coordinator.refusals)
        self._releases = coordinator.releases

    async def __call__(self, scope: Scope, receive: bodies.Receive, send: Send) -> None:
        """Answer one request, or let Flower do it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            shown = [value for name, value in scope["headers"] if name == HEADER.encode()]
            if len(shown) != 1:
                raise Refused(403, "the secret is not shown")
            if hmac.compare_digest(shown[0], self._own):
                await self._app(scope, receive, send)
            elif hmac.compare_digest(shown[0], self._gateway):
                await self._site(scope, receive, send)
            else:
                raise Refused(403, "the secret is another")
        except Refused as refused:
            await _answer(send, refused)

    async def _site(self, scope: Scope, receive: bodies.Receive, send: Send) -> None:
        """Let Flower answer a request of an approved site."""
        self._refusals.write()
        path, headers = _path(scope), _headers(scope)
        try:
            signer = self._sites.signer(headers)
        except Unauthenticated:
            raise Refused(401, "not signed") from None
        if signer is None:
            raise _stranger(path, "not approved")
        length = headers.get("content-length", "")
        try:
            async with AsyncExitStack() as held:
                body = await self._body(held, signer, path, length, receive)
                if path in released.PATHS:
                    await self._released(held, signer, path, body, send)
                else:
                    await self._app(scope, _given(body, receive), send)
        except bodies.Gone:
            return
        except Refused as refused:
            announced = int(length) if length.isdigit() else 0
            self._refusals.add(signer.site, path, refused.rule, announced)
            raise

    async def _released(
        self, held: AsyncExitStack, signer: Known, path: str, body: bytes, send: Send
    ) -> None:
        """Answer what a site asks of released bundles; the answer holds room in `held`."""
        try:
            await held.enter_async_context(self._room.body(signer.site, PART_BYTES))
        except bodies.NoRoom:
            raise Refused(503, "no-room") from None
        said = await asyncio.to_thread(released.answer, self._releases, path, body)
        await _say(send, 200, said, (b"content-type", b"application/octet-stream"))

    async def _body(
        self,
        held: AsyncExitStack,
        signer: Known,
        path: str,
        length: str,
        receive: bodies.Receive,
    ) -> bytes:
        """Return the body of a site's request, which holds room in `held`; raises Refused."""
        if signer.revoked:
            raise _stranger(path, "revoked")
        if not length.isascii() or not length.isdigit():
            raise Refused(411, "no-length")
        if int(length) > self._limits[path]:
            raise Refused(413, "too-long")
        try:
            held.enter_context(self._room.request(signer.site))
            await held.enter_async_context(self._room.body(signer.site, int(length)))
            body = await bodies.read(receive, int(length))
        except bodies.TooMany:
            raise Refused(429, "too-many-at-once") from None
        except bodies.NoRoom:
            raise Refused(503, "no-room") from None
        except TimeoutError:
            raise Refused(408, "too-slow") from None
        if path == "push-messages":
            try:
                parts = bodies.announced(body)
            except bodies.NotItsReply:
                raise Refused(403, "not-its-reply") from None
            if parts > self._parts:
                raise Refused(413, "too-many-parts")
        return body


def _path(scope: Scope) -> str:
    """Return which of the sites' paths a request is for; raises Refused for any other."""
    path: str = scope["path"]
    plain = scope["raw_path"] == path.encode() and not scope["query_string"]
    if not plain or path not in SITES or scope["method"] != "POST":
        raise Refused(403, "not a path of sites")
    return SITES[path]


def _headers(scope: Scope) -> dict[str, str]:
    """Return a request's headers; one that comes twice is left out, as nobody knows which holds."""
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return {name: values[0] for name, values in found.items() if len(values) == 1}


def _stranger(path: str, rule: str) -> Refused:
    """Return what Flower says to a key that it does not know."""
    if path != _ACTIVATE:
        return Refused(401, rule)
    code = ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED
    spec = API_ERROR_MAP[code]
    said = FlowerError(code, "").to_json(spec.public_message)
    return Refused(spec.http_status_code, rule, said)


def _given(body: bytes, receive: bodies.Receive) -> bodies.Receive:
    """Return what hands a body that was read to the application."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Any:
        return waiting.pop() if waiting else await receive()

    return given


async def _answer(send: Send, refused: Refused) -> None:
    # What is left of the request's body is not read.
    close = (b"connection", b"close")
    said = json.dumps(refused.said).encode()
    await _say(send, refused.status, said, (b"content-type", b"application/json"), close)


async def _say(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    told = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Run the SuperLink with its warden; `flower-superlink` and its options are the arguments."""
    sys.argv = sys.argv[1:]
    deployment = from_environment()
    if deployment is None:
        raise SystemExit("the SuperLink is started by fedlite server start")
    setattr(node_auth, "verify_signature", known.verified)  # noqa: B010
    config = _parse_superlink_lifespan_config()
    app = create_app(config, SuperLinkLifespan)
    uvicorn.run(
        Warden(app, Coordinator.open(deployment.root)),
        host=config.host,
        port=config.port,
        workers=1,
        http=BoundedHeads,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=get_uvicorn_log_config(console_handler.level),
        ssl_certfile=config.ssl_certfile,
        ssl_keyfile=config.ssl_keyfile,
    )
