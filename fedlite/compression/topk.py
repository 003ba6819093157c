"""The largest coordinates by magnitude: which ones, and what they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import layers
from fedlite.compression.interface import NOTHING, Context, Decoded
from fedlite.compression.quantization import quantizer
from fedlite.compression.selection import count, require_form, select
from fedlite.compression.signs import Splits

Indices = NDArray[np.int32]

BLOCK = 2**24
"""Coordinates that are selected and written as one."""


@dataclass(frozen=True)
class TopK:
    """The largest coordinates by magnitude, of every block of 2**24 coordinates for itself.

    Blocks bound the memory, and are small enough for 32-bit arithmetic; the last one is shorter.
    Body, for every block in order: positions with their length (`layers`), then values. An all-zero
    vector gives an update of zeros, an empty vector an empty body.

    Attributes:
        density: the fraction that is sent of every block, in (0, 1]; `count` makes it a number.
        values: a name in `quantization.QUANTIZERS`.
        sections: sizes of the model's tensors, in their order; empty stands for one tensor.
            A tensor that reaches over several blocks counts as one of its own in each of them.
        least: above 0 (for `RotatedTopK`), a last block of fewer coordinates joins the one before,
            and of every block at least as many are sent as it has tensors.

    Raises:
        ValueError: `density` is out of range or `values` is not known.

    Source: Lin, Han, Mao, Wang, Dally 2018, "Deep gradient compression"; with "sign": Sattler
    et al. 2019, Algorithm 1.

    >>> compressor = TopK(density=0.5, values="sign")
    >>> body = compressor.compress(np.array([0.1, -3.0, 1.0, 0.0], dtype=np.float32))
    >>> compressor.decompress(body, 4).dense()
    array([ 0., -2.,  2.,  0.], dtype=float32)
    """

    name: ClassVar[str] = "topk"
    density: float
    values: str = "sign"
    sections: tuple[int, ...] = ()
    least: int = 0

    def __post_init__(self) -> None:
        """Check both fields."""
        count(0, self.density)
        quantizer(self.values)

    @property
    def codec(self) -> int:
        """The number of the values' format."""
        return quantizer(self.values).codec

    def compress(self, vector: NDArray[np.float32], context: Context = NOTHING) -> bytes:
        """Return positions and values of the largest coordinates of a finite float32[n]."""
        require_form(vector)
        return self.write(
            (block, *select(vector, block.count, block.start, block.stop))
            for block in self.blocks(vector.size)
        )

    def write(self, chosen: Iterable[tuple[Block, Indices, NDArray[np.float32]]]) -> bytes:
        """Return the body for a choice of coordinates: for every block, indices and values."""
        form = quantizer(self.values)
        parts = []
        for block, indices, values in chosen:
            parts.append(layers.encode(indices, block.size, block.layers))
            parts.append(form.encode(values, block.splits(indices)))
        return b"".join(parts)

    def decompress(self, body: bytes, size: int, context: Context = NOTHING) -> Decoded:
        """Return the sparse update; ValueError unless `body` has exactly the planned form."""
        blocks = self.blocks(size)
        limit = self._limit(blocks)
        if len(body) > limit:
            raise ValueError(
                f"a top-k body of {size} values at density {self.density} takes at most {limit} "
                f"bytes, got {len(body)}"
            )
        form = quantizer(self.values)
        total = sum(block.count for block in blocks)
        indices: NDArray[Any] = np.empty(total, dtype=np.int32 if size < 2**31 else np.int64)
        values = np.empty(total, dtype=np.float32)
        rest = memoryview(body)
        done = 0
        for block in blocks:
            where, used = layers.decode(rest, block.size, block.count, block.layers)
            rest = rest[used:]
            into = slice(done, done + block.count)
            values[into], used = form.decode(rest, block.count, block.splits(where))
            np.add(where, block.start, out=indices[into], dtype=indices.dtype)
            rest, done = rest[used:], into.stop
        if len(rest):
            raise ValueError(f"a top-k body ends with its values, got {len(rest)} trailing bytes")
        return Decoded(size, indices, values)

    def compress_many(
        self, vectors: NDArray[np.float32], contexts: Sequence[Context]
    ) -> list[bytes]:
        """Return what `compress` does of each row of float32[m, n]; ValueError as it for any."""
        form, bodies = quantizer(self.values), [b""] * len(vectors)
        for block in self.blocks(vectors.shape[1]):
            found = [select(row, block.count, block.start, block.stop) for row in vectors]
            where = np.stack([indices for indices, _ in found])
            written = layers.encode_many(where, block.size, block.layers)
            for row, (positions, (indices, values)) in enumerate(zip(written, found, strict=True)):
                bodies[row] += positions + form.encode(values, block.splits(indices))
        return bodies

    def decompress_many(
        self, bodies: Sequence[bytes], size: int, contexts: Sequence[Context]
    ) -> list[Decoded | ValueError]:
        """Return what `decompress` does of each body; ValueError as it for any of them."""
        blocks, form = self.blocks(size), quantizer(self.values)
        if max(map(len, bodies)) > self._limit(blocks):
            raise ValueError("a top-k body takes more bytes than any may")
        kind = np.int32 if size < 2**31 else np.int64
        shape = len(bodies), sum(block.count for block in blocks)
        indices, values = np.empty(shape, kind), np.empty(shape, np.float32)
        rests, done = [memoryview(body) for body in bodies], 0
        for block in blocks:
            into = slice(done, done + block.count)
            found, used = layers.decode_many(rests, block.size, block.count, block.layers)
            np.add(found, block.start, out=indices[:, into], dtype=kind)
            for row, where in enumerate(found):
                rest = rests[row][used[row] :]
                values[row, into], taken = form.decode(rest, block.count, block.splits(where))
                rests[row] = rest[taken:]
            done = into.stop
        if any(len(rest) for rest in rests):
            raise ValueError("a top-k body ends with its values, got trailing bytes")
        return [Decoded(size, *row) for row in zip(indices, values, strict=True)]

    def limit(self, size: int) -> int:
        """Return the most bytes for any vector of `size` coordinates."""
        return self._limit(self.blocks(size))

    def _limit(self, blocks: Sequence[Block]) -> int:
        form = quantizer(self.values)
        total = 0
        for block in blocks:
            total += layers.limit(block.size, block.count)
            total += form.limit(block.count, block.ends.size)
        return total

    def blocks(self, size: int) -> tuple[Block, ...]:
        """Return the blocks of a vector of `size` coordinates."""
        return _blocks(self, tuple(cuts(size, self.least)))


@lru_cache(maxsize=16)
def _blocks(plan: TopK, edges: tuple[int, ...]) -> tuple[Block, ...]:
    size = edges[-1]
    starts = np.array(layers.begins(plan.sections, size))
    ends = layers.ends(plan.sections, size)
    found = []
    for start, stop in pairwise(edges):
        inside = np.unique(np.clip(ends, start, stop)) - start
        ends_inside = inside[inside > 0]
        among = starts[(starts > start) & (starts < stop)] - start
        number = count(stop - start, plan.density)
        if plan.least:
            number = max(number, ends_inside.size)
        found.append(Block(start, stop, number, ends_inside, [0, *among.tolist()]))
    return tuple(found)


def cuts(size: int, least: int = 0) -> list[int]:
    """Return where the blocks of a vector of `size` coordinates begin and end, from 0 to `size`.

    They begin at multiples of 2**24, but none after the first so late that fewer than `least`
    coordinates would be in it. An empty vector has no block.

    >>> cuts(2**24 + 5), cuts(2**24 + 5, least=128), cuts(5, least=128), cuts(0)
    ([0, 16777216, 16777221], [0, 16777221], [0, 5], [0])
    """
    between = [start for start in range(BLOCK, size, BLOCK) if size - start >= least]
    return [0, *between, size] if size else [0]


@dataclass(frozen=True, eq=False)
class Block:
    """A run of coordinates that is coded by itself.

    Attributes:
        start: its first coordinate.
        stop: the one after its last.
        count: how many are sent.
        ends: int64[t], where each of the t tensors in it ends, counted from `start`, ascending.
        layers: where each layer in it begins, counted from `start`, ascending from 0.
    """

    start: int
    stop: int
    count: int
    ends: NDArray[np.int64]
    layers: list[int]

    @property
    def size(self) -> int:
        """How many coordinates it has."""
        return self.stop - self.start

    def splits(self, indices: Indices) -> Splits:
        """Return int64[t + 1]: where among `indices` each tensor's values begin and end."""
        return np.concatenate(([0], np.searchsorted(indices, self.ends)))
