"""Random rotations of vectors of any length: public signs and Hadamard transforms.

Many vectors of one length are turned at once, each by signs of its own: `values` and `signs` may
have axes before their last one and last two, the same for both. Every value is added and multiplied
as it would be alone, so the bits are the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlite.compression.eden import hadamard

# Of shorter chunks two turns do not make enough rotations yet.
_MANY = 2**12

Values = NDArray[np.float32]
Signs = NDArray[np.float32]
Words = NDArray[np.uint64]
# The eight signs that a byte stands for, from its lowest bit.
_OF_BYTE = np.float32(1) - np.float32(2) * np.unpackbits(
    np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"
)


def words(size: int) -> int:
    """Return how many random 64-bit words the signs of a chunk of `size` values take."""
    return -(-2 * _turns(size) * _length(size) // 64)


def signs(random: Words, size: int) -> Signs:
    """Return float32[..., 2 turns, L] of 1 and -1 from uint64[..., words(size)]."""
    length = _length(size)
    number = 2 * _turns(size) * length
    octets = np.ascontiguousarray(random.astype("<u8", copy=False)).view(np.uint8)
    found = _OF_BYTE[octets].reshape(*random.shape[:-1], -1)
    return found[..., :number].reshape(*random.shape[:-1], -1, length)


def rotate(values: Values, turned: Signs) -> Values:
    """Return float32[..., m] under an orthonormal map that spreads a coordinate over all others.

    With L the largest power of two up to m, a turn is random signs and a Hadamard transform of the
    first L, then of the last L; between two turns the even coordinates go before the odd ones. So
    no length has to be filled up, and what only one of the two transforms has reached, up to half
    of either end, is halved between them by the next turn: with one turn alone, the weaker end of a
    chunk a little shorter than a power of two would hardly ever be sent.

    Args:
        values: float32[..., m], m > 0.
        turned: float32[..., 2 turns, L] of 1 and -1.
    """
    out = values.copy()
    for number in range(turned.shape[-2]):
        if number and number % 2 == 0:
            out = np.concatenate((out[..., ::2], out[..., 1::2]), axis=-1)
        part = _part(out.shape[-1], number)
        out[..., part] = _hadamard(out[..., part] * turned[..., number, :])
    return out


def unrotate(values: Values, turned: Signs) -> Values:
    """Return what `rotate` with the same signs made `values` from, float32[..., m]."""
    out = values.copy()
    for number in reversed(range(turned.shape[-2])):
        part = _part(out.shape[-1], number)
        out[..., part] = _hadamard(out[..., part]) * turned[..., number, :]
        if number and number % 2 == 0:
            even = -(-out.shape[-1] // 2)
            shuffled = out
            out = np.empty_like(shuffled)
            out[..., ::2], out[..., 1::2] = shuffled[..., :even], shuffled[..., even:]
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


def _hadamard(values: Values) -> Values:
    # Additions and one product, each rounded on its own: every machine gets the same bits.
    length = values.shape[-1]
    out: Values = hadamard(values.reshape(-1, length))
    out *= np.float32(length**-0.5)
    return out.reshape(values.shape)
