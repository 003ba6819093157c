"""Attacks on a server of bundles that once worked.

Covers fedlite/inference/serving/gate.py, fedlite/inference/serving/calling.py,
fedlite/inference/serving/batcher.py, fedlite/inference/serving/pairs.py,
fedlite/inference/serving/service.py, fedlite/inference/serving/server.py.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from fedlite.inference.bundle import Answers, Bundle
from fedlite.inference.serving import asking, calling, gate, protocol, tokens
from fedlite.inference.serving.batcher import Batcher, Limits
from fedlite.inference.serving.cache import Cache
from fedlite.inference.serving.doors import Door
from fedlite.inference.serving.keeping import Keeping
from fedlite.inference.serving.pairs import Pairs
from fedlite.inference.serving.refused import Refused
from fedlite.inference.serving.server import Options, _versions, _within
from fedlite.inference.serving.service import Service
from fedlite.inference.serving.versions import Mix, Version, Versions, Work
from fedlite.inference.watching import TooOften
from tests.inference.serving.conftest import Live, asked
from tests.inference.serving.test_versions import LABELS, Stub, classes, inputs, version

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

    async def attack() -> set[str]:
        async with grpc.aio.insecure_channel(live.address) as channel:
            # No message ever follows these, and it is long until that is noticed by itself: only
            # that the oldest go lets others in.
            monkeypatch.setattr(gate, "_PROMPT", 600.0)
            held = [channel.stream_unary(probes[at % 2])() for at in range(90)]
            async with asyncio.timeout(60):
                while sum(not call.done() for call in held) > 32:
                    await asyncio.sleep(0.05)
            sent = asked(X).SerializeToString()
            by = [("authorization", f"Bearer {token}")]
            assert await channel.unary_unary(infer)(sent, timeout=30, metadata=by)
            for probe in probes:
                assert await channel.unary_unary(probe)(b"", timeout=30)
            ended = [call for call in held if call.done()]
            found = {(await call.code()).name for call in ended}
            assert len(ended) >= 58
            for call in held:
                call.cancel()
            # And one that waits alone is not waited for long.
            monkeypatch.setattr(gate, "_PROMPT", 0.2)
            alone = channel.stream_unary(probes[0])()
            return found | {(await asyncio.wait_for(alone.code(), 60)).name}

    found = asyncio.run(attack())
    assert "DEADLINE_EXCEEDED" in found <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    assert live.ask("ServerLive").live and not live.service.under_way


@pytest.mark.long
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


def test_what_happened_is_kept_though_nobody_reads_it(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(_: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    folder = tmp_path / "kept"
    keeping = Keeping(folder)
    versions = _versions(bundle, None, Options(mix=Mix(watch=1.0)), keeping, gone)
    versions._tell("alarm", {"version": versions.current.name, "seen": 1})
    keeping.close()
    assert json.loads((folder / "state.json").read_text())["deep"] == [versions.current.name]
    assert any('"alarm"' in file.read_text() for file in folder.glob("audit*"))
    assert "could not be told: alarm" in caplog.text


@pytest.mark.long
def test_a_reset_is_of_what_is_served_and_leaves_no_early_answer(
    bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    keeping = Keeping(folder)
    current = Version.of(bundle, 0.01)
    keeping.remember(deep=["aaaaaaaaaaaa", current.name])
    current.deep = True
    versions = Versions(current, None, Mix(watch=0.0), lambda *_: None)
    context = SimpleNamespace(time_remaining=lambda: None)
    x = np.random.default_rng(0).uniform(0, 1, (40, 1, 8, 8)).astype(np.float32)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    async def scene() -> None:
        service = Service("m", versions, Limits(wait=0.5), keeping, Cache(10))
        waits = asyncio.create_task(service._ModelInfer(asked(x, "m"), context))
        await asyncio.sleep(0.05)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr("fedlite.inference.serving.keeping.write_atomic", full)
            await service._Reset(SimpleNamespace(why="new scanner"), None)
        assert current.deep and current.name in keeping.state["deep"], (
            "what cannot be kept ends no alarm"
        )
        # It overtakes a request that was taken while all went deep.
        await service._Reset(SimpleNamespace(why="new scanner"), None)
        await waits
        assert (await service._infer(asked(x, "m"), context)).early
        current.deep = True
        assert not (await service._infer(asked(x, "m"), context)).early
        service.close()

    asyncio.run(scene())
    keeping.close()
    assert json.loads((folder / "state.json").read_text())["deep"] == ["aaaaaaaaaaaa"]


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 224, 224), (3, 512, 512)])
def test_the_longest_messages_together_fit_into_a_gibibyte(shape: tuple[int, ...]) -> None:
    bundle: Any = SimpleNamespace(shape=shape, reads_texts=False)
    said: list[str] = []
    lowered = _within(Limits(), bundle, said.append)
    assert 1 <= lowered.request < 4096 and "a request may have" in said[0]
    assert 16 * asking.longest(bundle, lowered.request) <= 2**30
    assert 16 * asking.longest(bundle, lowered.request + 1) > 2**30
    with pytest.raises(ValueError, match=f"--request-rows: must be at most {lowered.request} for"):
        _within(Limits(request=5000), bundle, said.append)
    assert _within(Limits(request=1), bundle, said.append).request == 1


def test_an_input_that_is_itself_too_long_is_not_served() -> None:
    bundle: Any = SimpleNamespace(shape=(3, 4096, 4096), reads_texts=False)
    with pytest.raises(ValueError, match=r"must be at most 0 .*serve a model of smaller inputs"):
        _within(Limits(), bundle, lambda _: None)


def test_one_client_cannot_fill_the_queue() -> None:
    shut = threading.Event()

    def run(given: Sequence[int]) -> list[int]:
        shut.wait(10)
        return list(given)

    async def scene() -> None:
        batcher = Batcher(run, Limits(batch=1, request=8, queue=16, wait=0), lambda *_: None)
        try:
            first = asyncio.create_task(batcher.submit(0, 1, None, "hog"))
            await asyncio.sleep(0.05)
            # One request of any length, or a quarter.
            waits = [asyncio.create_task(batcher.submit(1, 8, None, "hog"))]
            await asyncio.sleep(0)
            with pytest.raises(Refused, match="at most 4 rows of one client, got 1 beside 8") as no:
                await batcher.submit(2, 1, None, "hog")
            assert no.value.code == "RESOURCE_EXHAUSTED"
            waits += [asyncio.create_task(batcher.submit(3, 2, None, "honest")) for _ in range(2)]
            # Where no clients are known apart, the queue is for all.
            waits += [asyncio.create_task(batcher.submit(4, 2, None)) for _ in range(2)]
            await asyncio.sleep(0)
            assert batcher.waiting == 16
            waits[0].cancel()
            await asyncio.sleep(0)
            waits[0] = asyncio.create_task(batcher.submit(5, 4, None, "hog"))
            shut.set()
            assert await asyncio.gather(first, *waits) == [0, 5, 3, 3, 4, 4]
            assert not batcher._held
        finally:
            shut.set()
            batcher.close()

    asyncio.run(scene())


def test_pairs_of_one_client_do_not_push_out_those_of_another() -> None:
    pairs = Pairs()
    pairs.answered(("honest", "r"), False, classes(0))
    for at in range(300):
        pairs.answered(("other", str(at)), False, np.zeros(4096, np.int64))
    assert pairs._rows <= 1_000_000
    for at in range(10_100):
        pairs.answered(("many", str(at)), False, classes(0))
    assert len(pairs._entries) <= 10_000 and len(pairs._ids["other"]) > 200
    assert pairs.labelled(("honest", "r"), classes(0)) is None, "it is still known"
    for client, ids in list(pairs._ids.items()):
        for name in list(ids):
            pairs._forget((client, name))
    assert not pairs._entries and not pairs._ids and not pairs._held and pairs._rows == 0


class Faulty(Stub):
    """Without an answer to three of ten inputs."""

    def answer(self, inputs: Any, *, deep: bool = False) -> Answers:
        if (inputs[:, 1] < 0.3).any():
            raise ValueError("x: its answer is NaN")
        return super().answer(inputs, deep=deep)


@pytest.mark.parametrize("mix", [Mix(share=0.5), Mix(shadow=True), Mix(share=0.5, tolerance=0.05)])
def test_a_candidate_without_answers_is_withdrawn_and_refuses_nobody(mix: Mix) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    versions = Versions(
        version(Stub(), "one"),
        version(Faulty(name="b"), "two"),
        mix,
        lambda *told: said.append(told),
    )
    rng = np.random.default_rng(8)
    for at in range(1000):
        x = inputs(1, rng)
        work = Work(x, versions.choose(""), ("c", str(at)))
        results = versions.run([work])
        assert isinstance(results[0], Answers)
        versions.look([work], results)
        if versions.candidate is None:
            break
        if mix.tolerance is None:
            versions.feedback(("c", str(at)), [LABELS[int(x[0, 0])]])
    assert versions.candidate is None and versions.failed > 0
    why = "is worse" if mix.tolerance is None else "answers otherwise too often"
    assert [told["why"] for _, told in said] == [why]
    # Who has named it is told that it has no answer.
    named = Work(np.array([[1, 0.1, 0.5]]), version(Faulty(), "two"), ("c", "n"), named=True)
    (found,) = versions.run([named])
    assert isinstance(found, Refused)


def test_one_request_does_not_withdraw_a_candidate() -> None:
    said: list[Any] = []
    versions = Versions(
        version(Stub(), "one", TooOften(0.05, 0.01)),
        version(Stub(1.0, name="b"), "two"),
        Mix(shadow=True, tolerance=0.05, watch=1.0),
        lambda *told: said.append(told),
    )
    x = inputs(4096, np.random.default_rng(9))
    work = Work(x, versions.current, ("mallory", "1"))
    versions.look([work], versions.run([work]))
    versions.feedback(("mallory", "1"), [LABELS[int(one)] for one in x[:, 0]])
    assert not said and versions.worse.lost == 4096


def test_bytes_that_are_no_message_and_more_than_one_end_a_probe_alone(
    start: Start, bundle: Bundle
) -> None:
    live = start(bundle)
    check, ready = "/grpc.health.v1.Health/Check", f"/{protocol.INFERENCE}/ServerReady"
    with grpc.insecure_channel(live.address) as channel:
        for method in (check, ready):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(method)(b"\xff" * 100, timeout=10)
            assert "Traceback" not in caught.value.details()  # type: ignore[attr-defined]
            with pytest.raises(grpc.RpcError) as caught:
                channel.stream_unary(method)(iter(()), timeout=10)
            assert caught.value.code().name == "DEADLINE_EXCEEDED"  # type: ignore[attr-defined]
            assert isinstance(channel.stream_unary(method)(iter((b"", b"")), timeout=10), bytes)
            assert isinstance(channel.unary_unary(method)(b"", timeout=10), bytes)
        # An unknown service is told as before.
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(check)(b"\x0a\x04none", timeout=10)
        assert caught.value.code().name == "NOT_FOUND"  # type: ignore[attr-defined]


def test_a_client_is_answered_by_the_version_in_use_where_the_candidate_cannot(
    bundle: Bundle,
) -> None:
    class Broken:
        """A bundle like another, whose answers are none."""

        def __getattr__(self, name: str) -> Any:
            return getattr(bundle, name)

        def answer(self, inputs: Any, *, deep: bool = False) -> Answers:
            raise ValueError("x: its answer is NaN")

    other = Version(Broken(), "two", None)  # type: ignore[arg-type]
    versions = Versions(Version.of(bundle, 0.01), other, Mix(share=1.0), lambda *_: None)
    context = SimpleNamespace(time_remaining=lambda: None)

    async def scene() -> None:
        service = Service("m", versions, Limits(), Keeping(None), Cache(10))
        found = await service._ModelInfer(asked(X, "m"), context)
        assert found.model_version == versions.current.name and found.outputs
        assert not service.cache._kept, "an answer is not kept as another version's"
        with pytest.raises(Refused, match="its answer is NaN"):
            await service._ModelInfer(asked(X, "m", model_version="two"), context)
        service.close()

    asyncio.run(scene())
    assert versions.failed == 1 and versions.differed == 2
