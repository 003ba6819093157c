"""Secrets of 128 bits in shares, of which any `least` give the secret and fewer give nothing.

Shamir 1979. A polynomial is named by values at `least` points, whichever they are: here most of
them are pseudo-random numbers that dealer and holder compute both, so that few shares are ever sent
(pseudo-random secret sharing in the manner of Cramer, Damgard, Ishai 2005). False shares are found
as errors of a Reed-Solomon code, which is what shares are (McEliece, Sarwate 1981), by Gao's way of
decoding them (2003).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest

PRIME = 2**128 - 159
BYTES = 16


def at(points: Mapping[int, int], where: int) -> int:
    """Return the value at `where` of the polynomial through `points`, modulo the prime.

    points: at least one value by place, places and values from 0 to the prime less 1. The degree
    is less than their number: exact where the polynomial's is, whatever points of it are given.

    >>> at({1: 5, 2: 7}, 0), at({1: 5, 2: 7}, 3)
    (3, 9)
    """
    weights = _weights(tuple(points), where)
    return sum(y * w for y, w in zip(points.values(), weights, strict=True)) % PRIME


@lru_cache(maxsize=16384)
def _weights(places: tuple[int, ...], where: int) -> tuple[int, ...]:
    """Return Lagrange's weights, which depend on places alone: the same for all secrets."""
    found = []
    for x in places:
        above, below = 1, 1
        for other in places:
            if other != x:
                above = above * (where - other) % PRIME
                below = below * (x - other) % PRIME
        found.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(found)


def corrected(points: Mapping[int, int], least: int) -> list[int] | None:
    """Return the polynomial that all points but at most (their number - least) / 2 lie on, or None.

    points: value by place, at least `least` of them. The polynomial has `least` coefficients, that
    of the highest power last. Where more points are false it may be None or another polynomial.
    Takes some n^2 multiplications for n points, whichever are false.

    >>> corrected({1: 5, 2: 7, 3: 9, 4: 0, 5: 13}, 2)
    [3, 2]
    """
    whole = [1]
    for place in points:
        whole = _plus([0, *whole], whole, -place)
    # Euclid's algorithm on the product of all (x - place) and the polynomial through all points,
    # until what is left has so low a degree that it is the wanted one times the false places'.
    above, left = whole, _through(points, whole)
    weight_above, weight = [0], [1]
    while 2 * (len(left) - 1) >= len(points) + least:
        quotient, rest = _divided(above, left)
        above, left = left, rest
        times = _times(quotient, weight)
        weight_above, weight = weight, _plus(weight_above, times, -1)
    found, rest = _divided(left, weight)
    if any(rest) or len(found) > least:
        return None
    return found + [0] * (least - len(found))


def value(polynomial: Sequence[int], where: int) -> int:
    """Return a polynomial's value, its coefficients from the lowest power, modulo the prime."""
    found = 0
    for coefficient in reversed(polynomial):
        found = (found * where + coefficient) % PRIME
    return found


def _through(points: Mapping[int, int], whole: list[int]) -> list[int]:
    """Return the polynomial through points; whole: the product of (x - place) of them all."""
    total = [0] * len(points)
    for place, wanted in points.items():
        basis, _ = _divided(whole, [-place % PRIME, 1])
        factor = wanted * pow(value(basis, place), -1, PRIME) % PRIME
        total = _plus(total, basis, factor)
    return total


def _plus(one: list[int], other: list[int], factor: int) -> list[int]:
    """Return one + factor x other, without zeros at its end."""
    padded = zip_longest(one, other, fillvalue=0)
    return _trimmed([(a + factor * b) % PRIME for a, b in padded])


def _times(one: list[int], other: list[int]) -> list[int]:
    found = [0] * (len(one) + len(other) - 1)
    for at, a in enumerate(one):
        for more, b in enumerate(other):
            found[at + more] = (found[at + more] + a * b) % PRIME
    return _trimmed(found)


def _divided(one: list[int], other: list[int]) -> tuple[list[int], list[int]]:
    """Return quotient and rest; `other` is not zero, and has none at its end."""
    rest, inverse = list(one), pow(other[-1], -1, PRIME)
    quotient = [0] * max(1, len(one) - len(other) + 1)
    for at in reversed(range(len(one) - len(other) + 1)):
        factor = rest[at + len(other) - 1] * inverse % PRIME
        quotient[at] = factor
        for more, b in enumerate(other):
            rest[at + more] = (rest[at + more] - factor * b) % PRIME
    return _trimmed(quotient), _trimmed(rest[: len(other) - 1] or [0])


def _trimmed(polynomial: list[int]) -> list[int]:
    while len(polynomial) > 1 and not polynomial[-1]:
        polynomial.pop()
    return polynomial


def number(data: bytes) -> int:
    """Return bytes as a number modulo the prime, little-endian."""
    return int.from_bytes(data, "little") % PRIME


def share(value: int) -> bytes:
    """Return a number below the prime as 16 bytes."""
    return value.to_bytes(BYTES, "little")
