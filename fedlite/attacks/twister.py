"""Attack on noise from a Mersenne Twister: its state, and then the clean sum, by linear algebra.

torch draws normals on a CPU by Box-Muller over uniforms of 24 bits, one 32-bit output each; outputs
are linear over GF(2) in the generator's 19,968 bits of state (Matsumoto and Nishimura 1998). Where
a released value is clearly larger than the clean sum can be, the top bits of radius and angle are
certain, and each of them is one equation. About 20,000 are enough: the state that solves them
gives all noise, and what is left is the clean sum. Against another generator the equations
contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORDS, BITS = 624, 32
UNKNOWNS = WORDS * BITS
_SHIFT, _MATRIX = 397, 0x9908B0DF
_UNIFORM_BITS = 24
_BLOCK = 16  # torch fills normals in blocks of 16: 8 radii, then 8 angles
Packed = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Certain:
    """Bits of the generator's outputs that a release gives away.

    output: int64 [e], the number of the 32-bit output, from 0, ascending; bit: int64 [e], 0 is the
    least of its bits; value: uint8 [e].
    """

    output: NDArray[np.int64]
    bit: NDArray[np.int64]
    value: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Solution:
    """What the equations say: `state` is uint32 [624], or None where they contradict each other.

    rank: of the equations; spare: how many equations were left to be contradicted. Each of them
    holds by chance with one half.
    """

    state: NDArray[np.uint32] | None
    rank: int
    spare: int


def normals(state: NDArray[np.uint32], sizes: Sequence[int]) -> NDArray[np.float64]:
    """Return the normals that torch draws from a generator of `state`, one tensor after the other.

    sizes: of the tensors, each at least 16 (torch has another way for fewer).
    """
    raw = np.random.MT19937()
    raw.state = {"bit_generator": "MT19937", "state": {"key": state, "pos": WORDS}}
    drawn = []
    for size in sizes:
        uniform = (_words(raw, size) & 0xFFFFFF) / 2.0**_UNIFORM_BITS
        if size % _BLOCK:
            # torch draws the last 16 values anew, over the ragged end.
            whole = size - size % _BLOCK
            last = (_words(raw, _BLOCK) & 0xFFFFFF) / 2.0**_UNIFORM_BITS
            values = np.concatenate([_box_muller(uniform[:whole]), np.zeros(size % _BLOCK)])
            values[-_BLOCK:] = _box_muller(last)
        else:
            values = _box_muller(uniform)
        drawn.append(values)
    return np.concatenate(drawn)


def _words(raw: np.random.MT19937, count: int) -> NDArray[np.int64]:
    words: NDArray[np.int64] = raw.random_raw(count).astype(np.int64)
    return words


def _box_muller(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    pairs = uniform.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(-2.0 * np.log1p(-pairs[:, 0]))
    angle = 2.0 * np.pi * pairs[:, 1]
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return values.reshape(-1)


def certain_bits(
    noise: NDArray[np.float64], doubt: NDArray[np.float64], sizes: Sequence[int]
) -> Certain:
    """Return the bits that are certain when each value of `noise` is right up to its `doubt`.

    noise: float64 [n] in standard deviations, what was released less what is known of the clean
    sum; doubt: float64 [n], at least 0. sizes: of the tensors, as they were drawn.
    """
    outputs: list[NDArray[np.int64]] = []
    bits: list[NDArray[np.int64]] = []
    values: list[NDArray[np.uint8]] = []
    at = drawn = 0
    for size in sizes:
        whole = size - size % _BLOCK
        if size < _BLOCK:
            raise ValueError(f"sizes: each must be at least {_BLOCK}, got {size}")
        # Of a ragged tensor the last 16 are drawn anew: leave out what they cover.
        used = whole if whole == size else whole - _BLOCK
        pairs = noise[at : at + used].reshape(-1, 2, _BLOCK // 2)
        doubts = doubt[at : at + used].reshape(-1, 2, _BLOCK // 2)
        far = np.hypot(doubts[:, 0], doubts[:, 1]) + 1e-6
        radius = np.hypot(pairs[:, 0], pairs[:, 1])
        angle = np.arctan2(pairs[:, 1], pairs[:, 0]) / (2 * np.pi) % 1.0
        wide = np.where(far < radius, np.arcsin(np.minimum(1.0, far / radius)) / (2 * np.pi), 1.0)
        near = np.maximum(0.0, radius - far)
        number = drawn + np.arange(used).reshape(-1, 2, _BLOCK // 2)
        for low, high, which in (
            (-np.expm1(-(near**2) / 2), -np.expm1(-((radius + far) ** 2) / 2), 0),
            (angle - wide, angle + wide, 1),
        ):
            for found in _common(low.ravel(), high.ravel(), number[:, which].ravel()):
                outputs.append(found[0])
                bits.append(found[1])
                values.append(found[2])
        at += size
        drawn += size + (_BLOCK if whole != size else 0)
    output, bit = np.concatenate(outputs), np.concatenate(bits)
    order = np.argsort(output, kind="stable")
    return Certain(output[order], bit[order], np.concatenate(values)[order])


def _common(
    low: NDArray[np.float64], high: NDArray[np.float64], number: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]]:
    """Yield, bit by bit from the top, where both ends of an interval of [0, 1) agree."""
    scale = 2**_UNIFORM_BITS
    inside = (low >= 0) & (high < 1)
    # A uniform is a multiple of 2^-24, and a float32 of it is rounded once more: one unit each way.
    first = np.floor(low[inside] * scale).astype(np.int64) - 1
    last = np.ceil(high[inside] * scale).astype(np.int64) + 1
    kept = (first >= 0) & (last < scale)
    first, last, number = first[kept], last[kept], number[inside][kept]
    for bit in range(_UNIFORM_BITS - 1, -1, -1):
        same = (first >> bit) == (last >> bit)
        first, last, number = first[same], last[same], number[same]
        if not len(number):
            return
        yield number, np.full(len(number), bit), ((first >> bit) & 1).astype(np.uint8)


def equations(
    certain: Certain, known: NDArray[np.uint32] | None = None
) -> tuple[Packed, NDArray[np.uint8]]:
    """Return the packed equations, uint64 [e, ceil(u / 64)], and their right sides, uint8 [e].

    known: uint32 [k], the last k words of the state, for tests that cannot wait for all 19,968
    unknowns; the first u = 32 (624 - k) bits stay unknown.
    """
    words = WORDS - (0 if known is None else len(known))
    unknowns = words * BITS
    width = -(-(unknowns + 1) // 64)
    # Every bit of the state as a row: which unknowns it is the sum of, and a constant at the end.
    state = np.zeros((WORDS, BITS, width), dtype=np.uint64)
    index = np.arange(unknowns)
    state[index // BITS, index % BITS, index // 64] = np.uint64(1) << (index % 64).astype(np.uint64)
    if known is not None:
        fixed = (known[:, None] >> np.arange(BITS, dtype=np.uint32)) & 1
        state[words:, :, unknowns // 64] = fixed.astype(np.uint64) << np.uint64(unknowns % 64)
    rows = np.empty((len(certain.output), width), dtype=np.uint64)
    done = 0
    last = int(certain.output[-1]) if len(certain.output) else -1
    ends = np.searchsorted(certain.output, np.arange(last + 1), side="right")
    for number in range(last + 1):
        here = number % WORDS
        _twist(state, here)
        if ends[number] > done:
            tempered = _temper(state[here])
            rows[done : ends[number]] = tempered[certain.bit[done : ends[number]]]
            done = int(ends[number])
    constant = (rows[:, unknowns // 64] >> np.uint64(unknowns % 64)) & np.uint64(1)
    rows[:, unknowns // 64] ^= constant << np.uint64(unknowns % 64)
    return rows[:, : -(-unknowns // 64)], constant.astype(np.uint8) ^ certain.value


def _twist(state: Packed, i: int) -> None:
    """Replace word `i` of the state by the next one of the sequence."""
    following = state[(i + 1) % WORDS]
    fresh = state[(i + _SHIFT) % WORDS].copy()
    fresh[:30] ^= following[1:31]
    fresh[30] ^= state[i][31]
    for bit in range(BITS):
        if _MATRIX >> bit & 1:
            fresh[bit] ^= following[0]
    state[i] = fresh


def _temper(word: Packed) -> Packed:
    out = word.copy()
    out[: BITS - 11] ^= word[11:]
    for shift, mask in ((7, 0x9D2C5680), (15, 0xEFC60000)):
        source = out.copy()
        for bit in range(shift, BITS):
            if mask >> bit & 1:
                out[bit] ^= source[bit - shift]
    source = out.copy()
    out[: BITS - 18] ^= source[18:]
    return out


def solve(rows: Packed, right: NDArray[np.uint8], unknowns: int = UNKNOWNS) -> Solution:
    """Solve `rows` x = `right` over GF(2), eight columns at a time (Arlazarov et al. 1970).

    rows: packed, changed in place. The bits that no equation fixes (31 of a generator's never act)
    are 0 in the state.
    """
    width = rows.shape[1]
    table = np.concatenate([rows, right[:, None].astype(np.uint64)], axis=1)
    pivots: list[int] = []
    for first in range(0, unknowns, 8):
        word, shift = first // 64, np.uint64(first % 64)
        columns = min(8, unknowns - first)
        found = _pivots(table[len(pivots) :, :], word, shift, columns)
        top = len(pivots)
        if not found:
            continue
        for offset, (row, _) in enumerate(found):
            here, there = top + offset, top + row
            table[[here, there]] = table[[there, here]]
        block = table[top : top + len(found), word:]
        bits = [column for _, column in found]
        _reduce(block, bits, shift)
        combined = _combinations(block)
        for start in range(top + len(found), len(table), 2048):
            part = table[start : start + 2048]
            value = part[:, word] >> shift
            index = np.zeros(len(part), dtype=np.intp)
            for offset, bit in enumerate(bits):
                index |= ((value >> np.uint64(bit)) & np.uint64(1)).astype(np.intp) << offset
            part[:, word:] ^= combined[index]
        pivots += [first + bit for bit in bits]
    rank = len(pivots)
    spare = len(table) - rank
    if table[rank:, width].any():
        return Solution(None, rank, spare)
    return Solution(_back(table[:rank], pivots, unknowns), rank, spare)


def _pivots(rest: Packed, word: int, shift: np.uint64, columns: int) -> list[tuple[int, int]]:
    """Return up to `columns` (row, column) that are independent in these columns."""
    values = ((rest[:, word] >> shift) & np.uint64((1 << columns) - 1)).astype(np.int64)
    basis: dict[int, int] = {}
    found: list[tuple[int, int]] = []
    for row in np.flatnonzero(values):
        value = int(values[row])
        for column, vector in basis.items():
            if value >> column & 1:
                value ^= vector
        if value:
            column = (value & -value).bit_length() - 1
            for other in basis:
                if basis[other] >> column & 1:
                    basis[other] ^= value
            basis[column] = value
            found.append((int(row), column))
            if len(found) == columns:
                break
    return found


def _reduce(block: Packed, bits: list[int], shift: np.uint64) -> None:
    """Make each pivot column of the block a unit vector."""
    for i, bit in enumerate(bits):
        mask = np.uint64(1) << (shift + np.uint64(bit))
        if not block[i, 0] & mask:
            other = next(j for j in range(i + 1, len(bits)) if block[j, 0] & mask)
            block[[i, other]] = block[[other, i]]
        for j in range(len(bits)):
            if j != i and block[j, 0] & mask:
                block[j] ^= block[i]


def _combinations(block: Packed) -> Packed:
    """Return the sums of all subsets of the block's rows, [2^rows, words]."""
    sums = np.zeros((1 << len(block), block.shape[1]), dtype=np.uint64)
    for i, row in enumerate(block):
        sums[1 << i : 2 << i] = sums[: 1 << i] ^ row
    return sums


def _back(table: Packed, pivots: list[int], unknowns: int) -> NDArray[np.uint32]:
    """Return the state that solves a table in echelon form."""
    bits = np.zeros(-(-unknowns // 64) * 64, dtype=np.uint8)
    packed = np.zeros(table.shape[1] - 1, dtype=np.uint64)
    for row in range(len(pivots) - 1, -1, -1):
        parity = int(np.bitwise_count(table[row, :-1] & packed).sum()) & 1
        value = parity ^ int(table[row, -1])
        if value:
            column = pivots[row]
            bits[column] = 1
            packed[column // 64] ^= np.uint64(1) << np.uint64(column % 64)
    used = bits[:unknowns].reshape(-1, BITS).astype(np.uint32)
    state: NDArray[np.uint32] = (used << np.arange(BITS, dtype=np.uint32)).sum(
        axis=1, dtype=np.uint32
    )
    return state
