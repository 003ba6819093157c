"""A server from its start to its end: gRPC's own, the figures' port, and leaving in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from fedlite.deployment import prometheus
from fedlite.inference.bundle import Bundle
from fedlite.inference.serving import asking, protocol, rest
from fedlite.inference.serving.batcher import Limits
from fedlite.inference.serving.cache import Cache
from fedlite.inference.serving.doors import Door
from fedlite.inference.serving.gate import Gate
from fedlite.inference.serving.keeping import Keeping
from fedlite.inference.serving.service import Service
from fedlite.inference.serving.tokens import Tokens
from fedlite.inference.serving.versions import Mix, Version, Versions

log = logging.getLogger("fedlite.serving")
# Calls that are under way at once, fewer where their longest messages together had more bytes.
_CALLS, _FEWEST, _BYTES = 1024, 16, 2**30
# How often what was refused is written down, which strangers could else make fill the disk.
_REFUSED_SECONDS = 1.0


@dataclass(frozen=True)
class Options:
    """How bundles are served. name: of the model; empty: as its scenario was called.

    rate: calls a second for each name; 0: any. cache: requests whose answers are kept. keep: the
    folder of the log. metrics: IP:PORT of the figures; empty: none. http: the port of the REST form
    at the same door, 0: any free one; None: none. drain: seconds that calls under
    way have left when it stops. drift: the share of inputs that may be harmed; None: what the
    bundle promises.
    """

    door: Door = field(default_factory=Door)
    limits: Limits = field(default_factory=Limits)
    mix: Mix = field(default_factory=Mix)
    name: str = ""
    rate: float = 0.0
    cache: int = 0
    keep: Path | None = None
    metrics: str = ""
    http: int | None = None
    drain: float = 10.0
    drift: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be."""
        if not 0 <= self.drain <= 600:
            raise ValueError(f"--drain: must be from 0 to 600 seconds, got {self.drain}")
        if self.drift is not None and not 0 < self.drift < 1:
            raise ValueError(f"--drift: must be above 0 and below 1, got {self.drift}")
        if self.http is not None and not 0 <= self.http <= 65535:
            raise ValueError(f"--http: must be a port, from 0 to 65535, got {self.http}")


Tell = Callable[[str], None]


def serve(bundle: Bundle, candidate: Bundle | None, options: Options, tell: Tell) -> None:
    """Serve a bundle, and beside it a candidate, until SIGTERM or SIGINT.

    tell: gets a line for the person at the terminal, now and then. Raises ValueError for options
    that do not fit the bundles, and OSError where a port or a folder cannot be had.
    """
    asyncio.run(_serve(bundle, candidate, options, tell))


class _Refusals:
    """What the gate refuses, counted at once and written down once a second at most."""

    def __init__(self, keeping: Keeping, codes: Counter[str]) -> None:
        self._keeping, self._codes = keeping, codes
        self._since: Counter[tuple[str, str, str]] = Counter()
        self._at = 0.0

    def __call__(self, name: str, method: str, code: str) -> None:
        self._codes[code] += 1
        if len(self._since) < 1000:
            # Of strangers, who may name any method, only the number.
            self._since[name, method if name else "", code] += 1
        if time.monotonic() - self._at >= _REFUSED_SECONDS:
            self.write()

    def write(self) -> None:
        self._at = time.monotonic()
        for (name, method, code), times in self._since.items():
            try:
                self._keeping.request(client=name, refused=method, times=times, code=code)
            except OSError as error:
                log.error("the log of requests cannot be written: %s", error)
        self._since.clear()


async def _serve(bundle: Bundle, candidate: Bundle | None, options: Options, tell: Tell) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with served(bundle, candidate, options, tell):
        await stopped.wait()
        for number in (signal.SIGTERM, signal.SIGINT):
            # A second one ends it at once.
            loop.remove_signal_handler(number)
        _say(tell, "stopping")
    _say(tell, "stopped")


@asynccontextmanager
async def served(
    bundle: Bundle, candidate: Bundle | None, options: Options, tell: Tell
) -> AsyncIterator[tuple[int, Service]]:
    """Serve until the context is left, then stop in order; give the port and what answers."""
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    tokens = None if options.door.tokens is None else Tokens(options.door.tokens)
    keeping = Keeping(options.keep)
    with ExitStack() as left:
        left.callback(keeping.close)
        versions = _versions(bundle, candidate, options, keeping, tell)
        name = options.name or str(bundle.told.get("scenario", "")) or "model"
        limits = _within(options.limits, bundle, tell)
        apart = tokens is not None
        service = Service(name, versions, limits, keeping, Cache(options.cache), apart)
        left.callback(service.close)
        refusals = _Refusals(keeping, service.figures.codes)
        left.callback(refusals.write)
        left.callback(_figures(options, service))
        longest = asking.longest(bundle, limits.request)
        gate = Gate(tokens, options.rate, refusals)
        server = grpc.aio.server(
            interceptors=[gate],
            maximum_concurrent_rpcs=_at_once(longest),
            options=[
                ("grpc.max_receive_message_length", longest),
                # Else a second server would get a part of the requests of the first.
                ("grpc.so_reuseport", 0),
            ],
        )
        server.add_generic_rpc_handlers(service.handlers())
        probes = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(probes, server)
        await probes.set(protocol.INFERENCE, health_pb2.HealthCheckResponse.SERVING)
        _reflect(server)
        port = options.door.open(server)
        async with AsyncExitStack() as others:
            if options.http is not None:
                most = rest.longest(bundle, limits.request)
                app = rest.Rest(service, gate, most, rest.most_values(bundle, limits.request))
                opened = rest.listening(app, options.door, options.http, _at_once(most))
                http = await others.enter_async_context(opened)
                _say(tell, f"over HTTP at {options.door.host}:{http}")
            await server.start()
            _say(tell, f"serving {name} {versions.current.name} at {options.door.host}:{port}")
            try:
                yield port, service
            finally:
                await probes.enter_graceful_shutdown()
                await _drain(server, service, options.drain)


def _at_once(longest: int) -> int:
    """Return how many calls may be under way, of which the longest has so many bytes."""
    return max(_FEWEST, min(_CALLS, _BYTES // longest))


def _say(tell: Tell, line: str) -> None:
    """Tell a person; where nobody reads any more, what is done goes on."""
    try:
        tell(line)
    except OSError as error:
        log.error("could not be told: %s (%s)", line, error)


def _within(limits: Limits, bundle: Bundle, tell: Tell) -> Limits:
    """Return limits by which the longest messages together fit into memory.

    Raises ValueError where another number of rows was chosen than comes by itself.
    """
    most = asking.rows(bundle, _BYTES // _FEWEST)
    if limits.request <= most:
        return limits
    if most < 1 or limits.request != Limits().request:
        raise ValueError(
            f"--request-rows: must be at most {most} for inputs of this shape (rule: {_FEWEST} "
            f"messages take at most {_BYTES} bytes), got {limits.request}; "
            + ("lower it" if most else "serve a model of smaller inputs")
        )
    _say(tell, f"a request may have {most} rows, not {limits.request}: inputs are long")
    return replace(limits, request=most)


async def _drain(server: Any, service: Service, seconds: float) -> None:
    """Let calls under way end, for so long; new ones are refused from now on."""
    service.ready = False
    stopping = asyncio.ensure_future(server.stop(seconds))
    until = time.monotonic() + seconds
    while service.under_way and time.monotonic() < until:
        await asyncio.sleep(0.02)
    # What is still open are streams that wait for nothing, or calls that take too long.
    await server.stop(None)
    await stopping


def _versions(
    bundle: Bundle, candidate: Bundle | None, options: Options, keeping: Keeping, tell: Tell
) -> Versions:
    """Return the versions that may answer by what was kept of them."""
    current = Version.of(bundle, options.mix.alarm, options.drift)
    other = None
    if candidate is not None:
        other = Version.of(candidate, options.mix.alarm, options.drift)
        if other.name in keeping.state["withdrawn"]:
            _say(tell, f"candidate {other.name}: was withdrawn before, and takes no part")
            other = None
    for one in (current, other):
        if one is not None and one.name in keeping.state["deep"]:
            one.deep = True
            if one.drift is not None:
                one.drift.fired = True
            text = "all inputs go deep since an alarm, until `fedlite operate reset`"
            _say(tell, f"{one.name}: {text}")

    def happened(action: str, facts: dict[str, Any]) -> None:
        which = "deep" if action == "alarm" else "withdrawn"
        kept = keeping.state[which]
        try:
            keeping.remember(**{which: sorted({*kept, str(facts["version"])})})
            keeping.happened(action, facts)
        except OSError as error:
            log.error("%s could not be kept: %s", action, error)
        told = ", ".join(f"{name} {value}" for name, value in facts.items())
        _say(tell, f"{action}: {told}")

    return Versions(current, other, options.mix, happened)


def _reflect(server: Any) -> None:
    """Let clients ask which services there are, and how their messages are made."""
    from google.protobuf import descriptor_pb2
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

    names = [protocol.INFERENCE, protocol.OPERATION]
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        told = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(told)
        protocol.POOL.Add(told)
        names += [one.full_name for one in file.services_by_name.values()]
    servicer = reflection.aio.ReflectionServicer(names, pool=protocol.POOL)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)


def _figures(options: Options, service: Service) -> Callable[[], None]:
    """Serve the figures in a thread, and return what ends it."""
    if not options.metrics:
        return lambda: None
    stop = threading.Event()
    http = prometheus.listen(options.metrics, option="--metrics")
    thread = threading.Thread(
        target=prometheus.serve,
        args=(http, lambda: service.figures.metrics(service.versions, service.batcher), stop),
        daemon=True,
    )
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    return end
