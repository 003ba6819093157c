"""The methods of a server: what each call does, counts and writes down."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import numpy as np

from fedlite import __version__
from fedlite.inference.bundle import Bundle
from fedlite.inference.serving import asking, protocol, wire
from fedlite.inference.serving.batcher import Batcher, Limits
from fedlite.inference.serving.cache import Cache
from fedlite.inference.serving.figures import Figures
from fedlite.inference.serving.gate import WHO
from fedlite.inference.serving.keeping import Keeping
from fedlite.inference.serving.refused import Refused
from fedlite.inference.serving.turns import Turns
from fedlite.inference.serving.versions import Version, Versions, Work

log = logging.getLogger("fedlite.serving")
Handler = Callable[[Any, Any], Awaitable[Any]]
_LONGEST_WHY = 200
_FAULT = "server: could not answer; its operator finds why in its log"
# Of a message, beside one for each row.
_FIELDS = 256
# Of requests of texts that are under way at once, in bytes.
_TEXTS_BYTES = 64 << 20


@dataclass(frozen=True)
class _Served:
    """What a request came to, for the log."""

    answer: Any
    version: str
    rows: int
    early: int


class Service:
    """Everything that is answered, but for health and reflection. name: of the model."""

    def __init__(
        self,
        name: str,
        versions: Versions,
        limits: Limits,
        keeping: Keeping,
        cache: Cache,
        apart: bool = True,
    ) -> None:
        """Take the running event loop. apart: whether clients are known by name."""
        self._apart = apart
        self.name, self.versions, self.limits = name, versions, limits
        self.keeping, self.cache, self.figures = keeping, cache, Figures()
        self.batcher = Batcher(versions.run, limits, versions.look)
        self.turns = Turns(_TEXTS_BYTES)
        self.ready = True
        self.under_way = 0
        self._responses = {
            method: response
            for service in (protocol.INFERENCE, protocol.OPERATION)
            for method, (_, response) in protocol.classes(service).items()
        }

    def close(self) -> None:
        """End what computes once it is done."""
        self.turns.close()
        self.batcher.close()

    async def call(self, method: str, request: Any, context: Any) -> Any:
        """Return what a method of the Open Inference Protocol answers; raises Refused.

        context: its `time_remaining` says how long somebody waits.
        """
        try:
            return await getattr(self, f"_{method}")(request, context)
        except (Refused, asyncio.CancelledError):
            raise
        except Exception:
            # What went wrong inside is for the operator; nobody else learns of it.
            log.exception("a call could not be answered")
            raise Refused("INTERNAL", _FAULT) from None

    async def aside(self, function: Callable[..., Any], *given: Any) -> Any:
        """Return what a function returns that takes some time, called in a thread, in turn."""
        return await self.turns.run(WHO.get(), function, *given)

    def handlers(self) -> list[Any]:
        """Return what gRPC registers."""
        found = []
        for service in (protocol.INFERENCE, protocol.OPERATION):
            each = {
                name: grpc.unary_unary_rpc_method_handler(
                    self._guarded(name),
                    request_deserializer=partial(self._read, request),
                    response_serializer=response.SerializeToString,
                )
                for name, (request, response) in protocol.classes(service).items()
            }
            found.append(grpc.method_handlers_generic_handler(service, each))
        return found

    def _read(self, kind: Any, data: bytes) -> Any:
        """Return a message, or the refusal of one of which more would become than it is worth."""
        try:
            numbers = self.versions.current.bundle.numbers * self.limits.request + _FIELDS
            wire.bound(data, kind.DESCRIPTOR, self.limits.request + _FIELDS, numbers)
        except Refused as refusal:
            return refusal
        return kind.FromString(data)

    def _guarded(self, method: str) -> Handler:
        async def guarded(request: Any, context: Any) -> Any:
            try:
                if isinstance(request, Refused):
                    self.unread(method, request)
                    raise request
                return await self.call(method, request, context)
            except Refused as refusal:
                await context.abort(grpc.StatusCode[refusal.code], refusal.text)

        return guarded

    def _model(self, name: str, version: str) -> Version | None:
        """Return the version that is named, None where any will do; raises Refused."""
        if name != self.name:
            raise Refused("NOT_FOUND", f"model: must be {self.name!r}, got {name!r:.80}")
        return self.versions.choose(version) if version else None

    async def _ServerLive(self, _: Any, __: Any) -> Any:
        return self._responses["ServerLive"](live=True)

    async def _ServerReady(self, _: Any, __: Any) -> Any:
        return self._responses["ServerReady"](ready=self.ready)

    async def _ModelReady(self, request: Any, _: Any) -> Any:
        self._model(request.name, request.version)
        return self._responses["ModelReady"](ready=self.ready)

    async def _ServerMetadata(self, _: Any, __: Any) -> Any:
        return self._responses["ServerMetadata"](name="fedlite", version=__version__)

    async def _ModelMetadata(self, request: Any, _: Any) -> Any:
        version = self._model(request.name, request.version) or self.versions.current
        names = tuple(one.name for one in self.versions.all())
        return asking.metadata(version.bundle, self.name, names)

    async def _ModelInfer(self, request: Any, context: Any) -> Any:
        started = time.perf_counter()
        code, served = "INTERNAL", None
        self.under_way += 1
        try:
            served = await self._infer(request, context)
            code = "OK"
        except Refused as refusal:
            code = refusal.code
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            self.under_way -= 1
            seconds = time.perf_counter() - started
            self.figures.took(seconds, code)
            self._write(request, served, seconds, code)
        return served.answer

    async def _infer(self, request: Any, context: Any) -> _Served:
        if not self.ready:
            raise Refused("UNAVAILABLE", "server: is stopping; ask another")
        version = self._model(request.model_name, request.model_version)
        named, version = version is not None, version or self.versions.choose("")
        if version.bundle.reads_texts:
            ask = await self._texts(request, version.bundle)
        else:
            ask = asking.read(request, version.bundle, self.limits.request)
        if not request.id:
            request.id = secrets.token_hex(8)
        who = WHO.get()
        # Both are looked up before it is waited for an answer, which an alarm may overtake.
        deep = version.deep
        key = self.cache.key(who, f"{version.name} {deep}", ask.inputs)
        answers = self.cache.get(key)
        if answers is None:
            work = Work(ask.inputs, version, (who, request.id), named)
            seconds, client = context.time_remaining(), who if self._apart else None
            answers = await self.batcher.submit(work, len(ask.inputs), seconds, client)
            # A reset may overtake it, too: the next alarm must find no early answer here.
            if work.version is version and not (deep and answers.early.any()):
                self.cache.put(key, answers)
            version = work.version
        else:
            self.figures.hits += 1
        made = asking.response(request, ask, version.bundle, version.name, answers)
        return _Served(made, version.name, len(answers), int(answers.early.sum()))

    async def _texts(self, request: Any, bundle: Bundle) -> asking.Ask:
        """Return a request of texts, read a piece at a time: others have theirs in between."""
        with self.turns.holding(request.ByteSize(), WHO.get() if self._apart else None):
            given = await self.aside(asking.given, request, bundle, self.limits.request)
            parts = [
                await self.aside(asking.prepared, bundle, piece, given.missing)
                for piece in asking.pieces(given.x)
            ]
        return asking.Ask(np.concatenate(parts), given.outputs, given.raw)

    def _write(self, request: Any, served: _Served | None, seconds: float, code: str) -> None:
        """Add the request to the log; one that cannot be written down is not answered."""
        try:
            self.keeping.request(
                client=WHO.get(),
                id=request.id[:128],
                version="" if served is None else served.version,
                rows=0 if served is None else served.rows,
                early=0 if served is None else served.early,
                ms=round(1000 * seconds, 3),
                code=code,
            )
        except OSError as error:
            log.error("the log of requests cannot be written: %s", error)
            if served is not None:
                text = "server: cannot write its log, so it answers nothing; tell its operator"
                raise Refused("UNAVAILABLE", text) from None

    def unread(self, method: str, refusal: Refused) -> None:
        """Count what is no request, and add it to the log: who sends it is known."""
        self.figures.codes[refusal.code] += 1
        try:
            self.keeping.request(client=WHO.get(), refused=method, times=1, code=refusal.code)
        except OSError as error:
            log.error("the log of requests cannot be written: %s", error)

    async def _Feedback(self, request: Any, _: Any) -> Any:
        labels = list(request.labels)
        if not 1 <= len(labels) <= self.limits.request:
            rule = f"must be from 1 to {self.limits.request}, got {len(labels)}"
            raise Refused("INVALID_ARGUMENT", f"labels: {rule}")
        taken = self.versions.feedback((WHO.get(), request.id), labels)
        return self._responses["Feedback"](taken=taken)

    async def _Status(self, _: Any, __: Any) -> Any:
        return self._responses["Status"](json=json.dumps(self.status()))

    async def _Reset(self, request: Any, _: Any) -> Any:
        why = _why(request.why)
        with self.versions.lock:
            # Of a version that is not served now, nobody has looked at the alarm. What cannot be
            # kept ends no alarm.
            served = {one.name for one in self.versions.all()}
            before = self.keeping.state
            try:
                self.keeping.remember(deep=[one for one in before["deep"] if one not in served])
            except OSError:
                self.keeping.state = before
                raise
            names = self.versions.reset()
        self.cache.clear()
        told = {"by": WHO.get(), "why": why, "versions": ", ".join(names)}
        self.keeping.happened("reset", told)
        return self._responses["Reset"](json=json.dumps(self.status()))

    async def _Withdraw(self, request: Any, _: Any) -> Any:
        why = _why(request.why)
        if self.versions.candidate is None:
            raise Refused("FAILED_PRECONDITION", "withdraw: there is no candidate")
        self.versions.withdraw(why, {"by": WHO.get()})
        return self._responses["Withdraw"](json=json.dumps(self.status()))

    async def _Log(self, request: Any, _: Any) -> Any:
        if self.keeping.folder is None:
            raise Refused("FAILED_PRECONDITION", "log: is kept with --keep FOLDER only")
        lines = await asyncio.to_thread(self.keeping.last, request.last or 100)
        return self._responses["Log"](lines=lines)

    def status(self) -> dict[str, Any]:
        """Return how it goes, ready for JSON."""
        versions = self.versions
        with versions.lock:
            rows = [
                {
                    "version": one.name,
                    "bundle": str(one.bundle.directory),
                    "role": "current" if one is versions.current else "candidate",
                    "requests": one.requests,
                    "rows": one.rows,
                    "early": one.early,
                    "all_deep": one.deep,
                    "watched": None
                    if one.drift is None
                    else {
                        "seen": one.drift.seen,
                        "differed": one.drift.happened,
                        "limit": one.drift.limit,
                        "fired": one.drift.fired,
                    },
                }
                for one in versions.all()
            ]
            worse = versions.worse
            return {
                "model": self.name,
                "ready": self.ready,
                "versions": rows,
                "withdrawn": self.keeping.state["withdrawn"],
                "compared": versions.compared,
                "differed": versions.differed,
                "failed": versions.failed,
                "labelled": {"pairs": worse.pairs, "won": worse.won, "lost": worse.lost},
                "queue_rows": self.batcher.waiting,
                "codes": dict(self.figures.codes),
            }


def _why(given: str) -> str:
    if not 1 <= len(given) <= _LONGEST_WHY or not given.isprintable():
        text = f"why: must be 1 to {_LONGEST_WHY} printable characters, for the journal"
        raise Refused("INVALID_ARGUMENT", text)
    return given
