"""Requests of the protocol as inputs of a bundle, and its answers as responses.

A request has one tensor, `x`: numbers [n, *shape], or of a model of texts BYTES [n], each a text in
UTF-8. They are in `raw_input_contents` or in the typed contents of the tensor; the answers come the
same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data.sources.texts import check_text
from fedlite.inference.bundle import Answers, Bundle
from fedlite.inference.serving import protocol
from fedlite.inference.serving.refused import Refused

INPUT = "x"
# How each datatype lies in raw bytes, and which typed contents hold it.
TYPES: dict[str, tuple[str, str]] = {
    "BOOL": ("?", "bool_contents"),
    "INT8": ("<i1", "int_contents"),
    "INT16": ("<i2", "int_contents"),
    "INT32": ("<i4", "int_contents"),
    "INT64": ("<i8", "int64_contents"),
    "UINT8": ("<u1", "uint_contents"),
    "UINT16": ("<u2", "uint_contents"),
    "UINT32": ("<u4", "uint_contents"),
    "UINT64": ("<u8", "uint64_contents"),
    "FP16": ("<f2", ""),
    "FP32": ("<f4", "fp32_contents"),
    "FP64": ("<f8", "fp64_contents"),
}
# Texts that are made into tokens before others have their turn: their bytes, and how many.
_PIECE, _PIECE_ROWS = 16_384, 256
# Of a text, and of all texts of a request, in bytes: to redact them and make tokens of them takes
# time, also of what lies beyond the longest that the model reads.
TEXT_BYTES, TEXTS_BYTES = 16_384, 4 << 20
# Beside the numbers: names, shapes, parameters.
_AROUND = 64 * 1024
# Of an id, which comes back and is kept until labels follow.
_LONGEST_ID = 128


@dataclass(frozen=True)
class Output:
    """A tensor of a response. width: of a row; 0: a row is one value. read: its values."""

    datatype: str
    width: Callable[[Bundle], int]
    read: Callable[[Answers], NDArray[Any]]


OUTPUTS = {
    "label": Output("BYTES", lambda _: 0, lambda found: np.array(found.labels, np.object_)),
    "class": Output("INT64", lambda _: 0, lambda found: found.classes),
    "probabilities": Output("FP64", lambda one: len(one.labels), lambda found: found.shares),
    "early": Output("BOOL", lambda _: 0, lambda found: found.early),
    "score": Output("FP64", lambda _: 0, lambda found: found.scores),
}


@dataclass(frozen=True)
class Ask:
    """A request that was read.

    inputs: [n, *shape], as the bundle reads them: tokens over a mask of a model of texts.
    outputs: names in OUTPUTS, in the order of the response. raw: whether they go back as raw bytes.
    """

    inputs: NDArray[Any]
    outputs: tuple[str, ...]
    raw: bool


@dataclass(frozen=True)
class Given:
    """A request of which nothing was computed yet. x: numbers, or texts; the rest as of Ask."""

    x: NDArray[Any] | list[str]
    missing: bool
    outputs: tuple[str, ...]
    raw: bool


def longest(bundle: Bundle, rows: int) -> int:
    """Return how many bytes the message of a request of so many rows may have, before it is read.

    >>> from types import SimpleNamespace
    >>> one, other = (SimpleNamespace(shape=s, reads_texts=False) for s in ((1, 8, 8), (64,)))
    >>> longest(one, 16) - longest(other, 15)
    640
    """
    if bundle.reads_texts:
        # Behind the length of each.
        return TEXTS_BYTES + 16 * rows + _AROUND
    # A number takes 8 bytes as FP64, and up to 10 as a negative INT64 in typed contents.
    return 10 * rows * math.prod(bundle.shape) + _AROUND


def rows(bundle: Bundle, bytes_: int) -> int:
    """Return how many rows a request may have for its message to have at most so many bytes."""
    # Of a text what becomes of it, tokens and mask: few bytes are many rows.
    each = (8 if bundle.reads_texts else 10) * math.prod(bundle.shape)
    return max(0, bytes_ - _AROUND - bundle.reads_texts * TEXTS_BYTES) // each


def read(request: Any, bundle: Bundle, rows: int) -> Ask:
    """Return what a ModelInferRequest asks of a bundle; at most so many rows of it.

    Raises Refused where the request is none that the bundle can answer.
    """
    found = given(request, bundle, rows)
    return Ask(prepared(bundle, found.x, found.missing), found.outputs, found.raw)


def given(request: Any, bundle: Bundle, rows: int) -> Given:
    """Return what a request holds, held against the rules of its form; raises Refused."""
    if len(request.id) > _LONGEST_ID:
        raise _wrong(f"id: must have at most {_LONGEST_ID} characters, got {len(request.id)}")
    outputs = tuple(one.name for one in request.outputs) or tuple(OUTPUTS)
    for name in outputs:
        if name not in OUTPUTS:
            raise _wrong(f"outputs: must be among {', '.join(OUTPUTS)}, got {name!r:.80}")
    if len(set(outputs)) != len(outputs):
        raise _wrong("outputs: must name each once, got one twice; leave it out")
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        names = ", ".join(repr(one.name)[:40] for one in request.inputs[:3])
        raise _wrong(f"inputs: must be one tensor called {INPUT!r}, got {names or 'none'}")
    x, raw = (_texts if bundle.reads_texts else _tensor)(request, bundle, rows)
    return Given(x, _missing(request), outputs, raw)


def prepared(bundle: Bundle, x: NDArray[Any] | list[str], missing: bool) -> NDArray[Any]:
    """Return inputs as the bundle reads them; raises Refused."""
    try:
        return bundle.prepared(x, missing=missing)
    except ValueError as error:
        text = str(error).replace("predict(x, missing=True)", "the parameter missing = true")
        raise _wrong(text) from None


def pieces(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield texts in their order, so few at a time that they take no long time.

    >>> [len(piece) for piece in pieces(["a"] * 257 + ["a" * 10_000] * 3)]
    [256, 2, 1, 1]
    """
    piece, size = list[str](), 0
    for text in texts:
        if piece and (size + len(text) > _PIECE or len(piece) == _PIECE_ROWS):
            yield piece
            piece, size = [], 0
        piece.append(text)
        size += len(text)
    yield piece


def _tensor(request: Any, bundle: Bundle, rows: int) -> tuple[NDArray[Any], bool]:
    tensor = request.inputs[0]
    if tensor.datatype not in TYPES:
        raise _wrong(f"x: datatype must be FP32 or FP64, got {tensor.datatype!r:.80}; convert it")
    kind, field = TYPES[tensor.datatype]
    shape = tuple(tensor.shape)
    if shape[1:] != bundle.shape or shape[0] < 1:
        wanted = ", ".join(map(str, ("n", *bundle.shape)))
        got = f"{list(shape[:8])}{' and more' if len(shape) > 8 else ''}"
        raise _wrong(f"x: must have the shape [{wanted}], n at least 1, got {got}; reshape it")
    if shape[0] > rows:
        raise _wrong(f"x: must have at most {rows} rows, got {shape[0]}; send it in parts")
    size = math.prod(shape)
    raw = bool(request.raw_input_contents)
    if raw:
        if len(request.raw_input_contents) != 1 or tensor.HasField("contents"):
            raise _wrong("x: must be in raw_input_contents or in typed contents, once; got both")
        content = request.raw_input_contents[0]
        wide = np.dtype(kind).itemsize
        if len(content) != size * wide:
            raise _wrong(
                f"x: must have {size * wide} bytes for {tensor.datatype} {list(shape)}, got "
                f"{len(content)}"
            )
        return np.frombuffer(content, kind).reshape(shape), True
    given = [one.name for one, _ in tensor.contents.ListFields()]
    if not field or given != [field]:
        told = ", ".join(given) or "nothing"
        where = f"{field} or raw_input_contents" if field else "raw_input_contents"
        raise _wrong(f"x: {tensor.datatype} must be in {where}, and it has {told}")
    numbers = getattr(tensor.contents, field)
    if len(numbers) != size:
        raise _wrong(f"x: must have {size} numbers for the shape {list(shape)}, got {len(numbers)}")
    try:
        return np.array(numbers, kind).reshape(shape), False
    except OverflowError:
        raise _wrong(f"x: must hold numbers that fit into {tensor.datatype}") from None


def _texts(request: Any, bundle: Bundle, rows: int) -> tuple[list[str], bool]:
    tensor = request.inputs[0]
    shape, raw = tuple(tensor.shape), bool(request.raw_input_contents)
    if tensor.datatype != "BYTES" or len(shape) != 1 or not 1 <= shape[0] <= rows:
        got = f"{tensor.datatype!r:.80} {list(shape[:8])}"
        raise _wrong(f"x: must be BYTES [n], n from 1 to {rows}, a text each, got {got}")
    if raw and (len(request.raw_input_contents) != 1 or tensor.HasField("contents")):
        raise _wrong("x: must be in raw_input_contents or in typed contents, once; got both")
    if raw:
        given = _apart(request.raw_input_contents[0], shape[0])
    else:
        given = list(tensor.contents.bytes_contents)
    if len(given) != shape[0]:
        raise _wrong(f"x: must have {shape[0]} texts for the shape {list(shape)}, got {len(given)}")
    if sum(map(len, given)) > TEXTS_BYTES:
        raise _wrong(
            f"x: must have at most {TEXTS_BYTES} bytes of texts together; send it in parts"
        )
    for row, one in enumerate(given):
        if len(one) > TEXT_BYTES:
            rule = f"must have at most {TEXT_BYTES} bytes, has {len(one)}"
            raise _wrong(f"x: text {row} {rule}; of it {bundle.shape[1]} tokens are read: cut it")
    try:
        texts = [one.decode("utf-8") for one in given]
    except UnicodeDecodeError:
        raise _wrong("x: must be texts in UTF-8; encode them anew") from None
    try:
        # All of them here, where their rows are known.
        return [check_text(one, f"x, row {row}", 0, "text") for row, one in enumerate(texts)], raw
    except ValueError as error:
        raise _wrong(str(error)) from None


def _apart(content: bytes, most: int) -> list[bytes]:
    """Return the texts of raw contents, each behind its length, of which there may be so many."""
    found: list[bytes] = []
    at = 0
    while at < len(content):
        end = at + 4 + int.from_bytes(content[at : at + 4], "little")
        if end > len(content) or len(found) == most:
            raise _wrong(f"x: must be {most} texts, each behind its length in 4 bytes, is not")
        found.append(content[at + 4 : end])
        at = end
    return found


def _missing(request: Any) -> bool:
    if "missing" not in request.parameters:
        return False
    given = request.parameters["missing"]
    if given.WhichOneof("parameter_choice") != "bool_param":
        raise _wrong("parameters.missing: must be true or false, a bool_param")
    return bool(given.bool_param)


def response(request: Any, ask: Ask, bundle: Bundle, version: str, found: Answers) -> Any:
    """Return the ModelInferResponse that answers a request by a version of a model."""
    made = protocol.message("inference.ModelInferResponse")(
        model_name=request.model_name, model_version=version, id=request.id
    )
    for name in ask.outputs:
        output = OUTPUTS[name]
        tensor = made.outputs.add(name=name, datatype=output.datatype)
        width = output.width(bundle)
        tensor.shape.extend((len(found), width) if width else (len(found),))
        values = output.read(found)
        if ask.raw:
            made.raw_output_contents.append(_bytes(values, output.datatype))
        elif output.datatype == "BYTES":
            tensor.contents.bytes_contents.extend(value.encode() for value in values)
        else:
            field = getattr(tensor.contents, TYPES[output.datatype][1])
            field.extend(values.ravel().tolist())
    return made


def _bytes(values: NDArray[Any], datatype: str) -> bytes:
    if datatype == "BYTES":
        texts = [value.encode() for value in values]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return values.astype(TYPES[datatype][0], copy=False).tobytes()


def metadata(bundle: Bundle, name: str, versions: tuple[str, ...]) -> Any:
    """Return the ModelMetadataResponse of a bundle under a name."""
    made = protocol.message("inference.ModelMetadataResponse")(
        name=name, versions=versions, platform="fedlite_bundle"
    )
    if bundle.reads_texts:
        made.inputs.add(name=INPUT, datatype="BYTES", shape=[-1])
    else:
        made.inputs.add(name=INPUT, datatype="FP32", shape=[-1, *bundle.shape])
    for what, output in OUTPUTS.items():
        width = output.width(bundle)
        shape = [-1, width] if width else [-1]
        made.outputs.add(name=what, datatype=output.datatype, shape=shape)
    return made


def _wrong(text: str) -> Refused:
    return Refused("INVALID_ARGUMENT", text)
