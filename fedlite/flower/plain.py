"""What a client sent as Flower's own, held against the model before anybody loads it.

Whoever averages arrays loads each by a header inside it, whatever the record says of it: of another
shape or kind it ends the run, NaN spoils the model, and a few bytes can ask for all memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from tokenize import TokenError

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedlite.flower.tensors import Arrays, Tensor, Tensors
from fedlite.parameters import LARGEST_UPDATE

_NUMBERS = "biuf"
_STYPE = "numpy.ndarray"
# All that NumPy raises on a header that is none.
_DAMAGE = (ValueError, EOFError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError)


def misfit(record: ArrayRecord, tensors: Tensors, onto: Arrays) -> str:
    """Return how a client's arrays differ from the model `onto`, or ""; `tensors` are of that.

    They have its shapes, in their headers as well; are numbers where it has numbers; and are finite
    and no further away than an update may lead.
    """
    sent = {tensor.name: tensor.shape for tensor in tensors.entries}
    if {name: tuple(array.shape) for name, array in record.items()} != sent:
        return "its tensors are not those of the model that was sent"
    for tensor in tensors.entries:
        if why := _misfit(record[tensor.name], tensor, onto[tensor.name]):
            return f"tensor {tensor.name!r}: {why}"
    return ""


def _misfit(array: Array, tensor: Tensor, before: NDArray[np.generic]) -> str:
    file = BytesIO(array.data)
    try:
        if array.stype != _STYPE or npy.read_magic(file) != (1, 0):
            raise ValueError("another format")
        shape, _, dtype = npy.read_array_header_1_0(file)
    except _DAMAGE as error:
        return f"must be a NumPy array in Flower's own form ({str(error)[:80]})"
    numbers = tensor.dtype.kind in _NUMBERS
    if shape != tensor.shape or not (dtype.kind in _NUMBERS if numbers else dtype == tensor.dtype):
        return f"must be {tensor.dtype} {tensor.shape}, is {dtype} {shape}"
    if len(array.data) - file.tell() != math.prod(shape) * dtype.itemsize:
        return "must have as many bytes as its shape says"
    if not numbers:
        return ""
    new, was = array.numpy(), np.isfinite(before)
    with np.errstate(over="ignore", invalid="ignore"):
        there = np.isfinite(new) & np.isfinite(new.astype(tensor.dtype))
        far = not tensor.exact and np.abs(new - before).max(initial=0) > LARGEST_UPDATE
    if not there[was].all():
        return "must stay finite where it was"
    return f"must change by at most {LARGEST_UPDATE:g}" if far else ""


def overweight(reply: Message, key: str) -> str:
    """Return why the number by which a strategy weighs a reply can be none, or ""."""
    for name, record in reply.content.metric_records.items():
        weight = record.get(key, 0)
        if isinstance(weight, int | float) and not 0 <= weight < math.inf:
            return f"record {name!r}: {key} must be a number of at least 0, is {weight!r}"
    return ""


def odd(replies: Sequence[Message]) -> list[Message]:
    """Return the replies whose records are not named and made as those of most others."""
    forms = {id(reply): _form(reply) for reply in replies if reply.has_content()}
    usual = Counter(forms.values()).most_common(1)
    return [reply for reply in replies if forms.get(id(reply)) not in {None, *dict(usual)}]


def _form(reply: Message) -> tuple[object, ...]:
    """Return the kinds and names of a reply's arrays and metrics, and how long lists are."""
    kinds = (ArrayRecord, MetricRecord)
    records = ((key, one) for key, one in reply.content.items() if isinstance(one, kinds))
    return tuple(
        (key, type(record).__name__, *sorted((name, _length(v)) for name, v in record.items()))
        for key, record in sorted(records, key=lambda named: named[0])
    )


def _length(value: object) -> int:
    return len(value) if isinstance(value, list) else -1
