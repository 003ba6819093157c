"""The client's line: what leaves, what is left alone, and what is refused."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, arrays_size_mod, message_size_mod

from fedlite.flower import compress, frames, wire
from fedlite.flower.mod import _wrapper
from fedlite.flower.offer import Offer, give
from fedlite.scenario.keys import Link
from tests.flower.federation import Arrays, record_of

OFFER = Offer(1, 1, 0, Link("rotated-topk", density=0.1, error_feedback=False), (), 0)
RNG = np.random.default_rng(0)
MODEL: Arrays = {
    "w": RNG.normal(size=(80, 100)).astype(np.float32),
    "bn.running_var": np.ones(4, np.float32),
}


@pytest.fixture(autouse=True)
def identity() -> None:
    wire.identify(7, 0)


def context() -> Context:
    return Context(7, 3, {}, RecordDict(), {})


def question(content: RecordDict | None = None, kind: str = "train", offer: Any = OFFER) -> Message:
    content = content or RecordDict({"arrays": record_of(MODEL), "config": ConfigRecord({"lr": 1})})
    message = Message(give(content, offer) if offer else content, 3, kind)
    return wire.from_bytes(wire.to_bytes(message))


def app(reply: RecordDict | None, *mods: Any, seen: list[RecordDict] | None = None) -> ClientApp:
    """Return an app that replies this, or the arrays that came, all one larger."""
    made = ClientApp(mods=list(mods))

    def answer(message: Message, _: Context) -> Message:
        if seen is not None:
            seen.append(message.content)
        if reply is not None:
            return Message(reply, reply_to=message)
        record = message.content["arrays"]
        # As apps do that save memory: what is taken out must not be missed.
        arrays = {name: record.pop(name).numpy() + np.float32(1) for name in list(record)}
        metrics = MetricRecord({"num-examples": 3})
        return Message(RecordDict({"arrays": record_of(arrays), "m": metrics}), reply_to=message)

    made.train()(answer)
    made.train("again")(answer)
    made.evaluate()(answer)
    made.query()(answer)
    return made


@pytest.mark.parametrize("kind", ["train", "train.again"])
def test_a_reply_to_train_carries_a_frame_in_place_of_arrays(kind: str) -> None:
    seen: list[RecordDict] = []
    reply = app(None, compress(), seen=seen)(question(kind=kind), context())
    assert list(reply.content) == ["arrays", "m"]
    blob = frames.of_record(reply.content["arrays"])
    assert blob is not None and len(blob) < 8000 * 4 / 20
    assert reply.content["m"] == MetricRecord({"num-examples": 3})
    # The app saw what its strategy made, and no more.
    assert seen[0]["config"] == ConfigRecord({"lr": 1}) and list(seen[0]) == ["arrays", "config"]


@pytest.mark.parametrize("kind", ["evaluate", "query"])
def test_other_replies_are_left_alone(kind: str) -> None:
    reply = app(None, compress())(question(kind=kind), context())
    assert list(reply.content["arrays"]) == list(MODEL)


def test_without_an_offer_nothing_changes_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = app(None, compress())
    for _ in range(3):
        reply = made(question(offer=None), context())
        assert list(reply.content["arrays"]) == list(MODEL)
    assert caplog.text.count("Compressed(...) of the same fedlite must be the outermost") == 1


def records(**more: Any) -> RecordDict:
    return RecordDict({"arrays": record_of(MODEL), **more, "m": MetricRecord({"num-examples": 3})})


@pytest.mark.parametrize(
    ("reply", "left"),
    [
        (records(extra=record_of({"c": np.ones(3)})), ["extra"]),
        (RecordDict({"extra": record_of({"c": np.ones(3)}), **records()}), ["extra"]),
        (records(config=ConfigRecord({"text": "x"})), ["config"]),
        (RecordDict({"other": record_of(MODEL)}), []),
        (RecordDict({"arrays": record_of({"w": MODEL["w"]})}), ["arrays"]),
        (RecordDict({"arrays": record_of(MODEL | {"w": MODEL["w"].T})}), ["arrays"]),
        (RecordDict({"arrays": record_of(MODEL | {"w": MODEL["w"].astype(int)})}), ["arrays"]),
        (RecordDict({"arrays": ArrayRecord()}), ["arrays"]),
        (RecordDict({"arrays": ArrayRecord({"w": Array("x", (1,), "y", b"z")})}), ["arrays"]),
        (RecordDict({"m": MetricRecord({"num-examples": 3})}), ["m"]),
    ],
)
def test_what_does_not_fit_goes_as_it_is(reply: RecordDict, left: list[str]) -> None:
    got = app(reply, compress())(question(), context()).content
    assert list(got) == list(reply)
    for key, record in got.items():
        if key in left or isinstance(record, MetricRecord):
            assert record == reply[key]
        else:
            assert frames.of_record(record) is not None


def test_each_of_two_records_gets_a_frame_of_its_own() -> None:
    two = RecordDict({"a": record_of(MODEL), "b": record_of(MODEL), "c": ConfigRecord({})})
    reply = RecordDict({"b": record_of(MODEL), "a": record_of(MODEL), "x": record_of(MODEL)})
    got = app(reply, compress())(question(two), context()).content
    blobs = {key: frames.of_record(record) for key, record in got.items()}
    assert list(blobs) == ["b", "a", "x"]
    assert blobs["a"] and blobs["b"] and blobs["a"] != blobs["b"] and blobs["x"] is None


def test_a_diverged_training_is_an_error_with_the_mend() -> None:
    reply = RecordDict({"arrays": record_of(MODEL | {"w": MODEL["w"] * np.nan})})
    with pytest.raises(ValueError, match=r"'w': its change must be finite.*smaller learning rate"):
        app(reply, compress())(question(), context())


def test_a_malformed_offer_is_an_error() -> None:
    content = RecordDict({"arrays": record_of(MODEL), "c": ConfigRecord({"fedlite.offer": b"{"})})
    with pytest.raises(ValueError, match="offer: must be JSON"):
        app(None, compress())(question(content, offer=None), context())


def noisy() -> LocalDpMod:
    return LocalDpMod(clipping_norm=1.0, sensitivity=1.0, epsilon=1e6, delta=1e-5)


def clip_nothing(message: Message, context: Context, call_next: Any) -> Message:
    out: Message = call_next(message, context)
    return out


@pytest.mark.parametrize("outer", [noisy(), clip_nothing])
def test_a_mod_before_it_is_refused_with_the_mend(outer: Any) -> None:
    name = getattr(outer, "__name__", "LocalDpMod")
    with pytest.raises(ValueError, match=rf"write mods=\[compress\(\), {name}\]"):
        app(None, outer, compress())(question(), context())


def test_a_mod_before_it_is_found_across_an_app_and_its_function() -> None:
    made = ClientApp(mods=[clip_nothing])

    @made.train(mods=[compress()])
    def train(message: Message, context: Context) -> Message:
        return Message(message.content, reply_to=message)

    with pytest.raises(ValueError, match="clip_nothing is before it"):
        made(question(), context())


@pytest.mark.parametrize("mods", [[message_size_mod, compress()], [arrays_size_mod, compress()]])
def test_mods_that_only_log_sizes_may_be_before_it(mods: list[Any]) -> None:
    reply = app(None, *mods)(question(), context())
    assert frames.of_record(reply.content["arrays"]) is not None


def test_a_mod_after_it_sees_arrays_and_comes_before_the_compression() -> None:
    trained = RecordDict({"arrays": record_of({n: a + np.float32(1) for n, a in MODEL.items()})})
    reply = app(trained, compress(), noisy())(question(), context())
    assert frames.of_record(reply.content["arrays"]) is not None


def test_flower_still_wraps_mods_as_the_search_for_them_believes() -> None:
    code = _wrapper()
    assert code is not None and set(code.co_freevars) >= {"_mod", "_ffn"}


def test_a_large_frame_travels_in_chunks_and_comes_back() -> None:
    big = {"w": RNG.normal(size=(700, 1000)).astype(np.float32)}
    content = RecordDict({"arrays": record_of(big), "c": ConfigRecord({})})
    offer = Offer(1, 1, 0, Link("dense", error_feedback=False), (), 0)
    reply = app(None, compress())(question(content, offer=offer), context())
    record = reply.content["arrays"]
    assert isinstance(record, ArrayRecord)
    blob = frames.of_record(wire.from_bytes(wire.to_bytes(reply)).content["arrays"])
    assert blob is not None and len(blob) == 28 + 1 + 2_800_000


def test_what_it_says_is_said_to_flower_s_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "flwr"):
        app(RecordDict({"arrays": ArrayRecord()}), compress())(question(), context())
    assert "'arrays' is not compressed: tensor 'bn.running_var' is on one side only" in caplog.text
