"""The messages are those that others speak."""

from __future__ import annotations

from typing import Any

import pytest

from fedlite.inference.serving import protocol


def form(message: Any) -> dict[str, Any]:
    """Return the fields of a message by name: number, type, whether there are many, of what."""
    return {
        one.name: (
            one.number,
            one.type,
            one.is_repeated,
            one.message_type.full_name if one.message_type else "",
            one.containing_oneof.name if one.containing_oneof else "",
        )
        for one in message.fields
    }


def test_every_message_is_that_of_another_implementation() -> None:
    theirs = pytest.importorskip("tritonclient.grpc").service_pb2.DESCRIPTOR.message_types_by_name
    seen = []

    def compare(mine: Any, other: Any) -> None:
        assert form(mine) == form(other), mine.full_name
        seen.append(mine.full_name)
        for name, inner in mine.nested_types_by_name.items():
            compare(inner, other.nested_types_by_name[name])

    names = [
        f"{m}{w}" for m in protocol.methods(protocol.INFERENCE) for w in ("Request", "Response")
    ]
    for name in (*names, "InferParameter", "InferTensorContents"):
        compare(protocol.message(f"inference.{name}").DESCRIPTOR, theirs[name])
    assert len(seen) > 20


def test_bytes_written_out_by_hand_are_read() -> None:
    # model_name (1) "m", one input (5) of name (1) "x" and shape (3) [2], raw contents (7) "ab".
    found = protocol.message("inference.ModelInferRequest").FromString(
        b"\x0a\x01m" + b"\x2a\x06\x0a\x01x\x1a\x01\x02" + b"\x3a\x02ab"
    )
    assert found.model_name == "m" and found.inputs[0].name == "x"
    assert list(found.inputs[0].shape) == [2] and list(found.raw_input_contents) == [b"ab"]
