"""Batches: nothing is computed for nobody, nothing waits for ever, and nothing is taken too much.

Covers fedlite/inference/serving/cache.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fedlite.inference.bundle import Answers
from fedlite.inference.serving.batcher import Batcher, Limits
from fedlite.inference.serving.cache import Cache
from fedlite.inference.serving.refused import Refused


class Model:
    """Doubles what it is given, slowly if a gate is shut, and remembers each batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.after: list[int] = []

    def run(self, given: Sequence[int]) -> list[Any]:
        self.gate.wait(10)
        self.batches.append(list(given))
        if 13 in given and len(given) > 1:
            raise RuntimeError("broken")
        return [ValueError("seven") if one == 7 else 2 * one for one in given]

    def look(self, given: Sequence[int], results: Sequence[Any]) -> None:
        self.after += given


def play(limits: Limits, scene: Any) -> Model:
    model = Model()

    async def whole() -> None:
        batcher = Batcher(model.run, limits, model.look)
        try:
            await asyncio.wait_for(scene(batcher, model), 20)
        finally:
            model.gate.set()
            batcher.close()

    asyncio.run(whole())
    return model


def test_what_comes_together_goes_together_up_to_the_limit() -> None:
    async def scene(batcher: Batcher, model: Model) -> None:
        found = await asyncio.gather(*(batcher.submit(n, 1, None) for n in range(6)))
        assert found == [0, 2, 4, 6, 8, 10]
        assert batcher.waiting == 0

    model = play(Limits(batch=4, wait=0.05), scene)
    assert model.batches == [[0, 1, 2, 3], [4, 5]]
    assert sorted(model.after) == list(range(6))


def test_a_batch_ends_before_a_request_that_would_not_fit() -> None:
    async def scene(batcher: Batcher, model: Model) -> None:
        await asyncio.gather(*(batcher.submit(n, 3, None) for n in range(3)))

    assert play(Limits(batch=5, wait=0.05), scene).batches == [[0], [1], [2]]


def test_one_alone_waits_no_longer_than_it_has_to() -> None:
    async def scene(batcher: Batcher, model: Model) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await batcher.submit(4, 1, None) == 8
        assert loop.time() - began >= 0.1

    play(Limits(batch=4, wait=0.1), scene)


def test_what_is_too_late_is_never_computed() -> None:
    async def scene(batcher: Batcher, model: Model) -> None:
        model.gate.clear()
        first = asyncio.ensure_future(batcher.submit(0, 1, None))
        await asyncio.sleep(0.05)
        late = asyncio.ensure_future(batcher.submit(1, 1, 0.01))
        good = asyncio.ensure_future(batcher.submit(2, 1, 10.0))
        await asyncio.sleep(0.05)
        model.gate.set()
        assert await first == 0 and await good == 4
        with pytest.raises(Refused, match="deadline: has passed") as caught:
            await late
        assert caught.value.code == "DEADLINE_EXCEEDED" and batcher.late == 1

    assert play(Limits(wait=0), scene).batches == [[0], [2]]


def test_what_is_cancelled_costs_nothing_and_makes_room_at_once() -> None:
    async def scene(batcher: Batcher, model: Model) -> None:
        model.gate.clear()
        first = asyncio.ensure_future(batcher.submit(0, 1, None))
        await asyncio.sleep(0.05)
        for _ in range(1000):
            gone = asyncio.ensure_future(batcher.submit(1, 10, None))
            await asyncio.sleep(0)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            assert batcher.waiting == 0
        model.gate.set()
        assert await first == 0
        assert await batcher.submit(5, 10, None) == 10

    assert play(Limits(batch=10, request=10, queue=10, wait=0), scene).batches == [[0], [5]]


def test_what_does_not_fit_into_the_queue_is_refused_at_once() -> None:
    async def scene(batcher: Batcher, model: Model) -> None:
        model.gate.clear()
        first = asyncio.ensure_future(batcher.submit(0, 1, None))
        await asyncio.sleep(0.05)
        waits = asyncio.ensure_future(batcher.submit(1, 8, None))
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="queue: has room for 2 rows now, got 3") as caught:
            await batcher.submit(2, 3, None)
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        model.gate.set()
        assert await first == 0 and await waits == 2

    play(Limits(batch=8, request=8, queue=10, wait=0), scene)


def test_an_error_reaches_those_it_is_of_and_the_next_are_answered() -> None:
    async def scene(batcher: Batcher, model: Model) -> None:
        found = await asyncio.gather(
            *(batcher.submit(n, 1, None) for n in (6, 7)), return_exceptions=True
        )
        assert found[0] == 12 and isinstance(found[1], ValueError)
        found = await asyncio.gather(
            *(batcher.submit(n, 1, None) for n in (12, 13)), return_exceptions=True
        )
        assert all(isinstance(one, RuntimeError) for one in found)
        assert await batcher.submit(1, 1, None) == 2

    play(Limits(batch=2, wait=0.05), scene)


def test_what_still_waits_at_the_end_is_told_so() -> None:
    async def scene(batcher: Batcher, model: Model) -> None:
        waits = asyncio.ensure_future(batcher.submit(1, 1, None))
        await asyncio.sleep(0)
        batcher.close()
        with pytest.raises(Refused, match="server: is stopping"):
            await waits

    assert play(Limits(wait=1), scene).batches == []


def answers(value: float, rows: int = 1) -> Answers:
    whole = np.full((2 * rows, 3), value)
    return Answers(("a", "b", "c"), whole[:rows], np.ones(rows, np.bool_), np.ones(rows))


def test_the_cache_keeps_apart_what_differs_and_forgets_the_oldest() -> None:
    cache = Cache(2)
    x = np.zeros((1, 4), np.float32)
    one = cache.key("a", "v", x)
    others = [cache.key("b", "v", x), cache.key("a", "w", x), cache.key("a", "v", x + 1)]
    others.append(cache.key("a", "v", np.zeros((2, 4), np.float32)))
    assert one is not None and one not in others and len({*others, one}) == 5
    for at, key in enumerate(others[:2]):
        cache.put(key, answers(at))
    assert cache.get(others[0]) is not None
    cache.put(others[2], answers(2))
    assert cache.get(others[1]) is None, "the longest unused"
    found = cache.get(others[0])
    assert found is not None and found.shares.base is None, "it keeps no batch alive"
    cache.clear()
    assert cache.get(others[0]) is None
    assert Cache(0).key("a", "v", x) is None


def test_the_cache_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlite.inference.serving.cache._BYTES", 2000)
    cache = Cache(1000)
    keys = [cache.key("a", str(at), np.zeros((1, 1), np.float32)) for at in range(50)]
    for key in keys:
        cache.put(key, answers(0, 10))
    assert sum(cache.get(key) is not None for key in keys) == 4
    cache.put(cache.key("a", "long", np.zeros((1, 1), np.float32)), answers(0, 1000))
    assert sum(cache.get(key) is not None for key in keys) == 4
