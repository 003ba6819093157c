"""What a server takes for an update, and what it does not: hostile and mistaken replies.

Covers fedlite/flower/frames.py, fedlite/flower/blob.py.
"""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.differential_privacy import compute_clip_model_update

from fedlite.flower import frames, wire
from fedlite.flower.asked import Asked, Base, clipped
from fedlite.flower.offer import Offer
from fedlite.flower.tensors import Tensors, read
from fedlite.scenario.keys import Link
from tests.flower.federation import Arrays, record_of

RNG = np.random.default_rng(0)
MODEL: Arrays = {
    "w": RNG.normal(size=(80, 100)).astype(np.float32),
    "n": np.asarray(3),
}
NEW: Arrays = {"w": MODEL["w"] + np.float32(0.1), "n": np.asarray(5)}
OFFER = Offer(4, 2, 9, Link("rotated-topk", density=0.1, error_feedback=False), (), 0)


@pytest.fixture(autouse=True)
def identity() -> None:
    wire.identify(7, 0)


def asked(offer: Offer = OFFER, **more: Arrays) -> Asked:
    models = {"arrays": MODEL, **more}
    content = RecordDict({key: record_of(model) for key, model in models.items()})
    bases = {}
    for key, model in models.items():
        tensors = Tensors.of(key, model)
        bases[key] = Base(tensors, tensors.values_digest(model), model)
    return Asked(Message(content, 3, "train"), content, offer, bases)


def frame(
    question: Asked | None = None, key: str = "arrays", new: Arrays = NEW, **env: Any
) -> bytes:
    question = question or asked()
    base = question.bases[key]
    told = frames.envelope(7, 4, 2, 9, base.tensors, base.digest)
    return frames.seal(base.tensors, base.onto, new, question.offer.choice, replace(told, **env))


def reply(blob: bytes, key: str = "arrays") -> RecordDict:
    return RecordDict({key: frames.to_record(blob), "m": MetricRecord({"num-examples": 3})})


@pytest.mark.parametrize("key", ["arrays", "by-another-name"])
def test_an_update_becomes_arrays_in_its_place(key: str) -> None:
    content, count = asked().decoded(reply(frame(), key))
    assert list(content) == [key, "m"] and count == 1
    record = content[key]
    assert isinstance(record, ArrayRecord)
    arrays = read(record)
    assert arrays["n"] == 5 and arrays["n"].dtype == np.int64
    change = arrays["w"] - MODEL["w"]
    assert change.dtype == np.float32 and 0.05 < change.mean() < 0.15


def test_records_of_the_app_s_own_pass() -> None:
    content = RecordDict({"arrays": record_of(NEW), "c": ConfigRecord({"a": b"x"})})
    assert asked().decoded(content) == (content, 0)


OTHER = {"w": MODEL["w"].T.copy(), "n": MODEL["n"]}


def resealed(blob: bytes) -> bytes:
    """Return a frame with its CRC made right: what an attacker sends."""
    return blob[:24] + struct.pack("<I", zlib.crc32(blob[28:], zlib.crc32(blob[:24]))) + blob[28:]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda blob: b"", "at least 28 bytes"),
        (lambda blob: blob[:20], "at least 28 bytes"),
        (lambda blob: blob[:-1], "CRC"),
        (lambda blob: blob[:40] + b"\xff" + blob[41:], "CRC"),
        (lambda blob: b"XX" + blob[2:], "magic"),
        (lambda blob: resealed(blob[:3] + b"\x00" + blob[4:]), "codec: must be 10, got 0"),
        (lambda blob: resealed(blob[:-1]), "."),
        (lambda blob: resealed(blob + b"\0"), "."),
        (lambda blob: resealed(blob[:28] + b"\xff" * (len(blob) - 28)), "."),
        (lambda blob: resealed(blob[:28] + b"\xff" * 50_000), "at most"),
        (lambda blob: resealed(blob[:28]), "must begin with"),
        (lambda blob: frame(run=b"anotherx"), "binding"),
        (lambda blob: frame(round=3), "round must be 4, got 3; it is late, early or replayed"),
        (lambda blob: frame(site=1), "binding"),
        (lambda blob: frame(base=bytes(8)), "binding"),
        (lambda blob: frame(asked(b=OTHER), "b", OTHER), "layout"),
    ],
)
def test_a_bad_frame_is_named(spoil: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        asked().decoded(reply(spoil(frame())))


def test_a_frame_of_dense_nans_is_refused() -> None:
    question = asked(replace(OFFER, link=Link("dense", error_feedback=False)))
    blob = frame(question)
    bad = resealed(blob[:-4] + struct.pack("<f", np.nan))
    with pytest.raises(ValueError, match="finite"):
        question.decoded(reply(bad))
    long = resealed(blob[:-4] + struct.pack("<f", 1e30))
    with pytest.raises(ValueError, match="at most"):
        question.decoded(reply(long))


def test_many_frames_in_one_reply_make_one_model_at_most() -> None:
    """Each would take as much memory as a model, and costs its sender next to nothing."""
    content = RecordDict({f"r{i}": frames.to_record(frame()) for i in range(50)})
    tracemalloc.start()
    with pytest.raises(ValueError, match="'r1': nothing like it was sent, or it came before"):
        asked().decoded(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 * MODEL["w"].nbytes


def test_two_records_are_not_mixed_up() -> None:
    question = asked(b={"w": MODEL["w"] + np.float32(1), "n": np.asarray(1)})
    blobs = {key: frame(question, key) for key in ("arrays", "b")}
    good = RecordDict({key: frames.to_record(blob) for key, blob in blobs.items()})
    content, count = question.decoded(good)
    assert count == 2 and list(content) == ["arrays", "b"]
    swapped = RecordDict({"arrays": good["b"], "b": good["arrays"]})
    with pytest.raises(ValueError, match="layout"):
        question.decoded(swapped)
    with pytest.raises(ValueError, match="'c': nothing like it was sent"):
        question.decoded(RecordDict({"c": good["arrays"]}))


def test_what_claims_to_be_a_frame_and_is_none_is_left_to_the_strategy() -> None:
    for record in (
        ConfigRecord({frames.ENTRY: "text"}),
        ConfigRecord({frames.ENTRY: b"x", "more": 1}),
        ArrayRecord({frames.ENTRY: Array("uint8", (3,), "numpy.ndarray", b"abc")}),
    ):
        content = RecordDict({"arrays": record})
        assert asked().decoded(content) == (content, 0)


def test_a_decoded_update_is_cut_as_flower_cuts() -> None:
    onto = {"w": MODEL["w"], "b": np.zeros(9, np.float32)}
    new = {"w": MODEL["w"] + np.float32(1), "b": np.ones(9, np.float32)}
    for norm in (2.0, 1e6):
        theirs = [array.copy() for array in new.values()]
        compute_clip_model_update(theirs, list(onto.values()), norm)
        for mine, array in zip(clipped(new, onto, norm).values(), theirs, strict=True):
            assert mine.dtype == array.dtype
            np.testing.assert_allclose(mine, array, atol=1e-6)
    # What Flower's own divides by.
    assert clipped(onto, onto, 1.0)["b"].tolist() == [0.0] * 9


def test_arrays_of_another_form_do_not_go_with_frames() -> None:
    assert asked().misfit(RecordDict({"arrays": record_of(NEW)})) == ""
    for other in ({"w": NEW["w"]}, OTHER, {**NEW, "x": NEW["n"]}):
        told = asked().misfit(RecordDict({"arrays": record_of(other)}))
        assert "'arrays': its tensors are not those of the model that was sent" in told


def test_a_record_of_the_app_s_own_is_not_held_against_the_model() -> None:
    control = record_of({"c": np.ones(3)})
    assert asked().misfit(RecordDict({"arrays": record_of(NEW), "control": control})) == ""
    for order in (("arrays", "control"), ("control", "arrays")):
        records = {"arrays": frames.to_record(frame()), "control": control}
        content, count = asked().decoded(RecordDict({key: records[key] for key in order}))
        assert list(content) == list(order) and count == 1
        assert content["control"] == control


def test_a_failure_comes_from_the_client_that_sent_it() -> None:
    failure = asked().failed("why")
    assert failure.has_error() and failure.error.reason == "why"
    assert failure.metadata.src_node_id == 3
