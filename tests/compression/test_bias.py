"""Compressors that call themselves unbiased, over lengths that do not suit a Hadamard transform.

The gain of a part of a vector is what arrives of it in its own direction, as a share of what was
there. Signs are drawn for every coordinate, so that no coordinate leaks into another in the mean:
a mean gain of 1 of every part is all that being unbiased asks.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t as student

from fedlite.compression import Compressor, Context
from fedlite.compression.eden import Eden
from fedlite.compression.randk import RandK
from fedlite.compression.rotated import RotatedTopK

# A power of two and one less or more, half way between two, and what layers are cut into.
LENGTHS = (31, 127, 129, 1000, 1023, 1025, 1536, 4095, 4097, 62_500, 63_792, 65_359)
COMPRESSORS: dict[str, Compressor] = {
    "rotated-topk": RotatedTopK(0.03),
    "eden": Eden(1),
    "randk": RandK(0.1, "fp32"),
}
VECTORS = ("flat", "halved", "spike")
# Quarters and the largest.
PARTS = 5
TESTS = len(LENGTHS) * len(COMPRESSORS) * len(VECTORS) * PARTS


def vector(kind: str, size: int) -> NDArray[np.float32]:
    update = np.random.default_rng(size).normal(size=size)
    if kind == "halved":
        update[size // 2 :] /= 2
    if kind == "spike":
        # As long as all the rest, and in the half that a transform of the first L leaves out.
        update[-1] = np.linalg.norm(update)
    return update.astype(np.float32)


def gains(
    compressor: Compressor, update: NDArray[np.float32], repeats: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean gain of each part over rounds of one site, and its standard error."""
    exact = update.astype(np.float64)
    quarters = np.linspace(0, exact.size, 4, endpoint=False).astype(int)
    largest = np.argsort(-np.abs(exact))[: max(1, exact.size // 16)]
    there = [*np.add.reduceat(exact**2, quarters), (exact[largest] ** 2).sum()]
    found = np.empty((repeats, PARTS))
    for number in range(repeats):
        context = Context(b"bias%d" % number, 1)
        body = compressor.compress(update, context)
        along = exact * compressor.decompress(body, exact.size, context).dense()
        found[number] = [*np.add.reduceat(along, quarters), along[largest].sum()]
    found /= there
    return found.mean(axis=0), found.std(axis=0, ddof=1) / np.sqrt(repeats)


@pytest.mark.long
@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("size", LENGTHS)
@pytest.mark.parametrize("name", COMPRESSORS)
def test_every_part_of_every_length_arrives_whole(name: str, size: int, kind: str) -> None:
    """Within three standard errors, as they are for all the tests of this file together."""
    repeats = 400 if name == "randk" else 300 if size < 5000 else 30
    mean, error = gains(COMPRESSORS[name], vector(kind, size), repeats)
    most = student.isf(0.00135 / TESTS, repeats - 1)
    # The largest of three coordinates of which one is sent, and random k of a spike.
    assert error.max() < 0.2
    assert np.all(np.abs(mean - 1) <= most * error + 1e-6), (mean, error)


@pytest.mark.long
@pytest.mark.parametrize("size", [127, 255])
def test_what_stands_out_of_a_short_chunk_does_not_drown_the_rest(size: int) -> None:
    """With two turns the smallest of these three arrives about a tenth too long."""
    spikes = {3: 5.0, size // 2: 2.0, size - 2: 1.0}
    update = np.zeros(size, np.float32)
    update[[*spikes]] = [*spikes.values()]
    repeats, compressor = 1500, RotatedTopK(0.03)
    found = np.empty((repeats, len(spikes)))
    for number in range(repeats):
        context = Context(b"bias%d" % number, 1)
        body = compressor.compress(update, context)
        found[number] = compressor.decompress(body, size, context).dense()[[*spikes]]
    found /= [*spikes.values()]
    error = found.std(axis=0, ddof=1) / np.sqrt(repeats)
    assert np.all(np.abs(found.mean(axis=0) - 1) < 4 * error), (found.mean(axis=0), error)
