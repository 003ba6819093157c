"""Messages of which more would become than they are worth."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from fedlite.inference.serving import protocol, wire
from fedlite.inference.serving.refused import Refused

REQUEST = protocol.message("inference.ModelInferRequest")
# Fields of ModelInferRequest: parameters 4, inputs 5, outputs 6, raw_input_contents 7.
NUMBERS = {"parameters": 4, "inputs": 5, "outputs": 6, "raw": 7, "unknown": 9}
EMPTY = {name: bytes([number << 3 | 2, 0]) for name, number in NUMBERS.items()}


def inside(field: int, content: bytes) -> bytes:
    """Return a field of so many bytes, below 2^14."""
    size = len(content)
    return bytes([field << 3 | 2, size & 0x7F | 0x80, size >> 7]) + content


@pytest.mark.parametrize("name", EMPTY)
def test_many_empty_fields_are_refused_before_they_are_objects(name: str) -> None:
    data = EMPTY[name] * 500_000
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match="more fields"):
            wire.bound(data, REQUEST.DESCRIPTOR, 1000, 0)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        inside(5, b"\x22\x00" * 2000),  # parameters of a tensor
        inside(5, inside(5, b"\x42\x00" * 2000)),  # texts in its contents
        b"\x48\x01" * 2000,  # numbers of a field that there is not
    ],
)
def test_fields_are_counted_wherever_they_stand(data: bytes) -> None:
    REQUEST.FromString(data)
    with pytest.raises(Refused):
        wire.bound(data, REQUEST.DESCRIPTOR, 1000, 0)
    wire.bound(data, REQUEST.DESCRIPTOR, 2005, 0)


def test_what_clients_send_has_few_fields() -> None:
    request = REQUEST(model_name="m", id="i")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1000, 64])
    tensor.contents.fp32_contents.extend([0.5] * 64_000)
    tensor.contents.int64_contents.extend([-1] * 64_000)
    request.parameters["missing"].bool_param = True
    request.outputs.add(name="label")
    request.raw_input_contents.append(bytes(1_000_000))
    wire.bound(request.SerializeToString(), REQUEST.DESCRIPTOR, 20, 128_002)


@pytest.mark.parametrize(
    ("field", "values"),
    [("int64_contents", [1]), ("int64_contents", [-1]), ("bool_contents", [True]),
     ("uint_contents", [300]), ("fp32_contents", [0.5]), ("fp64_contents", [0.5])],
)  # fmt: skip
def test_packed_numbers_are_counted_by_what_they_become(field: str, values: list[Any]) -> None:
    """A number of one byte on the wire takes eight in memory."""
    request = REQUEST()
    tensor = request.inputs.add(name="x", shape=[5, 5])
    getattr(tensor.contents, field).extend(values * 1000)
    data = request.SerializeToString()
    wire.bound(data, REQUEST.DESCRIPTOR, 10, 1002)
    for numbers in (1001, 0):
        with pytest.raises(Refused, match="more packed numbers"):
            wire.bound(data, REQUEST.DESCRIPTOR, 10, numbers)


@pytest.mark.parametrize(
    "data",
    [b"\x2a", b"\x2a\xff", b"\x2a\x05ab", b"\xff" * 11, b"\x2a\x02\x2a\x05", b"\x0f",
     # A group of a field that there is not would hide what follows it.
     b"\x4b\x4c" + EMPTY["inputs"]],
)  # fmt: skip
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(Refused, match="without groups"):
        wire.bound(data, REQUEST.DESCRIPTOR, 10, 0)


def test_a_message_of_many_tensors_is_answered_with_its_rule(start: Any, bundle: Any) -> None:
    import grpc

    live = start(bundle)
    request = REQUEST(model_name="routed")
    for _ in range(20_000):
        request.inputs.add()
    with pytest.raises(grpc.RpcError) as no:
        live.ask("ModelInfer", request)
    assert no.value.code().name == "INVALID_ARGUMENT" and "more fields" in no.value.details()
    assert live.ask("Status") and live.service.figures.codes["INVALID_ARGUMENT"] == 1
