"""What one of Flower's ArrayRecords holds, and which of its tensors are not compressed.

Server and client look at the same record and come to the same answer, which a digest proves.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedlite.identity.canonical import canonical

Arrays = Mapping[str, NDArray[Any]]

# BatchNorm's statistics, in PyTorch's names and in Keras's. A variance that compression made
# negative or one-bit destroys the model without a word, and no gradient repairs it.
STATISTICS = (
    *("running_mean", "running_var", "num_batches_tracked"),
    *("moving_mean", "moving_variance"),
)
_FLOATS = tuple(np.dtype(kind) for kind in ("f2", "f4", "f8"))


@dataclass(frozen=True)
class Tensor:
    """One tensor of a record; `exact`: it travels as it is."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    exact: bool

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are."""
        return self.size * self.dtype.itemsize


@dataclass(frozen=True)
class Tensors:
    """The tensors of one record, in their order, and the key of the record in its message."""

    key: str
    entries: tuple[Tensor, ...]

    @classmethod
    def of(cls, key: str, arrays: Arrays, exact: tuple[str, ...] = ()) -> Tensors:
        """Return what `arrays` are.

        Compressed are float16, float32 and float64; not so scalars, empty tensors, those that hold
        NaN or infinities (as masks do), `STATISTICS`, and what a pattern of `exact` matches.
        """
        return cls(
            key,
            tuple(
                Tensor(name, array.dtype, array.shape, not _compressible(name, array, exact))
                for name, array in arrays.items()
            ),
        )

    @cached_property
    def size(self) -> int:
        """Number of values that are compressed."""
        return sum(tensor.size for tensor in self.entries if not tensor.exact)

    @cached_property
    def exact_bytes(self) -> int:
        """Bytes of all tensors that travel as they are."""
        return sum(tensor.nbytes for tensor in self.entries if tensor.exact)

    @property
    def mask_bytes(self) -> int:
        """Bytes that hold a bit for every tensor."""
        return -(-len(self.entries) // 8)

    @cached_property
    def limit(self) -> int:
        """The most bytes that a change of these tensors takes: float32 is never exceeded."""
        return self.mask_bytes + self.exact_bytes + 4 * self.size

    @cached_property
    def digest(self) -> bytes:
        """First 8 bytes of SHA-256 over the canonical JSON of all that is known of them."""
        form = [[t.name, t.dtype.str, list(t.shape), t.exact] for t in self.entries]
        return hashlib.sha256(canonical([self.key, form])).digest()[:8]

    def values_digest(self, arrays: Arrays) -> bytes:
        """Return the first 8 bytes of SHA-256 over all values of `arrays`, in this order."""
        found = hashlib.sha256()
        for tensor in self.entries:
            found.update(arrays[tensor.name].tobytes())
        return found.digest()[:8]

    def misfit(self, arrays: Arrays) -> str:
        """Return how `arrays` differ from these in names, shapes or kinds, or ""."""
        names = {tensor.name for tensor in self.entries}
        if other := sorted(names.symmetric_difference(arrays)):
            return f"tensor {other[0]!r} is on one side only"
        for tensor in self.entries:
            array = arrays[tensor.name]
            if array.shape != tensor.shape:
                return f"tensor {tensor.name!r} has shape {array.shape}, not {tensor.shape}"
            if tensor.exact and array.dtype != tensor.dtype:
                return f"tensor {tensor.name!r} is {array.dtype}, not {tensor.dtype}"
            if not tensor.exact and not _is_float(array.dtype):
                return f"tensor {tensor.name!r} is {array.dtype}, not a float"
        return ""


def _compressible(name: str, array: NDArray[Any], exact: tuple[str, ...]) -> bool:
    return (
        _is_float(array.dtype)
        and array.ndim > 0
        and array.size > 0
        and not name.endswith(STATISTICS)
        and not any(fnmatchcase(name, pattern) for pattern in exact)
        and bool(np.isfinite(array).all())
    )


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.newbyteorder("=") in _FLOATS


def read(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return the arrays of a record.

    Raises ValueError when one is not a NumPy array in Flower's own form.
    """
    found = {}
    for name, array in record.items():
        try:
            found[name] = array.numpy()
        except (TypeError, ValueError, EOFError) as error:
            raise ValueError(f"tensor {name!r} is no NumPy array: {error}") from None
    return found


def write(arrays: Arrays) -> ArrayRecord:
    """Return a record of these arrays."""
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})
