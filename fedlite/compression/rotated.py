"""The largest of the rotated coordinates: sparse, and yet without bias."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import layers
from fedlite.compression.eden import hadamard
from fedlite.compression.interface import NOTHING, Context, Decoded
from fedlite.compression.selection import require_finite, select
from fedlite.compression.topk import Block, TopK, cuts

_MOST = 2**16
# Random signs and Hadamard transforms of fewer values are too few different rotations.
_LEAST = 128

# Of shorter chunks two turns do not make enough rotations yet.
_MANY = 2**12

Signs = NDArray[np.float32]
# The eight signs that a byte stands for, from its lowest bit.
_OF_BYTE = np.float32(1) - np.float32(2) * np.unpackbits(
    np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"
)


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
                    chunk[:] = unrotate(chunk, _signs(random, chunk.size))
        require_finite(values)
        return Decoded(size, None, values)

    def limit(self, size: int) -> int:
        """Return the most bytes for any vector of `size` coordinates."""
        return self._plan(size).limit(size)

    def _plan(self, size: int) -> TopK:
        # A layer of which nothing is sent would be lost for good: nobody remembers it.
        return TopK(self.density, "sign-per-chunk", chunks(self.sections, size), least=_LEAST)

    def _choose(
        self, part: NDArray[np.float32], block: Block, random: np.random.Philox
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the chosen rotated coordinates of a block, and plus or minus their lengths."""
        with np.errstate(over="ignore", invalid="ignore"):
            rotated = [rotate(chunk, _signs(random, chunk.size)) for chunk in _chunks(part, block)]
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


def rotate(values: NDArray[np.float32], signs: Signs) -> NDArray[np.float32]:
    """Return float32[m] under an orthonormal map that spreads every coordinate over all others.

    With L the largest power of two up to m, a turn is random signs and a Hadamard transform of the
    first L, then of the last L; between two turns the even coordinates go before the odd ones. So
    no length has to be filled up, and what only one of the two transforms has reached, up to half
    of either end, is halved between them by the next turn: with one turn alone, the weaker end of a
    chunk a little shorter than a power of two would hardly ever be sent.

    Args:
        values: float32[m], m > 0.
        signs: float32[2 turns, L] of 1 and -1.
    """
    out = values.copy()
    for number, sign in enumerate(signs):
        if number and number % 2 == 0:
            out = np.concatenate((out[::2], out[1::2]))
        part = _part(out.size, number)
        out[part] = _hadamard(out[part] * sign)
    return out


def unrotate(values: NDArray[np.float32], signs: Signs) -> NDArray[np.float32]:
    """Return what `rotate` with the same signs made `values` from, float32[m]."""
    out = values.copy()
    for number in reversed(range(len(signs))):
        part = _part(out.size, number)
        out[part] = _hadamard(out[part]) * signs[number]
        if number and number % 2 == 0:
            even = -(-out.size // 2)
            shuffled = out
            out = np.empty_like(shuffled)
            out[::2], out[1::2] = shuffled[:even], shuffled[even:]
    return out


def _length(size: int) -> int:
    return 1 << (size.bit_length() - 1)


def _part(size: int, number: int) -> slice:
    """Return what transform `number` of a chunk is of: the first L for even ones, the last L."""
    length = _length(size)
    return slice(size - length, size) if number % 2 else slice(0, length)


def _turns(size: int) -> int:
    if size < _MANY:
        return 4
    return 1 if size == _length(size) else 2


def _hadamard(values: NDArray[np.float32]) -> NDArray[np.float32]:
    # Additions and one product, each rounded on its own: every machine gets the same bits.
    out: NDArray[np.float32] = hadamard(values[None])[0]
    out *= np.float32(values.size**-0.5)
    return out


def _signs(random: np.random.Philox, size: int) -> Signs:
    length = _length(size)
    number = 2 * _turns(size) * length
    words = random.random_raw(-(-number // 64)).astype("<u8", copy=False)
    return _OF_BYTE[words.view(np.uint8)].reshape(-1)[:number].reshape(-1, length)


def _chunks(part: NDArray[np.float32], block: Block) -> Iterator[NDArray[np.float32]]:
    start = 0
    for end in block.ends:
        yield part[start:end]
        start = int(end)
