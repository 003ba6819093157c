"""Where a record goes, by a keyed hash of that record alone: no other record moves it.

What epsilon protects is one record more or less in a site's table. A shuffle would spread that one
difference over many others: with one row more, another permutation holds out other rows.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from fedlite.data.dataset import Dataset, Indices


def keyed_hash(data: Dataset, seed: int, purpose: str) -> NDArray[np.uint64]:
    """Return 64 bits for each record, uint64 [n]: keyed BLAKE2b of its features and its label.

    Of numbers of words, int64, the label has no part in it: a text that stands there twice, and was
    judged otherwise, would else be learnt here and asked there.

    The key is the public `seed` (0 or greater); `purpose` (at most 16 ASCII characters) keeps the
    draws of two uses apart. Records whose bytes are equal hash alike, so duplicates stay together:
    a person who is twice in a table is a group of two records either way.

    Whoever can choose records can choose where they go. Nothing private rests on the hash.

    >>> data = Dataset(np.array([[1.0], [2.0], [1.0]], np.float32), np.array([0, 0, 0]))
    >>> one, other, again = keyed_hash(data, 7, "hold-out").tolist()
    >>> one == again, one == other
    (True, False)
    """
    keyed = blake2b(
        digest_size=8,
        key=blake2b(str(seed).encode(), digest_size=32).digest(),
        person=purpose.encode(),
    )
    rows = np.ascontiguousarray(data.x, "<f4").reshape(len(data), data.x[:1].size or 1)
    hashes = bytearray()
    answers = data.y.astype("<f4" if data.classes is None else "<i8")
    labelled = data.x.dtype != np.int64
    for row, label in zip(rows, answers, strict=True):
        one = keyed.copy()
        one.update(row.tobytes() + (label.tobytes() if labelled else b""))
        hashes += one.digest()
    return np.frombuffer(bytes(hashes), "<u8").astype(np.uint64)


def keyed_folds(data: Dataset, folds: int, seed: int) -> Indices:
    """Return the fold number, 0..folds-1, of each record, int64 [n], by `keyed_hash`.

    The sizes of folds are binomial and their classes are not balanced: a fold that balanced them
    would depend on the other records.
    """
    return (keyed_hash(data, seed, "hold-out") % np.uint64(folds)).astype(np.int64)


def keyed_part(data: Dataset, share: float, seed: int, purpose: str) -> NDArray[np.bool_]:
    """Return which records, bool [n], belong to a part of about `share` of them, by `keyed_hash`.

    share: from 0 to 1. Who is in a part of one purpose says nothing about who is in another's.
    """
    return _uniform(keyed_hash(data, seed, purpose)) < share


def keyed_owners(data: Dataset, shares: NDArray[np.float64], seed: int) -> Indices:
    """Return which of several sites holds each record, int64 [n], by `keyed_hash`.

    shares: float64 [classes, sites], every row a distribution. A record of class c goes to site s
    with probability shares[c, s] over seeds; one without a class as if it were of class 0.
    """
    place = _uniform(keyed_hash(data, seed, "site"))
    ends = np.cumsum(shares, axis=1)[:, :-1]
    classes = np.zeros(len(data), np.int64) if data.classes is None else data.classes
    owners: Indices = (place[:, None] >= ends[classes]).sum(axis=1)
    return owners


def _uniform(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    # 53 bits are what a float64 in [0, 1) has.
    found: NDArray[np.float64] = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return found
