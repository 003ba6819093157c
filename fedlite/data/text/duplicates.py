"""Texts that stand there more than once: copies, and those that resemble each other.

Copies are of the whole record, its answer and its owner included. So the records that are left are
a set, and one record more in a table is at most one more in it: that much may be done under
record-level privacy. Of texts that resemble each other one stays for several, and which ones hangs
on the others: one record more can take away as many as resemble it and not each other, so the
scenario refuses that there.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

import numpy as np

from fedlite.data.dataset import Indices

WORDS = 5
THRESHOLD = 0.9
_WORD = re.compile(r"\w+")
# Looked for with a lower threshold, and then held against the true one: an estimate misses some.
_SOUGHT, _PERMUTATIONS = 0.8, 128


def first_of_each(keys: Sequence[Hashable]) -> Indices:
    """Return the indices of the first of each set of equal keys, int64, ascending.

    >>> first_of_each(["a", "b", "a"]).tolist()
    [0, 1]
    """
    found: dict[Hashable, int] = {}
    for at, key in enumerate(keys):
        found.setdefault(key, at)
    return np.array(list(found.values()), np.int64)


def shingles(text: str) -> frozenset[str]:
    """Return the runs of five words of a text, in small letters; a shorter text is one run.

    One of signs alone is itself.

    >>> sorted(shingles("One two three, four five six!"))
    ['one two three four five', 'two three four five six']
    """
    words = _WORD.findall(text.lower()) or [text]
    count = max(1, len(words) - WORDS + 1)
    return frozenset(" ".join(words[at : at + WORDS]) for at in range(count))


def resemblance(one: frozenset[str], other: frozenset[str]) -> float:
    """Return how much two sets share, from 0 to 1 (Jaccard; Broder 1997)."""
    return len(one & other) / max(1, len(one | other))


def first_of_alike(texts: Sequence[str], owners: Sequence[int]) -> Indices:
    """Return the indices of the texts that resemble none that stays before them, int64, ascending.

    Two texts of one owner resemble each other where `resemblance` is at least 0.9. Pairs are found
    by MinHash and locality-sensitive hashing, and then compared; by chance a pair may be missed,
    none is found that is not there. Raises ValueError where the extra is missing.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise ValueError(
            f"data.duplicates: near needs datasketch ({error}); install it by pip install "
            "'fedlite[lora]'"
        ) from None
    sought = {owner: MinHashLSH(threshold=_SOUGHT, num_perm=_PERMUTATIONS) for owner in set(owners)}
    sets = list(map(shingles, texts))
    hashes = MinHash.bulk([[run.encode() for run in runs] for runs in sets], num_perm=_PERMUTATIONS)
    kept = []
    for at, (owner, made) in enumerate(zip(owners, hashes, strict=True)):
        near = sought[owner].query(made)
        if any(resemblance(sets[at], sets[other]) >= THRESHOLD for other in near):
            continue
        sought[owner].insert(at, made)
        kept.append(at)
    return np.array(kept, np.int64)
