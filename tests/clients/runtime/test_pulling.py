"""A message's parts: honest ones give the message back, and none unpacks to more than its limit."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.recorddict_pb2 import (
    ConfigRecord as ConfigRecordProto,
    ConfigRecordValue as RecordValueProto,
    SintList,
)
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
)

from clients.runtime.pulling import TooLarge, pull
from fedlite import flower
from fedlite.messages import Code
from tests.clients.runtime.coordinators import peak

CHUNK = 5 << 20


@pytest.fixture(autouse=True)
def _run() -> None:
    flower.identify(1, 2)


def store(message: Message) -> tuple[ObjectTree, dict[str, bytes]]:
    """Return what a coordinator holds of a message."""
    parts = {name: one.deflate() for name, one in get_all_nested_objects(message).items()}
    return get_object_tree(message), parts


def fetch(parts: dict[str, bytes]) -> Callable[[str, int], bytes]:
    def one(name: str, most: int) -> bytes:
        if len(parts[name]) > most:
            raise TooLarge(f"sent more than {most} bytes")
        return parts[name]

    return one


@pytest.mark.parametrize(
    "blob",
    [b"?", bytes(flower.CHUNKED_ABOVE), bytes(flower.CHUNKED_ABOVE + 1), bytes(3 * CHUNK + 7)],
)
def test_what_a_coordinator_sends_comes_whole(blob: bytes) -> None:
    """The last is zeros, whose chunks are equal: it is sent one of them and the rest."""
    asked = flower.ask(blob, 2, "train", "1")
    tree, parts = store(asked)
    message = pull(tree, fetch(parts), len(blob) + 2000)
    assert flower.unwrap(message) == blob
    assert message.metadata.message_id == tree.object_id
    assert message.metadata.message_type == "train"
    with pytest.raises(TooLarge, match=r"limits\.down|sent more"):
        pull(tree, fetch(parts), len(blob) - 1)


class Parts:
    """Parts made by hand, each under the name that Flower would give it."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}

    def add(self, kind: str, body: object, *children: ObjectTree) -> ObjectTree:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        names = ",".join(one.object_id for one in children)
        content = f"{kind} {names} {len(data)}\0".encode() + data
        name = get_object_id(content)
        self.contents[name] = content
        return ObjectTree(object_id=name, children=children)

    def array(self, order: object, *chunks: ObjectTree) -> ObjectTree:
        said = {"dtype": "uint8", "shape": [1], "stype": flower.STYPE, "arraychunk_ids": order}
        return self.add("Array", said, *chunks)

    def whole(self, array: ObjectTree, records: int = 1, blobs: int = 1) -> ObjectTree:
        """Return a message, which names its record and that its array so many times."""
        blob = {"blob" + "x" * n: array.object_id for n in range(blobs)}
        record = self.add("ArrayRecord", blob, array)
        names = {flower.KEY + "x" * n: record.object_id for n in range(records)}
        content = self.add("RecordDict", names, record)
        body = flower.to_bytes(Message(RecordDict(), 2, "train"))
        return self.add("Message", body, content)


def test_an_array_that_names_a_chunk_a_thousand_times() -> None:
    parts = Parts()
    chunk = parts.add("ArrayChunk", bytes(1 << 20))
    tree = parts.whole(parts.array([0] * 1000, chunk))
    with peak() as grown, pytest.raises(TooLarge, match="this unpacks to more"):
        pull(tree, fetch(parts.contents), 100_000_000)
    assert grown() < 30


@pytest.mark.parametrize(("records", "blobs"), [(500, 1), (1, 500)])
def test_a_record_that_names_another_many_times(records: int, blobs: int) -> None:
    """In memory it is small, and on the disk and on the way to the worker it is not."""
    parts = Parts()
    chunk = parts.add("ArrayChunk", bytes(1 << 20))
    tree = parts.whole(parts.array([0], chunk), records, blobs)
    with peak() as grown, pytest.raises(TooLarge, match="no coordinator sends"):
        pull(tree, fetch(parts.contents), 100_000_000)
    assert grown() < 30


@pytest.mark.parametrize(
    "order", [[1], [-1], ["0"], [True], None, {}, [[0]], [0.0]], ids=lambda order: f"{order}"
)
def test_an_array_has_its_own_chunks(order: object) -> None:
    parts = Parts()
    tree = parts.whole(parts.array(order, parts.add("ArrayChunk", b"x")))
    with pytest.raises(TooLarge, match="no coordinator sends"):
        pull(tree, fetch(parts.contents), 10_000)


def test_parts_that_hold_each_other() -> None:
    parts = Parts()
    for depth in (1, 3, 60):
        leaf = ObjectTree(object_id="ab" * 32)
        for _ in range(depth):
            leaf = ObjectTree(object_id="ab" * 32, children=[leaf])
        parts.contents["ab" * 32] = b"Message " + b"ab" * 32 + b" 0\0"
        with pytest.raises(TooLarge, match="no coordinator sends"):
            pull(leaf, fetch(parts.contents), 10_000)


def test_other_content_than_one_blob() -> None:
    error = flower.decline(Code.FAILED, flower.ask(b"?", 2, "train", "1"))
    for message in (
        Message(RecordDict({"fedlite": ConfigRecord({"blob": b"x", "more": 1})}), 2, "train"),
        Message(RecordDict({"fedlite": MetricRecord({"blob": 1.0})}), 2, "train"),
        Message(RecordDict({"other": ConfigRecord({"blob": b"x"})}), 2, "train"),
        Message(RecordDict({"fedlite": ConfigRecord({"blob": "x"})}), 2, "train"),
        Message(RecordDict(), 2, "train"),
        error,
    ):
        tree, parts = store(message)
        with pytest.raises(TooLarge, match="no coordinator sends"):
            pull(tree, fetch(parts), 10_000)


@pytest.mark.parametrize(
    ("kind", "group"),
    [
        ("train", ""),
        ("train", "1\x1b[31m"),
        ("train", "1\n2"),
        ("train", "x" * 65),
        ("train.\x1b", "1"),
        ("train." + "x" * 65, "1"),
    ],
)
def test_what_people_read_is_plain(kind: str, group: str) -> None:
    asked = flower.ask(b"?", 2, "train", "1")
    asked.metadata.__dict__.update(_message_type=kind, _group_id=group)
    tree, parts = store(asked)
    with pytest.raises(TooLarge, match="no coordinator sends"):
        pull(tree, fetch(parts), 10_000)


def test_a_record_of_a_million_values() -> None:
    """Each is a byte or two on the way, and far more in Python."""
    parts = Parts()
    value = RecordValueProto(sint_list=SintList(vals=[1] * 1_800_000))
    proto = ConfigRecordProto(items=[ConfigRecordProto.Item(key="blob", value=value)])
    record = parts.add("ConfigRecord", proto.SerializeToString())
    content = parts.add("RecordDict", {flower.KEY: record.object_id}, record)
    tree = parts.add("Message", flower.to_bytes(Message(RecordDict(), 2, "train")), content)
    with peak() as grown, pytest.raises(TooLarge, match="no coordinator sends"):
        pull(tree, fetch(parts.contents), 100_000_000)
    assert grown() < 60
