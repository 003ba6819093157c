"""What is decided of a call before anything of its message is read: who, may he, how often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from fedlite.inference.serving import protocol
from fedlite.inference.serving.refused import Refused
from fedlite.inference.serving.tokens import ROLES, Tokens

# Whose call it is, where it is answered. Without tokens everybody is the same.
WHO: ContextVar[str] = ContextVar("who", default="")
ANYBODY = "anybody"

_HEALTH = "/grpc.health.v1.Health/"
# What probes ask: it tells that the server is there, and nothing else.
_OPEN = frozenset(
    (f"{_HEALTH}Check", f"/{protocol.INFERENCE}/ServerLive", f"/{protocol.INFERENCE}/ServerReady")
)
_ROLES: dict[str, tuple[str, ...]] = {
    f"/{protocol.INFERENCE}/ModelInfer": ("client",),
    f"/{protocol.OPERATION}/Feedback": ("client",),
    f"/{protocol.OPERATION}/Status": ("operator", "auditor"),
    f"/{protocol.OPERATION}/Log": ("auditor",),
    f"/{protocol.OPERATION}/Reset": ("operator",),
    f"/{protocol.OPERATION}/Withdraw": ("operator",),
}
_BEARER = "bearer "
# Of what anybody may ask: seconds in which its message must come, and calls that wait for theirs.
_PROMPT, _WAITING = 2.0, 32


class Bucket:
    """A bucket of so many calls that fills again at `rate` a second.

    >>> bucket = Bucket(2.0, at=0.0)
    >>> [bucket.take(now) for now in (0.0, 0.0, 0.0, 0.5)]
    [True, True, False, True]
    """

    def __init__(self, rate: float, at: float) -> None:
        """Begin full, with a second's calls and one at least."""
        self.rate, self.most = rate, max(1.0, rate)
        self._left, self._at = self.most, at

    def take(self, now: float) -> bool:
        """Return whether there is one more; now: seconds of a clock that never goes back."""
        self._left = min(self.most, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets through who has a token for what he asks, and asks it not too often.

    tokens: None: anybody may ask anything. rate: calls a second for each name; 0: any number.
    refused: told of each call that is refused, by name and code.
    """

    def __init__(
        self, tokens: Tokens | None, rate: float, refused: Callable[[str, str, str], None]
    ) -> None:
        """Raise ValueError for a rate below 0."""
        if not 0 <= rate <= 1e6:
            raise ValueError(f"--rate: must be from 0 to 1000000, got {rate}")
        self._tokens, self._rate, self._refused = tokens, rate, refused
        self._buckets: dict[str, Bucket] = {}
        # Messages of probes that have not come yet, the oldest first.
        self._messages: dict[asyncio.Future[Any], None] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Return what answers the call."""
        method = str(handler_call_details.method)
        try:
            name = self.known(method, handler_call_details.invocation_metadata or ())
        except Refused as refusal:
            return _refusal(refusal)
        WHO.set(name)
        handler = await continuation(handler_call_details)
        return self._prompt(handler) if method in _OPEN else handler

    def _prompt(self, handler: Any) -> Any:
        """Return a handler that answers as another, and does not wait long for the message.

        Whoever has no token could else hold every call that may be under way. Where too many
        wait, the oldest goes: a probe sends its message at once, and so is never that.
        """

        async def answer(messages: Any, context: Any) -> Any:
            message = asyncio.ensure_future(anext(aiter(messages), None))
            self._messages[message] = None
            try:
                if len(self._messages) > _WAITING:
                    oldest = next(iter(self._messages))
                    del self._messages[oldest]
                    oldest.cancel()
                await asyncio.wait((message,), timeout=_PROMPT)
                came = message.done() and not message.cancelled()
            finally:
                self._messages.pop(message, None)
                message.cancel()
            request = message.result() if came else None
            if request is None:
                text = f"message: must come at once, within {_PROMPT:g} seconds at most"
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text)
            return await handler.unary_unary(request, context)

        return grpc.stream_unary_rpc_method_handler(
            answer, handler.request_deserializer, handler.response_serializer
        )

    def known(self, method: str, sent: Any) -> str:
        """Return whose call it is, by its method and headers; raises Refused."""
        if method in _OPEN:
            return ""
        name, role = ANYBODY, ""
        if self._tokens is not None:
            found = self._tokens.who(_token(sent))
            if found is None:
                raise self._no("", method, "UNAUTHENTICATED", "token: is of nobody here, or over")
            name, role = found[0], found[1].role
            if role not in _ROLES.get(method, ROLES):
                wanted = " or ".join(_ROLES[method])
                text = f"{method.rpartition('/')[2]}: is for the role {wanted}, and {name} is "
                raise self._no(name, method, "PERMISSION_DENIED", text + role)
        if self._rate and not self._bucket(name).take(time.monotonic()):
            text = f"rate: at most {self._rate:g} calls a second for {name}; come back later"
            raise self._no(name, method, "RESOURCE_EXHAUSTED", text)
        return name

    def _bucket(self, name: str) -> Bucket:
        found = self._buckets.get(name)
        if found is None:
            # Names of a file, so there are no more than in all its versions.
            found = self._buckets[name] = Bucket(self._rate, time.monotonic())
        return found

    def _no(self, name: str, method: str, code: str, text: str) -> Refused:
        self._refused(name, method.rpartition("/")[2][:64], code)
        return Refused(code, text)


def _token(sent: Any) -> str:
    for key, value in sent:
        if key == "authorization" and isinstance(value, str):
            return value[len(_BEARER) :] if value[: len(_BEARER)].lower() == _BEARER else ""
    return ""


def _refusal(refusal: Refused) -> Any:
    async def refuse(_: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode[refusal.code], refusal.text)

    # Of a stream, so that no message is waited for, whatever the method is.
    return grpc.stream_unary_rpc_method_handler(refuse)
