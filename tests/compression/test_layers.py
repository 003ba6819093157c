"""Positions by layer: shorter where layers differ, never longer, and safe to read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedlite.compression import layers, positions

STARTS, SIZE = [0, 200, 5000, 8000], 30_000


def some(rates: tuple[float, ...], seed: int = 0) -> np.ndarray:
    """A set whose share differs from layer to layer."""
    edges = np.diff([*STARTS, SIZE])
    chance = np.repeat(rates, edges)
    return np.flatnonzero(np.random.default_rng(seed).random(SIZE) < chance)


def entropy(indices: np.ndarray, size: int) -> float:
    """log2 of the binomial coefficient, in bytes."""
    from scipy.special import gammaln

    k = indices.size
    return float((gammaln(size + 1) - gammaln(k + 1) - gammaln(size - k + 1)) / np.log(2) / 8)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), size=st.integers(1, 300))
def test_every_set_comes_back_from_any_layers(data: st.DataObject, size: int) -> None:
    chosen = data.draw(st.sets(st.integers(0, size - 1)))
    starts = sorted({0, *data.draw(st.sets(st.integers(0, size - 1), max_size=6))})
    indices = np.array(sorted(chosen), dtype=np.int64)
    blob = layers.encode(indices, size, starts)
    assert len(blob) <= layers.limit(size, indices.size)
    got, used = layers.decode(memoryview(blob + b"rest"), size, indices.size, starts)
    assert used == len(blob) and got.dtype == np.int32
    np.testing.assert_array_equal(got, indices)


def test_layers_that_differ_are_coded_near_their_own_entropy() -> None:
    indices = some((0.5, 0.001, 0.05, 0.01))
    together, apart = (
        len(positions.encode(indices, SIZE)),
        len(layers.encode(indices, SIZE, STARTS)),
    )
    edges = np.searchsorted(indices, [*STARTS, SIZE])
    own = sum(
        entropy(indices[a:b], size)
        for a, b, size in zip(edges, edges[1:], np.diff([*STARTS, SIZE]), strict=False)
    )
    assert apart < 0.9 * together
    assert own < apart < 1.03 * own + 20


def test_layers_that_do_not_differ_are_not_split() -> None:
    indices = some((0.02,) * 4)
    blob = layers.encode(indices, SIZE, STARTS)
    assert blob[2:] == positions.encode(indices, SIZE)
    assert blob[0] & 1 == 0


def test_small_tensors_join_the_one_before_them() -> None:
    assert layers.begins((144, 16, 4608, 32, 2880, 10), 7690) == [0, 160, 4800]
    assert layers.begins((5, 5), 10) == [0, 5]
    assert layers.begins((), 0) == [0]
    with pytest.raises(ValueError, match="must add up"):
        layers.begins((3, 4), 8)


@pytest.mark.long
@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_a_set_of_the_planned_size(data: st.DataObject) -> None:
    indices = some((0.3, 0.002, 0.03, 0.01), seed=1)
    blob = bytearray(layers.encode(indices, SIZE, STARTS))
    assert blob[0] & 1
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(blob) - 1, data.draw(st.sampled_from([12, 10**6])))))
        blob[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(blob)))
    try:
        got, used = layers.decode(memoryview(blob)[:cut], SIZE, indices.size, STARTS)
    except ValueError:
        return
    assert got.size == indices.size and (np.diff(got) > 0).all()
    assert got[0] >= 0 and got[-1] < SIZE and used <= cut


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        ("", "end within 5 bytes"),
        ("8000", "shortest form"),
        ("ffffffffff", "end within 5 bytes"),
        ("0831", "all of which are there"),
        ("0108", "must not be split"),
    ],
)
def test_what_is_wrong_is_named(blob: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        layers.decode(memoryview(bytes.fromhex(blob)), 100, 4, [0])


def test_counts_that_do_not_fit_are_refused() -> None:
    blob = layers.varint(2 * 3 + 1) + bytes([9, 0, 0])
    with pytest.raises(ValueError, match="fit into the layers"):
        layers.decode(memoryview(blob), 100, 4, [0, 50])


def test_many_small_layers_are_not_written_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred sets took 14 times as long as one, and were thrown away."""
    calls = []
    encode = positions.encode
    monkeypatch.setattr(
        positions, "encode", lambda indices, size: calls.append(size) or encode(indices, size)
    )
    rng = np.random.default_rng(4)
    size, starts = 5000, list(range(0, 5000, 50))
    for density in (0.01, 0.03, 0.1):
        indices = np.flatnonzero(rng.random(size) < density)
        blob = layers.encode(indices, size, starts)
        assert layers.decode(memoryview(blob), size, indices.size, starts)[0].tolist() == [*indices]
    assert calls == [size] * 3


def test_no_split_that_is_shorter_is_missed() -> None:
    """Also of gaps that are anything but random, as rows of a matrix make them."""
    rng = np.random.default_rng(5)
    for number in range(200):
        sizes = rng.integers(1, 3000, int(rng.integers(2, 40)))
        weight = np.repeat(np.exp(2 * rng.normal(size=sizes.size)), sizes)
        if number % 2:
            weight *= np.resize(np.exp(rng.normal(size=50)), weight.size)
        size, chosen = int(sizes.sum()), rng.random(weight.size) * weight > 2
        starts = layers.begins(tuple(sizes.tolist()), size)
        indices = np.flatnonzero(chosen)
        edges = np.searchsorted(indices, [*starts, size])
        if indices.size and len(starts) > 1:
            split = layers._encode_split(indices, size, starts, edges)
            best = min(len(split), len(positions.encode(indices, size)))
            blob = layers.encode(indices, size, starts)
            assert len(blob) == len(layers.varint(2 * best)) + best
