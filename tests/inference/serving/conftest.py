"""A server in a thread of its own, and clients that others have written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest

from fedlite.inference.bundle import Bundle
from fedlite.inference.serving import protocol
from fedlite.inference.serving.doors import Door
from fedlite.inference.serving.server import Options, served
from fedlite.inference.serving.service import Service

pytest.importorskip("grpc_reflection")


@dataclass
class Live:
    """A server that runs. loop: its event loop, in another thread."""

    address: str
    service: Service
    loop: asyncio.AbstractEventLoop
    said: list[str] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None

    def ask(
        self,
        method: str,
        request: Any = None,
        *,
        token: str = "",
        timeout: float = 20.0,
        **fields: Any,
    ) -> Any:
        """Call one method over a channel of its own; raises grpc.RpcError."""
        service = (
            protocol.INFERENCE
            if method in protocol.methods(protocol.INFERENCE)
            else protocol.OPERATION
        )
        kind, response = protocol.classes(service)[method]
        sent = [("authorization", f"Bearer {token}")] if token else []
        with grpc.insecure_channel(self.address) as channel:
            call = channel.unary_unary(
                f"/{service}/{method}", lambda one: one.SerializeToString(), response.FromString
            )
            return call(
                kind(**fields) if request is None else request, timeout=timeout, metadata=sent
            )


def asked(x: np.ndarray, name: str = "routed", **fields: Any) -> Any:
    """Return a request of raw FP32 values."""
    request = protocol.message("inference.ModelInferRequest")(model_name=name, **fields)
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    request.raw_input_contents.append(x.astype("<f4").tobytes())
    return request


@contextmanager
def running(bundle: Bundle, candidate: Bundle | None = None, **options: Any) -> Iterator[Live]:
    loop, begun = asyncio.new_event_loop(), threading.Event()
    live: list[Live] = []
    failed: list[BaseException] = []
    said: list[str] = []
    over = asyncio.Event()

    async def run() -> None:
        try:
            given = Options(**{"door": Door(port=0), **options})
            async with served(bundle, candidate, given, said.append) as (port, service):
                stop = lambda: loop.call_soon_threadsafe(over.set)  # noqa: E731
                live.append(Live(f"127.0.0.1:{port}", service, loop, said, stop))
                begun.set()
                await over.wait()
        except BaseException as error:  # for the thread that waits
            failed.append(error)
        finally:
            begun.set()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    begun.wait(30)
    try:
        if failed:
            raise failed[0]
        yield live[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)
        loop.close()
    assert not thread.is_alive()
    if failed:
        raise failed[0]


@pytest.fixture
def start() -> Iterator[Callable[..., Live]]:
    """Give what starts a server that ends with the test."""
    with ExitStack() as stack:
        yield lambda *given, **options: stack.enter_context(running(*given, **options))
