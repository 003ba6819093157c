from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from fedlite import flower
from server.coordinator import bodies
from server.coordinator.gateway import FLEET

USUAL = 256_000_000


@pytest.fixture
def identity() -> None:
    flower.identify(2**62, 2**63 - 1)


def announcement(reply: Message) -> PushMessagesRequest:
    return PushMessagesRequest(
        node=Node(node_id=2**63 - 1), message_object_trees=[get_object_tree(reply)]
    )


@pytest.mark.parametrize("length", [100, 900_000, 1_000_001, 50_000_000])
def test_a_genuine_reply_is_far_below_every_limit(identity: None, length: int) -> None:
    asked = Message(content=RecordDict({}), dst_node_id=2**63 - 1, message_type="train")
    flower.set_message_id(asked, "a" * 64)
    reply = flower.answer(np.random.default_rng(0).bytes(length), asked)
    flower.set_message_id(reply, reply.object_id)
    limits = bodies.limits(FLEET, length)
    said = announcement(reply).SerializeToString()
    # The outline of the message itself is 160 bytes more.
    assert 2 * (len(said) + 160) < limits["push-messages"]
    assert bodies.announced(said) <= bodies.parts(length) - 3
    longest = max(
        PushObjectRequest(
            node=Node(node_id=2**63 - 1),
            run_id=2**62,
            object_id=name,
            object_content=one.deflate(),
            session_id="a" * 36,
        ).ByteSize()
        for name, one in get_all_nested_objects(reply).items()
    )
    assert longest < bodies.limits(FLEET, USUAL)["push-object"]


def test_every_path_has_a_limit_and_only_parts_may_be_long() -> None:
    limits = bodies.limits(FLEET, USUAL)
    assert set(limits) == set(FLEET) and limits.pop("push-object") == bodies.PART_BYTES
    assert max(limits.values()) < 12_000
    # Nor may a larger reply have longer parts; a smaller one has shorter.
    assert bodies.limits(FLEET, 10**11)["push-object"] == bodies.PART_BYTES
    assert bodies.limits(FLEET, 10**6)["push-object"] == 10**6


def test_parts_are_counted_however_deep_they_lie() -> None:
    tree = ObjectTree(object_id="0")
    deepest = tree
    for number in range(40):
        deepest.children.append(ObjectTree(object_id=f"side {number}"))
        deepest = deepest.children.add(object_id=str(number))
    request = PushMessagesRequest(message_object_trees=[tree, ObjectTree(object_id="other")])
    assert bodies.announced(request.SerializeToString()) == 82
    assert bodies.announced(b"\xff" * 50) == 0


@pytest.mark.parametrize(
    ("node", "sender", "to"), [(5, 1, ""), (5, 6, "q"), (5, 5, ""), (0, 1, "q")]
)
def test_what_is_no_reply_of_ones_own_is_refused(node: int, sender: int, to: str) -> None:
    request = PushMessagesRequest(node=Node(node_id=5))
    request.messages_list.add().metadata.MergeFrom(Metadata(src_node_id=5, reply_to_message_id="q"))
    assert bodies.announced(request.SerializeToString()) == 0
    request.node.node_id = node
    request.messages_list.add().metadata.MergeFrom(
        Metadata(src_node_id=sender, reply_to_message_id=to)
    )
    with pytest.raises(bodies.NotItsReply):
        bodies.announced(request.SerializeToString())


# On the way -------------------------------------------------------------------------------------


def messages(*given: Any) -> bodies.Receive:
    waiting: Iterator[Any] = iter(given)

    async def receive() -> Any:
        try:
            return next(waiting)
        except StopIteration:
            await asyncio.sleep(3600)

    return receive


def test_a_body_is_put_together() -> None:
    given = messages(
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "body": b"c"},
    )
    assert asyncio.run(bodies.read(given, 3)) == b"abc"


def test_a_sender_who_leaves_or_dawdles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = {"type": "http.request", "body": b"ab", "more_body": True}
    with pytest.raises(bodies.Gone):
        asyncio.run(bodies.read(messages(begun, {"type": "http.disconnect"}), 3))
    monkeypatch.setattr(bodies, "_PATIENCE", 0.05)
    with pytest.raises(TimeoutError):
        asyncio.run(bodies.read(messages(begun, begun, begun), 3))


def test_a_part_has_time_on_a_slow_line_and_no_more() -> None:
    assert bodies.seconds(0) == 30.0
    assert 100 < bodies.seconds(bodies.PART_BYTES) < 150


def test_room_is_shared_and_given_back() -> None:
    async def scenario() -> None:
        room = bodies.Room(site_bytes=10, all_bytes=15, short=1)
        async with room.body("a", 8, 0.1):
            with pytest.raises(bodies.NoRoom):  # its own bound
                async with room.body("a", 3, 0.1):
                    pass
            async with room.body("b", 5, 0.1):
                with pytest.raises(bodies.NoRoom):  # that of all
                    async with room.body("b", 3, 0.1):
                        pass
        with pytest.raises(RuntimeError):
            async with room.body("a", 10, 0.1):
                raise RuntimeError
        async with room.body("a", 10, 0.1):
            pass

    asyncio.run(scenario())


def test_sites_that_hold_all_room_stop_nobody_else() -> None:
    """Questions need no room, and one part at a time is every site's own."""

    async def scenario() -> None:
        room = bodies.Room()
        async with AsyncExitStack() as held:
            for site in range(7):
                for _ in range(8):
                    with suppress(bodies.NoRoom):
                        body = room.body(f"hostile {site}", bodies.PART_BYTES, 0.06)
                        await held.enter_async_context(body)
            async with room.body("honest", 400, 0.1), room.body("honest", bodies.PART_BYTES, 0.1):
                async with room.body("honest", 400, 0.1):
                    pass
                with pytest.raises(bodies.NoRoom):
                    async with room.body("honest", bodies.PART_BYTES, 0.1):
                        pass

    asyncio.run(scenario())


def test_who_waits_for_room_gets_it_when_it_is_free() -> None:
    async def scenario() -> list[int]:
        room, order = bodies.Room(site_bytes=10, all_bytes=10, short=1), list[int]()

        async def one(number: int, seconds: float) -> None:
            async with room.body("a", 8, 5.0):
                order.append(number)
                await asyncio.sleep(seconds)

        await asyncio.gather(one(1, 0.2), one(2, 0.0))
        return order

    assert asyncio.run(scenario()) == [1, 2]


def test_a_site_has_so_many_requests_at_a_time() -> None:
    room = bodies.Room()
    held = [room.request("a") for _ in range(bodies.SITE_REQUESTS)]
    for one in held:
        one.__enter__()
    with pytest.raises(bodies.TooMany), room.request("a"):
        pass
    with room.request("b"):
        pass
    held[0].__exit__(None, None, None)
    with room.request("a"):
        pass
