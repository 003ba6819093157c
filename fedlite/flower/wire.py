"""How fedlite's own apps use Flower: one blob a message, and the quirks that nobody else knows.

Flower's own telemetry, update check and per-run dependency install are switched off before it is
imported: a site that was promised that nothing but its update leaves must not call home. An app of
somebody else's promised nothing of the kind, so what serves it (`fedlite.flower.compress`) never
imports this module.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

for _switch, _value in (
    ("FLWR_TELEMETRY_ENABLED", "0"),
    ("FLWR_DISABLE_UPDATE_CHECK", "1"),
    ("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1"),
):
    os.environ.setdefault(_switch, _value)

from flwr.app import Context, Error, Message as Message, RecordDict  # noqa: E402
from flwr.common.serde import message_from_proto, message_to_proto  # noqa: E402
from flwr.proto.message_pb2 import Message as _MessageProto  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

from fedlite.flower import blob as blobs  # noqa: E402
from fedlite.flower.blob import CHUNKED_ABOVE as CHUNKED_ABOVE  # noqa: E402
from fedlite.messages import Code  # noqa: E402

STYPE = "fedlite.blob.v1"
KEY = "fedlite"
_ENTRY = "blob"
_ERROR_CODE = 100  # outside the range that Flower uses for its own errors


def wrap(blob: bytes) -> RecordDict:
    """Return the content of a message that carries `blob`: one record with one entry."""
    return RecordDict({KEY: blobs.to_record(blob, _ENTRY, STYPE)})


def unwrap(message: Message) -> bytes:
    """Return the blob that a message carries.

    Raises ValueError when it holds an error, or anything but the one record that `wrap` makes.
    """
    if message.has_error():
        raise ValueError("message: holds an error, not content")
    records = dict(message.content.items())
    record = records.pop(KEY, None)
    blob = None if record is None else blobs.of_record(record, _ENTRY, STYPE)
    if records or blob is None:
        raise ValueError("message: must hold exactly one fedlite record with one blob of bytes")
    return blob


def ask(blob: bytes, node: int, kind: str, group: str) -> Message:
    """Return a new message to `node`; `kind` is Flower's message type, `group` names the round."""
    return Message(wrap(blob), dst_node_id=node, message_type=kind, group_id=group)


def answer(blob: bytes, message: Message) -> Message:
    """Return the reply to `message` that carries `blob`."""
    return _reply(wrap(blob), message)


def decline(code: Code, message: Message) -> Message:
    """Return the reply that carries a code, and no text that could quote a record."""
    return _reply(error(code), message)


def _reply(content: RecordDict | Error, message: Message) -> Message:
    """Return the reply to `message`, with its times and not with those at which it was made.

    Flower would write down, to the microsecond, when a reply was made and what was left of the
    message's life then. How long a training takes depends on records, and a site that keeps a clock
    delivers later than it is done.
    """
    reply = Message(content, reply_to=message)
    reply.metadata.__dict__["_created_at"] = message.metadata.created_at
    reply.metadata.ttl = message.metadata.ttl
    return reply


def error(code: Code) -> Error:
    """Return Flower's error that stands for a code."""
    return Error(_ERROR_CODE, f"fedlite:{code.value}")


def code_of(message: Message) -> Code | None:
    """Return why a reply holds no update, or None when it holds content."""
    if not message.has_error():
        return None
    reason = message.error.reason or ""
    prefix, _, value = reason.partition(":")
    if prefix == "fedlite" and value in set(Code):
        return Code(value)
    return Code.FAILED


def to_bytes(message: Message) -> bytes:
    """Serialise a whole message with Flower's own protobuf, as it would cross a network."""
    data: bytes = message_to_proto(message).SerializeToString()
    return data


def from_bytes(data: bytes) -> Message:
    """Read a message that `to_bytes` wrote."""
    return message_from_proto(_MessageProto.FromString(data))


def identify(run_id: int, node_id: int) -> None:
    """Tell Flower which run this process belongs to; outside its own engines nobody else does."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, 1


def context(
    run_id: int, node_id: int, node_config: Mapping[str, Any], run_config: Mapping[str, Any]
) -> Context:
    """Return what an app is called with, and tell Flower whose this process is."""
    identify(run_id, node_id)
    return Context(
        run_id=run_id,
        node_id=node_id,
        node_config=dict(node_config),
        state=RecordDict(),
        run_config=dict(run_config),
    )


def set_message_id(message: Message, message_id: str) -> None:
    """Give a message its id, as the SuperLink does on arrival."""
    message.metadata.__dict__["_message_id"] = message_id
