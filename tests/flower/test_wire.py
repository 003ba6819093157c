"""Canaries: what fedlite takes from Flower beyond its promised interface must still be there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedlite import flower
from fedlite.messages import Code


@pytest.fixture(autouse=True)
def identity() -> None:
    flower.identify(5, 0)


def sent(message: Message) -> Message:
    return flower.from_bytes(flower.to_bytes(message))


def question(blob: bytes = b"?") -> Message:
    message = flower.ask(blob, 7, "train", "3")
    flower.set_message_id(message, "question")
    return sent(message)


def test_flower_is_the_pinned_line_and_stays_silent() -> None:
    assert metadata.version("flwr").startswith("1.41.")
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert os.environ["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"


def test_the_semi_private_parts_are_still_there() -> None:
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.message_pb2 import Message as proto
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity

    assert callable(message_from_proto) and callable(message_to_proto)
    assert hasattr(proto, "FromString")
    assert (TaskIdentity.run_id, TaskIdentity.node_id) == (5, 0)
    assert Run.create_empty(run_id=5).run_id == 5
    message = flower.ask(b"x", 7, "train", "3")
    flower.set_message_id(message, "an id")
    assert message.metadata.message_id == "an id"


def test_metadata_survives_the_wire() -> None:
    arrived = question()
    assert arrived.metadata.run_id == 5
    assert arrived.metadata.dst_node_id == 7
    assert arrived.metadata.message_type == "train"
    assert arrived.metadata.group_id == "3"
    flower.identify(5, 7)
    reply = sent(flower.answer(b"yes", arrived))
    assert reply.metadata.reply_to_message_id == "question"
    assert reply.metadata.src_node_id == 7
    assert flower.unwrap(reply) == b"yes"


@pytest.mark.parametrize(
    "make", [lambda q: flower.answer(b"yes", q), partial(flower.decline, Code.DATA)]
)
def test_a_reply_does_not_tell_when_it_was_made(make: Callable[[Message], Message]) -> None:
    """Its metadata told the time of a training to the microsecond, whatever the site's clock."""
    arrived = question()
    made = []
    for _ in range(2):
        time.sleep(0.05)
        made.append(sent(make(arrived)))
    for reply in made:
        assert reply.metadata.created_at == arrived.metadata.created_at
        assert reply.metadata.ttl == arrived.metadata.ttl
    assert made[0].metadata == made[1].metadata
    assert made[0].metadata.delivered_at == ""


def test_a_superlink_takes_a_reply_with_the_times_of_its_message() -> None:
    from flwr.common.constant import MESSAGE_TTL_TOLERANCE, SUPERLINK_NODE_ID
    from flwr.server.utils.validator import validate_message

    flower.identify(5, SUPERLINK_NODE_ID)
    arrived = question()
    flower.identify(5, 7)
    reply = sent(flower.answer(b"yes", arrived))
    flower.set_message_id(reply, reply.object_id)
    assert validate_message(reply, is_reply_message=True) == []
    asked, told = arrived.metadata, reply.metadata
    # What its stores compare, in the order in which they compute it.
    most = asked.created_at + asked.ttl - told.created_at
    assert told.ttl - most <= MESSAGE_TTL_TOLERANCE


@pytest.mark.parametrize("size", [0, 1, flower.CHUNKED_ABOVE, flower.CHUNKED_ABOVE + 1])
def test_blobs_of_every_size_come_back(size: int) -> None:
    blob = np.random.default_rng(size).bytes(size)
    message = sent(flower.ask(blob, 7, "train", "3"))
    assert flower.unwrap(message) == blob
    (record,) = message.content.values()
    assert isinstance(record, ArrayRecord if size > flower.CHUNKED_ABOVE else ConfigRecord)
    assert len(flower.to_bytes(message)) < size + 400


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"other": ConfigRecord({"blob": b"x"})}),
        RecordDict({"fedlite": ConfigRecord({"blob": b"x", "more": b"y"})}),
        RecordDict({"fedlite": ConfigRecord({"blob": "text"})}),
        RecordDict({"fedlite": ConfigRecord({"blob": [b"x"]})}),
        RecordDict({"fedlite": ConfigRecord({})}),
        RecordDict({"fedlite": MetricRecord({"blob": 1.0})}),
        RecordDict({"fedlite": ArrayRecord([np.zeros(3)])}),
        RecordDict({"fedlite": ArrayRecord({"blob": Array("uint8", (1,), "numpy.ndarray", b"x")})}),
        RecordDict(
            {"fedlite": ConfigRecord({"blob": b"x"}), "metrics": MetricRecord({"loss": 0.1})}
        ),
    ],
)
def test_anything_but_one_blob_is_refused(content: RecordDict) -> None:
    message = sent(Message(content, dst_node_id=7, message_type="train"))
    with pytest.raises(ValueError, match="message"):
        flower.unwrap(message)


@pytest.mark.parametrize("code", list(Code))
def test_a_declined_message_carries_its_code_and_no_more(code: Code) -> None:
    reply = sent(flower.decline(code, question()))
    assert flower.code_of(reply) is code
    assert reply.error.reason == f"fedlite:{code.value}"
    with pytest.raises(ValueError, match="error"):
        flower.unwrap(reply)


@pytest.mark.parametrize("reason", ["", "fedlite:", "fedlite:unheard-of", "data", "x:data"])
def test_an_error_that_is_not_ours_is_a_failure(reason: str) -> None:
    assert flower.code_of(sent(Message(Error(3, reason), reply_to=question()))) is Code.FAILED
    assert flower.code_of(sent(flower.answer(b"", question()))) is None
