"""A message's parts, checked one by one as they come: what they unpack to is known before.

Flower's parts name each other, so that a short one can name a long one a million times. But a
coordinator of fedlite sends one blob a message, and its parts have one of two forms:

    Message > RecordDict > ConfigRecord
    Message > RecordDict > ArrayRecord > Array > ArrayChunk, one or more, equal ones sent once
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import get_object_head_values_from_object_content
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedlite import flower
from fedlite.deployment.document import check_text

# The longest parts: Flower cuts an array into 5 MiB; what only names other parts is far shorter.
_CHUNK, _NAMES = 8 << 20, 1 << 20


class TooLarge(ValueError):
    """A message is larger than the site's policy lets in, or none that a coordinator sends.

    What it unpacks to was not made.
    """


def pull(tree: ObjectTree, fetch: Callable[[str, int], bytes], limit: int) -> Message:
    """Return the message whose parts `tree` names.

    fetch: returns a part by its name, and raises TooLarge where it has more than so many bytes.
    limit: bytes of all parts, and of what they unpack to. Raises TooLarge.
    """
    parts = _Parts(fetch, limit)
    parts.take("Message", tree, _NAMES)
    record = parts.only_child("RecordDict", parts.child(tree), flower.KEY)
    if record.children:
        parts.take_array(parts.only_child("ArrayRecord", record, "blob"))
    else:
        parts.take("ConfigRecord", record, flower.CHUNKED_ABOVE + _NAMES)
    try:
        message = inflate_object_from_contents(tree.object_id, parts.contents)
        if not isinstance(message, Message):
            raise ValueError("message: is none")
        flower.unwrap(message)
        # What a person reads in `fedlite site status`, and in logs.
        check_text("group_id", message.metadata.group_id)
        check_text("message_type", message.metadata.message_type)
    except (ValueError, KeyError, TypeError) as error:
        raise TooLarge(f"a message that no coordinator sends: {error}") from None
    flower.set_message_id(message, tree.object_id)
    return message


class _Parts:
    """The parts that came, by name; each is what its place in the tree says."""

    def __init__(self, fetch: Callable[[str, int], bytes], limit: int) -> None:
        self.contents: dict[str, bytes] = {}
        self._fetch, self._limit, self._left = fetch, limit, limit

    def take(self, kind: str, node: ObjectTree, most: int) -> bytes:
        """Fetch one part, of at most `most` bytes, and return its body."""
        name = node.object_id
        _expect(name not in self.contents, "a part holds itself")
        part = self._fetch(name, min(most, self._left))
        self._left -= len(part)
        if self._left < 0 or len(part) > most:
            raise TooLarge(f"limits.down: a message may have {self._limit} bytes, this has more")
        self.contents[name] = part
        try:
            said, children, _ = get_object_head_values_from_object_content(part)
        except ValueError:
            said, children = "", []
        _expect(said == kind, f"a part must be a {kind}")
        _expect(children == [one.object_id for one in node.children], f"{kind}: other parts")
        return part[part.find(HEAD_BODY_DIVIDER) + 1 :]

    def child(self, node: ObjectTree) -> ObjectTree:
        """Return the one child of a node."""
        _expect(len(node.children) == 1, "one blob a message")
        child: ObjectTree = node.children[0]
        return child

    def only_child(self, kind: str, node: ObjectTree, name: str) -> ObjectTree:
        """Fetch a part that gives one other part a name; return that one's node."""
        child = self.child(node)
        said = _json(self.take(kind, node, _NAMES))
        _expect(said == {name: child.object_id}, f"{kind}: one entry, {name}")
        return child

    def take_array(self, node: ObjectTree) -> None:
        """Fetch an array and its chunks."""
        said = _json(self.take("Array", node, _NAMES))
        order = said.get("arraychunk_ids") if isinstance(said, dict) else None
        known = range(len(node.children))
        _expect(
            isinstance(order, list) and all(type(at) is int and at in known for at in order),
            "Array: its own chunks",
        )
        _expect(len({one.object_id for one in node.children}) == len(known), "Array: each once")
        sizes = [len(self.take("ArrayChunk", one, _CHUNK)) for one in node.children]
        if sum(sizes[at] for at in order or ()) > self._limit:
            raise TooLarge(
                f"limits.down: a message may have {self._limit} bytes, this unpacks to more"
            )


def _expect(good: bool, what: str) -> None:
    if not good:
        raise TooLarge(f"a message that no coordinator sends: {what}")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
