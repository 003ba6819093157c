"""Attacks on a server of bundles that once worked.

Covers fedlite/inference/serving/gate.py, fedlite/inference/serving/calling.py.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from fedlite.inference.bundle import Bundle
from fedlite.inference.serving import calling, protocol, tokens
from fedlite.inference.serving.doors import Door
from tests.inference.serving.conftest import Live, asked

Start = Callable[..., Live]
X = np.full((2, 1, 8, 8), 0.5, np.float32)


def test_who_has_no_token_cannot_hold_the_calls_of_others(
    start: Start, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedlite.inference.serving.server._CALLS", 48)
    file = tmp_path / "tokens.toml"
    token = tokens.add(file, "ward", "client", 9)
    live = start(bundle, door=Door(port=0, tokens=file), drain=0.5)
    infer = f"/{protocol.INFERENCE}/ModelInfer"
    probes = ("/grpc.health.v1.Health/Check", f"/{protocol.INFERENCE}/ServerLive")

    async def attack() -> list[str]:
        async with grpc.aio.insecure_channel(live.address) as channel:
            # No message ever follows these.
            held = [channel.stream_unary(probes[at % 2])() for at in range(90)]
            await asyncio.sleep(0.5)
            assert sum(not call.done() for call in held) <= 32
            sent = asked(X).SerializeToString()
            by = [("authorization", f"Bearer {token}")]
            assert await channel.unary_unary(infer)(sent, timeout=5, metadata=by)
            for probe in probes:
                assert await channel.unary_unary(probe)(b"", timeout=5)
            found = []
            for call in held:
                found.append((await asyncio.wait_for(call.code(), 10)).name)
            return found

    found = asyncio.run(attack())
    assert set(found) <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    assert live.ask("ServerLive").live and not live.service.under_way


def test_a_token_is_not_sent_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    came: dict[str, bytes] = {"proxy": b"", "server": b""}

    def wait(name: str, door: socket.socket) -> None:
        door.settimeout(3)
        try:
            while True:
                with door.accept()[0] as line:
                    line.settimeout(0.5)
                    came[name] += line.recv(100)
        except OSError:
            return

    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.create_server(("", 0)) as server:
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setattr(calling, "_SECONDS", 1.0)
        doors = (("proxy", proxy), ("server", server))
        threads = [threading.Thread(target=wait, args=one) for one in doors]
        for thread in threads:
            thread.start()
        to = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RuntimeError):
            calling.call(to, "Status", token="secret")
        for thread in threads:
            thread.join()
    # Channels of other tests may knock there, too, but not for this address.
    assert came["server"].startswith(b"PRI") and to.encode() not in came["proxy"]
