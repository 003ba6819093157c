"""Pieces of work of several clients, one thread, and who waits for whom.

Covers fedlite/inference/serving/turns.py and what of texts is read at once.
"""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from fedlite.data.text.redaction import LONGEST
from fedlite.inference import tokenized
from fedlite.inference.serving import asking
from fedlite.inference.serving.refused import Refused
from fedlite.inference.serving.turns import Turns


def test_whoever_has_few_pieces_does_not_wait_for_whoever_has_many() -> None:
    order: list[str] = []

    async def main() -> None:
        turns, go = Turns(100), threading.Event()
        first = asyncio.ensure_future(turns.run("many", go.wait, 10))
        await asyncio.sleep(0)
        many = [asyncio.ensure_future(turns.run("many", order.append, "many")) for _ in range(20)]
        few = [asyncio.ensure_future(turns.run("few", order.append, "few")) for _ in range(2)]
        gone = asyncio.ensure_future(turns.run("gone", order.append, "gone"))
        await asyncio.sleep(0)
        gone.cancel()
        go.set()
        await asyncio.gather(first, *many, *few)
        turns.close()

    asyncio.run(main())
    assert order == ["many", "few", "many", "few", *["many"] * 18]


def test_an_error_is_its_own_callers_and_the_thread_goes_on() -> None:
    async def main() -> None:
        turns = Turns(100)
        with pytest.raises(ZeroDivisionError):
            await turns.run("a", divmod, 1, 0)
        assert await turns.run("a", divmod, 7, 2) == (3, 1)
        turns.close()

    asyncio.run(main())


def test_what_is_under_way_is_bounded_of_all_and_of_each() -> None:
    async def main() -> None:
        turns = Turns(100)
        # One request of any size, and beside it a quarter.
        with turns.holding(20, "a"), turns.holding(5, "a"):
            with pytest.raises(Refused, match="room for 0 bytes"), turns.holding(1, "a"):
                pass
            refused = pytest.raises(Refused, match="room for 5")
            with turns.holding(70, "b"), refused, turns.holding(6, "c"):
                pass
        # Where nobody is known by name, all share the whole.
        with turns.holding(60, None), turns.holding(40, None):
            assert turns.under_way == 100
        assert turns.under_way == 0
        turns.close()

    asyncio.run(main())


def test_pieces_are_all_texts_in_their_order() -> None:
    texts = ["x" * size for size in (16_000, 300, 100, 20_000, 1)]
    found = list(asking.pieces(texts))
    assert [text for piece in found for text in piece] == texts
    assert [len(piece) for piece in found] == [2, 1, 1, 1]


def test_of_a_long_text_no_more_is_searched_than_can_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To redact takes up to 20 microseconds a character, and a text may have any number."""
    seen: list[int] = []
    reader = object.__new__(tokenized.Tokenized)
    reader.length, reader._redact = 12, ("phone",)
    reader._tokenizer = SimpleNamespace(encode=lambda texts, _: [texts])  # type: ignore[assignment]
    monkeypatch.setattr(
        tokenized,
        "redact",
        lambda text, kinds: (text, seen.append(len(text))),  # type: ignore
    )
    reader.prepared(["4 " * 8192, "short"])
    assert seen == [128 * 12 + LONGEST, 5]
