"""Secrets of 128 bits in shares, of which any `least` give the secret and fewer give nothing.

Shamir 1979. A polynomial is named by values at `least` points, whichever they are: here most of
them are pseudo-random numbers that dealer and holder compute both, so that few shares are ever sent
(pseudo-random secret sharing in the manner of Cramer, Damgard, Ishai 2005).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

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


def number(data: bytes) -> int:
    """Return bytes as a number modulo the prime, little-endian."""
    return int.from_bytes(data, "little") % PRIME


def share(value: int) -> bytes:
    """Return a number below the prime as 16 bytes."""
    return value.to_bytes(BYTES, "little")
