"""From one state of a record's tensors to another, in few bytes.

Body: a bit for every tensor that changed, from the lowest; the changed ones that travel as they
are, in their own bytes; the compressed difference of all others that changed, as one vector. What
did not change, a frozen layer say, costs one bit and is left untouched by the compression of the
rest. Names, shapes and kinds are not sent: both ends have them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import Compressor, Context
from fedlite.flower.tensors import Arrays, Tensor, Tensors
from fedlite.parameters import LARGEST_UPDATE

# The compressor for a vector of tensors of these sizes.
Choice = Callable[[tuple[int, ...]], Compressor]


def encode(tensors: Tensors, base: Arrays, new: Arrays, choice: Choice, context: Context) -> bytes:
    """Return the body that leads from `base` to `new`; `new` fits (`Tensors.misfit`).

    Raises:
        ValueError: a compressed tensor of `new` is not finite, or changed beyond float32.
    """
    changed = [t for t in tensors.entries if not _same(base[t.name], new[t.name])]
    names = {tensor.name for tensor in changed}
    mask = np.packbits([t.name in names for t in tensors.entries], bitorder="little")
    exact = [new[t.name].astype(t.dtype, copy=False).tobytes() for t in changed if t.exact]
    sent = [t for t in changed if not t.exact]
    body = b""
    if sent:
        vector = np.concatenate([_difference(t, base[t.name], new[t.name]) for t in sent])
        body = choice(tuple(t.size for t in sent)).compress(vector, context)
    return b"".join((mask.tobytes(), *exact, body))


def decode(
    tensors: Tensors, onto: Arrays, body: bytes, choice: Choice, context: Context
) -> dict[str, NDArray[Any]]:
    """Return `onto` with the change in a possibly hostile `body` applied; `onto` stays as it is.

    What is allocated depends on `tensors` alone, which the receiver knows beforehand.

    Raises:
        ValueError: `body` is not what `encode` writes for these tensors, or leads to a value that
            is not finite where it was.
    """
    mask, at = np.frombuffer(body[: tensors.mask_bytes], np.uint8), tensors.mask_bytes
    bits = np.unpackbits(mask, bitorder="little")
    if mask.size < at or bits[len(tensors.entries) :].any():
        raise ValueError(f"body: must begin with {at} bytes for {len(tensors.entries)} tensors")
    changed = [t for t, bit in zip(tensors.entries, bits, strict=False) if bit]
    found = dict(onto)
    for tensor in changed:
        if tensor.exact:
            found[tensor.name] = _exact(tensor, body[at : at + tensor.nbytes], onto[tensor.name])
            at += tensor.nbytes
    sent = [t for t in changed if not t.exact]
    if not sent:
        if len(body) > at:
            raise ValueError(f"body: must end after {at} bytes, got {len(body)}")
        return found
    sizes = tuple(tensor.size for tensor in sent)
    update = choice(sizes).decompress(body[at:], sum(sizes), context)
    if update.values.size and np.abs(update.values).max() > LARGEST_UPDATE:
        raise ValueError(f"update: values must be at most {LARGEST_UPDATE:g}")
    parts = np.split(update.dense(), np.cumsum(sizes[:-1]))
    for tensor, part in zip(sent, parts, strict=True):
        found[tensor.name] = _sum(tensor, onto[tensor.name], part.reshape(tensor.shape))
    return found


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    # By bytes where values do not compare: NaN, structures.
    return a is b or (a.dtype == b.dtype and a.tobytes() == b.tobytes())


def _difference(tensor: Tensor, base: NDArray[Any], new: NDArray[Any]) -> NDArray[np.float32]:
    kind = np.result_type(base, new, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        change: NDArray[Any] = np.subtract(new, base, dtype=kind)
        flat = change.reshape(-1).astype(np.float32)
    if not np.isfinite(flat).all():
        raise ValueError(
            f"tensor {tensor.name!r}: its change must be finite, and is not; training has "
            "diverged, so try a smaller learning rate"
        )
    return flat


def _exact(tensor: Tensor, data: bytes, before: NDArray[Any]) -> NDArray[Any]:
    if len(data) != tensor.nbytes:
        raise ValueError(f"body: tensor {tensor.name!r} takes {tensor.nbytes} bytes, not all there")
    array = np.frombuffer(data, tensor.dtype).reshape(tensor.shape)
    if tensor.dtype.kind in "fc" and not np.isfinite(array[np.isfinite(before)]).all():
        raise ValueError(f"tensor {tensor.name!r}: must stay finite where it was")
    return array


def _sum(tensor: Tensor, onto: NDArray[Any], part: NDArray[np.float32]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        total: NDArray[Any] = (onto + part).astype(tensor.dtype)
    if not np.isfinite(total).all():
        raise ValueError(f"tensor {tensor.name!r}: must stay finite")
    return total
