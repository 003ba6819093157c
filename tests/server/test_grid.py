"""The network grid against a SuperLink that delivers parts late, never, or too large."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run

from fedlite import flower
from fedlite.messages import Code
from server.grid import NetworkGrid


class Link:
    """Answers as the SuperLink does; `late` names parts that are not here yet."""

    def __init__(self) -> None:
        self.outlines: list[tuple[Any, Any]] = []
        self.parts: dict[str, bytes] = {}
        self.late: set[str] = set()
        self.asked: list[list[str]] = []
        self.confirmed: list[str] = []
        self.broken = 0

    def add(self, reply: Message) -> list[str]:
        flower.set_message_id(reply, reply.object_id)
        tree = get_object_tree(reply)
        self.outlines.append((message_to_proto(remove_content_from_message(reply)), tree))
        parts = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
        self.parts |= parts
        return list(parts)

    def PullMessages(self, request: Any) -> Any:
        self.asked.append(list(request.message_ids))
        if self.broken:
            self.broken -= 1
            raise httpx.ReadTimeout("slow")
        found, self.outlines = self.outlines, []
        return SimpleNamespace(
            messages_list=[proto for proto, _ in found],
            message_object_trees=[tree for _, tree in found],
        )

    def PullObject(self, request: Any) -> Any:
        name = request.object_id
        return SimpleNamespace(
            object_found=name in self.parts,
            object_available=name in self.parts and name not in self.late,
            object_content=self.parts.get(name, b""),
        )

    def ConfirmMessageReceived(self, request: Any) -> None:
        self.confirmed.append(request.message_object_id)


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def grid(link: Link) -> NetworkGrid:
    made = NetworkGrid("127.0.0.1:1", insecure=True, token="t")
    made._client = link  # type: ignore[assignment]
    made.set_run(Run.create_empty(run_id=7))
    return made


def reply(blob: bytes) -> Message:
    flower.identify(7, 5)
    question = flower.ask(b"?", 5, "train", "1")
    flower.set_message_id(question, "q")
    return flower.answer(blob, question)


def test_a_whole_reply_is_returned_and_confirmed(grid: NetworkGrid, link: Link) -> None:
    link.add(reply(b"update"))
    (found,) = grid.pull_messages(["q"])
    assert flower.unwrap(found) == b"update" and found.metadata.reply_to_message_id == "q"
    assert link.confirmed == [found.metadata.message_id]
    assert list(grid.pull_messages(["q"])) == []


def test_a_late_part_is_waited_for_without_asking_again(grid: NetworkGrid, link: Link) -> None:
    """Flower forgets the question with its reply: asked again it would say that it never was."""
    link.late = set(link.add(reply(b"update"))[1:2])
    assert grid.pull_messages(["q"]) == []
    assert grid.pull_messages(["q", "r"]) == []
    assert link.asked == [["q"], ["r"]]
    link.late = set()
    (found,) = grid.pull_messages(["q"])
    assert flower.unwrap(found) == b"update"


def test_a_part_that_never_comes_ends_with_patience(grid: NetworkGrid, link: Link) -> None:
    link.late = set(link.add(reply(b"update")))
    grid.patience = 0.0
    assert grid.pull_messages(["q"]) == []
    (found,) = grid.pull_messages(["q"])
    assert flower.code_of(found) is Code.BAD_UPDATE and found.metadata.src_node_id == 5


def test_a_reply_larger_than_the_plan_is_dropped_by_name(grid: NetworkGrid, link: Link) -> None:
    link.add(reply(b"x" * 200_000))
    grid.limit = 1000
    (found,) = grid.pull_messages(["q"])
    assert flower.code_of(found) is Code.BAD_UPDATE and found.metadata.src_node_id == 5
    assert link.confirmed == []


def test_a_part_that_was_taken_back_is_no_reply(grid: NetworkGrid, link: Link) -> None:
    del link.parts[link.add(reply(b"update"))[2]]
    (found,) = grid.pull_messages(["q"])
    assert flower.code_of(found) is Code.BAD_UPDATE


def test_a_superlink_that_does_not_answer_is_asked_again(grid: NetworkGrid, link: Link) -> None:
    link.add(reply(b"update"))
    link.broken = 1
    assert grid.pull_messages(["q"]) == []
    (found,) = grid.pull_messages(["q"])
    assert flower.unwrap(found) == b"update"


def test_bytes_that_flower_cannot_read_are_no_reply(grid: NetworkGrid, link: Link) -> None:
    name = link.add(reply(b"update"))[0]
    link.parts[name] = b"\x00garbage"
    (found,) = grid.pull_messages(["q"])
    assert flower.code_of(found) is Code.BAD_UPDATE


@pytest.mark.parametrize(
    ("key", "value"), [("_src_node_id", 6), ("_reply_to_message_id", "r"), ("_run_id", 8)]
)
def test_what_a_reply_says_of_itself_is_nobody_elses_answer(
    grid: NetworkGrid, link: Link, key: str, value: Any
) -> None:
    """Flower checks the outline only; a site makes up what is packed with the parts."""
    forged = reply(b"update")
    outline = message_to_proto(remove_content_from_message(forged))
    forged.metadata.__dict__[key] = value
    link.add(forged)
    outline.metadata.message_id = forged.object_id
    link.outlines = [(outline, link.outlines[0][1])]
    (found,) = grid.pull_messages(["q", "r"])
    assert flower.code_of(found) is Code.BAD_UPDATE
    assert found.metadata.src_node_id == 5 and found.metadata.reply_to_message_id == "q"
