"""The largest of the rotated coordinates: sparse, and yet without bias."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import layers
from fedlite.compression.interface import NOTHING, Context, Decoded
from fedlite.compression.rotation import rotate, signs, unrotate, words
from fedlite.compression.selection import require_finite, select, select_rows
from fedlite.compression.signs import decode_many
from fedlite.compression.topk import Block, TopK, cuts

_MOST = 2**16
# Random signs and Hadamard transforms of fewer values are too few different rotations.
_LEAST = 128
# Values that are rotated at once: more of short chunks, whose transforms then go side by side.
_AT_ONCE, _SHORT_AT_ONCE, _SHORT = 2**16, 2**18, 2**13


@dataclass(frozen=True)
class RotatedTopK:
    """A random rotation of every layer, then the largest rotated coordinates, one bit each.

    After the rotation every coordinate of a layer is close to normally distributed, whatever the
    update was, so by symmetry what is kept points the right way in the mean over rotations; one
    float32 a layer, ``|z|^2 / sum |z_sent|``, gives it the right length. The rotation differs
    between sites and rounds, so over sites the errors average out, without anything to remember:
    the squared error of one update, in units of its squared norm, is 1.35 at density 0.1, 4.22 at
    0.03 and 10.96 at 0.01 (less where layers differ in energy for their size), and that of a mean
    over m sites is an m-th of it. Top-k without a rotation, at the same bytes, is biased and needs
    error feedback.

    A model of fewer than about 32 values has too few different rotations for that: of two values,
    the smaller would never be sent.

    Without `unbiased` the length is the one of least error, so that error feedback can be used.

    Body: that of `TopK` with "sign-per-chunk" for the rotated vector and its chunks.

    Attributes:
        density: the fraction of the rotated coordinates that is sent, in (0, 1]. How many each
            layer gets goes by its size times its root mean square, which minimises the sum of the
            errors.
        unbiased: which length is sent.
        sections: sizes of the model's tensors, in their order; empty stands for one tensor.

    Raises:
        ValueError: `density` is out of range.

    Source: the unbiased scale and its proof are EDEN's (Vargaftik et al. 2022, arXiv 2108.08842,
    section 3), which hold for every choice that goes with the rotation; theirs sends each
    coordinate, this one those that say the most.

    >>> compressor = RotatedTopK(density=0.5)
    >>> body = compressor.compress(np.array([3.0, 0.0, 0.0, 0.0], dtype=np.float32))
    >>> len(body), compressor.decompress(body, 4).dense()[0]
    (8, np.float32(3.0))
    """

    name: ClassVar[str] = "rotated-topk"
    codec: ClassVar[int] = 10
    density: float
    unbiased: bool = True
    sections: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the density."""
        TopK(self.density)

    def compress(self, vector: NDArray[np.float32], context: Context = NOTHING) -> bytes:
        """Return positions, lengths and signs for a finite float32[n].

        Raises:
            ValueError: the vector is not finite, or so large that its rotation is not.
        """
        require_finite(vector)
        plan = self._plan(vector.size)
        random = context.random(shared=False)
        return plan.write(
            (block, *self._choose(vector[block.start : block.stop], block, random))
            for block in plan.blocks(vector.size)
        )

    def decompress(self, body: bytes, size: int, context: Context = NOTHING) -> Decoded:
        """Return the dense update; ValueError unless `body` has exactly the planned form."""
        plan = self._plan(size)
        values = plan.decompress(body, size).dense()
        random = context.random(shared=False)
        with np.errstate(over="ignore", invalid="ignore"):
            for block in plan.blocks(size):
                for chunk in _chunks(values[block.start : block.stop], block):
                    chunk[:] = unrotate(chunk, _drawn(random, chunk.size))
        require_finite(values)
        return Decoded(size, None, values)

    def compress_many(
        self, vectors: NDArray[np.float32], contexts: Sequence[Context]
    ) -> list[bytes]:
        """Return what `compress` does of each row of a finite float32[m, n], with its context.

        Raises:
            ValueError: as `compress` does for any of them.
        """
        many, size = vectors.shape
        require_finite(vectors.reshape(-1))
        random = [context.random(shared=False) for context in contexts]
        bodies = [b""] * many
        for block in self._plan(size).blocks(size):
            part = vectors[:, block.start : block.stop]
            turned = np.empty(part.shape, np.float32)
            energies = np.empty((many, block.ends.size))
            with np.errstate(over="ignore", invalid="ignore"):
                for column, rows, chunk, drawn in _drawn_many(block, random):
                    turned[rows, chunk] = z = rotate(part[rows, chunk], drawn)
                    energies[rows, column] = np.square(z, dtype=np.float64).sum(axis=1)
            if not np.isfinite(energies).all():
                raise ValueError("vector must be finite when rotated, but its norm is too large")
            sizes = np.diff(block.ends, prepend=0)
            counts = np.array([shares(one, sizes, block.count) for one in energies])
            where = select_rows(turned, block.ends, counts)
            what = np.take_along_axis(turned, where, axis=1)
            lengths = self._lengths(np.abs(what), energies, counts)
            # The mean of equal numbers is that number: nothing is rounded when it is written.
            sent = np.repeat(lengths.reshape(-1), counts.reshape(-1)).reshape(what.shape) > 0
            signs_ = np.packbits(np.signbit(what) & sent, axis=1, bitorder="little")
            written = layers.encode_many(where, block.size, block.layers)
            for row, positions in enumerate(written):
                head = positions + lengths[row].astype("<f4").tobytes()
                bodies[row] += head + signs_[row].tobytes()
        return bodies

    def decompress_many(
        self, bodies: Sequence[bytes], size: int, contexts: Sequence[Context]
    ) -> list[Decoded | ValueError]:
        """Return what `decompress` does of each body, or its error where only values are at fault.

        Raises:
            ValueError: as `decompress` does for any of them, before anything is rotated.
        """
        plan = self._plan(size)
        values = np.zeros((len(bodies), size), np.float32)
        rests = [memoryview(body) for body in bodies]
        for block in plan.blocks(size):
            where, used = layers.decode_many(rests, block.size, block.count, block.layers)
            rests = [rest[length:] for rest, length in zip(rests, used, strict=True)]
            sent, length = decode_many(rests, where, block.ends)
            rests = [rest[length:] for rest in rests]
            np.put_along_axis(values[:, block.start : block.stop], where, sent, axis=1)
        if any(len(rest) for rest in rests):
            raise ValueError("a top-k body ends with its values, got trailing bytes")
        random = [context.random(shared=False) for context in contexts]
        with np.errstate(over="ignore", invalid="ignore"):
            for block in plan.blocks(size):
                part = values[:, block.start : block.stop]
                for _, rows, chunk, drawn in _drawn_many(block, random):
                    part[rows, chunk] = unrotate(part[rows, chunk], drawn)
        return [_finite(row) for row in values]

    def limit(self, size: int) -> int:
        """Return the most bytes for any vector of `size` coordinates."""
        return self._plan(size).limit(size)

    def _plan(self, size: int) -> TopK:
        return _planned(self.density, self.sections, size)

    def _lengths(
        self,
        magnitudes: NDArray[np.float32],
        energies: NDArray[np.float64],
        counts: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return float32[m, c], how long what is sent of each chunk is; see `_choose`."""
        ends = np.cumsum(counts, axis=1)
        # Each sum by itself: what is rounded depends on how sums are cut.
        totals = np.array(
            [
                [float(row[a:b].sum(dtype=np.float64)) for a, b in pairwise([0, *stops])]
                for row, stops in zip(magnitudes, ends.tolist(), strict=True)
            ]
        )
        some = totals > 0
        lengths = np.zeros(counts.shape)
        if self.unbiased:
            lengths[some] = energies[some] / totals[some]
        else:
            lengths[some] = totals[some] / counts[some]
        return np.minimum(lengths, float(np.finfo(np.float32).max)).astype(np.float32)

    def _choose(
        self, part: NDArray[np.float32], block: Block, random: np.random.Philox
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the chosen rotated coordinates of a block, and plus or minus their lengths."""
        with np.errstate(over="ignore", invalid="ignore"):
            rotated = [rotate(chunk, _drawn(random, chunk.size)) for chunk in _chunks(part, block)]
        # Not by BLAS, which wakes as many threads as there are cores for a sum of microseconds, and
        # whose order of adding depends on how many these are.
        energies = np.array([np.square(z, dtype=np.float64).sum() for z in rotated])
        if not np.isfinite(energies).all():
            raise ValueError("vector must be finite when rotated, but its norm is too large")
        sizes = np.array([z.size for z in rotated])
        indices, values, start = [], [], 0
        counts = shares(energies, sizes, block.count)
        for z, energy, k in zip(rotated, energies, counts, strict=True):
            where, what = select(z, int(k))
            magnitudes = np.abs(what)
            total = float(magnitudes.sum(dtype=np.float64))
            if total:
                length = energy / total if self.unbiased else total / where.size
                length = min(length, float(np.finfo(np.float32).max))
                magnitudes = np.full(where.size, length, dtype=np.float32)
            indices.append(where + np.int32(start))
            values.append(np.copysign(magnitudes, what))
            start += z.size
        return np.concatenate(indices), np.concatenate(values)


def _finite(values: NDArray[np.float32]) -> Decoded | ValueError:
    try:
        require_finite(values)
    except ValueError as error:
        return error
    return Decoded(values.size, None, values)


@lru_cache(maxsize=16)
def _planned(density: float, sections: tuple[int, ...], size: int) -> TopK:
    # A layer of which nothing is sent would be lost for good: nobody remembers it.
    return TopK(density, "sign-per-chunk", chunks(sections, size), least=_LEAST)


def chunks(sections: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Return the lengths of what is rotated by itself: a layer, or a part of at most 2**16 of it.

    Layers (`layers.begins`) are also cut where blocks are, and into parts of nearly equal length;
    one of fewer than 128 values is rotated with what is before it in its block, or with the next.

    >>> chunks((144, 16, 4608, 32), 4800), chunks((), 150_000)
    ((160, 4640), (50000, 50000, 50000))
    """
    starts, edges = layers.begins(sections, size), [0]
    for stop in cuts(size, _LEAST)[1:]:
        for begin in starts:
            if min(begin - edges[-1], stop - begin) >= _LEAST:
                edges.append(begin)
        edges.append(stop)
    found: list[int] = []
    for begin, end in pairwise(edges):
        parts = -(-(end - begin) // _MOST)
        inner = [begin + (end - begin) * part // parts for part in range(parts + 1)]
        found += [b - a for a, b in pairwise(inner)]
    return tuple(found) or (0,)


def shares(
    energies: NDArray[np.float64], sizes: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Return int64[c], how many of `count` coordinates each chunk gets; none more than it has.

    The error of a chunk is about its size times its energy over what it gets, so the sum is least
    when each gets a share by the square root of that product. A chunk that is not zero gets one at
    least, as without any it could not be unbiased.

    >>> shares(np.array([1.0, 4.0, 0.0]), np.array([100, 100, 8]), 9)
    array([3, 6, 0])
    """
    got = np.zeros(sizes.size, dtype=np.int64)
    wish = np.sqrt(energies * sizes)
    some = np.flatnonzero(wish)
    got[some[np.argsort(-wish[some], kind="stable")][:count]] = 1
    while (left := count - int(got.sum())) > 0:
        room = sizes - got
        open_ = room > 0
        weight = np.where(open_, wish, 0.0)
        if not weight.any():
            weight = open_.astype(np.float64)
        want = np.minimum(room, left * weight / weight.sum())
        step = np.floor(want).astype(np.int64)
        if not step.any():
            order = np.argsort(-np.where(open_ & (weight > 0), want, -1.0), kind="stable")
            step[order[: min(left, int((open_ & (weight > 0)).sum()))]] = 1
        got += step
    return got


def _drawn_many(
    block: Block, random: Sequence[np.random.Philox]
) -> Iterator[tuple[int, slice, slice, NDArray[np.float32]]]:
    """Yield the chunks of a block of many vectors: its number, some rows, where it is, and signs.

    Of long chunks few rows come at once: what is worked on then stays in the cache.
    """
    sizes = np.diff(block.ends, prepend=0).tolist()
    needed = [words(size) for size in sizes]
    raw = np.stack([one.random_raw(sum(needed)) for one in random])
    at = start = 0
    for column, (size, taken) in enumerate(zip(sizes, needed, strict=True)):
        most = max(1, (_SHORT_AT_ONCE if size < _SHORT else _AT_ONCE) // size)
        for first in range(0, len(random), most):
            rows = slice(first, min(len(random), first + most))
            yield column, rows, slice(start, start + size), signs(raw[rows, at : at + taken], size)
        at, start = at + taken, start + size


def _drawn(random: np.random.Philox, size: int) -> NDArray[np.float32]:
    return signs(random.random_raw(words(size)), size)


def _chunks(part: NDArray[np.float32], block: Block) -> Iterator[NDArray[np.float32]]:
    start = 0
    for end in block.ends:
        yield part[start:end]
        start = int(end)
