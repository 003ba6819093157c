"""Many updates at once come to the bytes and the bits of one after the other.

Covers fedlite/compression/batch.py, fedlite/compression/ragged.py,
fedlite/compression/rotation.py.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedlite.compression import (
    NOTHING,
    Context,
    Decoded,
    compress_many,
    decompress_many,
    layers,
    make,
    positions,
    ragged,
    topk,
)
from fedlite.compression.rotated import RotatedTopK
from fedlite.compression.selection import select, select_rows
from fedlite.compression.topk import TopK

CNN = (144, 16, 4608, 32, 51200, 64, 640, 10)
VALUES = ("sign", "sign-per-tensor", "fp32", "levels-3")
MODELS = ((), (64 * 32, 32, 320, 10), CNN, (300,), (40, 1000, 50, 900, 60), (150,) * 7)


def updates(rng: np.random.Generator, sections: tuple[int, ...], many: int) -> np.ndarray:
    """Return updates of every kind: heavy-tailed, sparse, zero, equal, tiny, large."""
    size = sum(sections) or 5000
    kinds = (
        lambda: rng.laplace(size=size),
        lambda: np.where(rng.random(size) < 0.02, 1e4 * rng.normal(size=size), 0.0),
        lambda: np.zeros(size),
        lambda: np.where(np.arange(size) < size // 2, 0.0, 1.0),
        lambda: 1e-40 * rng.normal(size=size),
        lambda: 1e30 * rng.normal(size=size),
        lambda: -np.ones(size),
        lambda: np.exp(np.arange(size) // 50 % 7) * rng.normal(size=size),
    )
    return np.stack([kinds[n % len(kinds)]() for n in range(many)]).astype(np.float32)


def contexts(many: int) -> list[Context]:
    return [Context(b"round-1", 7 * n) for n in range(many)]


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("density", [0.003, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("sections", MODELS, ids=lambda one: f"{len(one)}-{sum(one)}")
def test_rotated_updates_are_written_and_read_as_one_by_one(
    sections: tuple[int, ...], density: float, unbiased: bool
) -> None:
    compressor = RotatedTopK(density, unbiased, sections)
    vectors, of = updates(np.random.default_rng(1), sections, 11), contexts(11)
    size = vectors.shape[1]
    alone = [compressor.compress(one, each) for one, each in zip(vectors, of, strict=True)]
    assert compress_many(compressor, list(vectors), of) == alone
    # Not by way of the one-by-one path, which takes over where many at once are refused.
    assert compressor.compress_many(vectors, of) == alone
    read = compressor.decompress_many(alone, size, of)
    for body, each, found in zip(alone, of, read, strict=True):
        truth = compressor.decompress(body, size, each)
        assert isinstance(found, Decoded) and found.indices is None
        assert found.values.tobytes() == truth.values.tobytes()


def test_a_vector_of_several_blocks_is_cut_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "BLOCK", 2**12)
    sections = (2000, 2123, 5001, 9000)
    compressor = RotatedTopK(0.02, sections=sections)
    vectors, of = updates(np.random.default_rng(1), sections, 3), contexts(3)
    assert len(list(compressor._plan(vectors.shape[1]).blocks(vectors.shape[1]))) == 5
    alone = [compressor.compress(one, each) for one, each in zip(vectors, of, strict=True)]
    assert compressor.compress_many(vectors, of) == alone
    read = compressor.decompress_many(alone, vectors.shape[1], of)
    for body, each, found in zip(alone, of, read, strict=True):
        truth = compressor.decompress(body, vectors.shape[1], each)
        assert isinstance(found, Decoded)
        assert found.values.tobytes() == truth.values.tobytes()


@pytest.mark.parametrize(
    "values", ["sign", "sign-per-tensor", "sign-per-chunk", "fp32", "levels-3"]
)
@pytest.mark.parametrize("density", [0.003, 0.1, 1.0])
@pytest.mark.parametrize("sections", MODELS, ids=lambda one: f"{len(one)}-{sum(one)}")
def test_the_largest_values_are_written_and_read_as_one_by_one(
    sections: tuple[int, ...], density: float, values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressor = TopK(density, values, sections)
    vectors, of = updates(np.random.default_rng(1), sections, 11), contexts(11)
    size = vectors.shape[1]
    for block in (topk.BLOCK, max(sections or (5000,)) // 2 + 1):
        monkeypatch.setattr(topk, "BLOCK", block)
        alone = [compressor.compress(one) for one in vectors]
        assert compressor.compress_many(vectors, of) == alone
        for body, found in zip(alone, compressor.decompress_many(alone, size, of), strict=True):
            truth = compressor.decompress(body, size)
            assert isinstance(found, Decoded) and found.indices is not None
            assert truth.indices is not None and found.indices.dtype == truth.indices.dtype
            assert found.indices.tolist() == truth.indices.tolist()
            assert found.values.tobytes() == truth.values.tobytes()


@pytest.mark.long
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_sets_are_written_as_each_by_itself(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    sets, sizes = [], []
    for _ in range(data.draw(st.integers(1, 12))):
        size = int(rng.choice([1, 2, 3, 7, 64, 1000, 40_000, 2**20]))
        count = int(rng.choice([0, 1, min(size, 5), size // 100, size // 3, size]))
        count = min(count, 30_000)
        kind = data.draw(st.sampled_from(["random", "first", "last", "runs"]))
        if kind == "first":
            chosen = np.arange(count)
        elif kind == "last":
            chosen = np.arange(size - count, size)
        elif kind == "runs":
            chosen = (np.arange(count) * (size // max(1, count))) % size
            chosen = np.unique(chosen)
        else:
            chosen = np.sort(rng.choice(size, count, replace=False))
        sets.append(chosen.astype(np.int32))
        sizes.append(size)
    counts = np.array([one.size for one in sets])
    got = ragged.encode(np.concatenate(sets), counts, np.array(sizes))
    assert got == [positions.encode(one, size) for one, size in zip(sets, sizes, strict=True)]
    read = ragged.decode(got, counts, np.array(sizes))
    assert read.tolist() == np.concatenate(sets).tolist()


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32), st.sampled_from([(), (500, 500), (10, 700, 290), (250,) * 4]))
def test_layers_are_written_as_each_vector_by_itself(seed: int, sections: tuple[int, ...]) -> None:
    rng, size = np.random.default_rng(seed), 1000
    starts = layers.begins(sections, size)
    count = int(rng.integers(0, 300))
    weight = np.repeat(rng.lognormal(sigma=2, size=4), 250)
    rows = np.stack(
        [np.sort(rng.choice(size, count, replace=False, p=weight / weight.sum())) for _ in range(6)]
    ).astype(np.int32)
    written = layers.encode_many(rows, size, starts)
    assert written == [layers.encode(row, size, starts) for row in rows]
    # What follows it is not its own.
    read, used = layers.decode_many(
        [memoryview(one + b"more") for one in written], size, count, starts
    )
    assert read.tolist() == rows.tolist() and used == [len(one) for one in written]


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32), st.booleans())
def test_rows_are_selected_as_each_run_by_itself(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.choice([1, 5, 130, 1024, 1100], 3))
    rows = rng.normal(size=(4, ends[-1])).astype(np.float32)
    if ties:
        rows = np.round(rows)
    lengths = np.diff(ends, prepend=0)
    shares = [[int(rng.integers(0, n + 1)) for n in lengths] for _ in range(4)]
    # As many of each row in all.
    counts = np.minimum(np.array(shares), np.array(shares).min(axis=0))
    found = select_rows(rows, ends, counts)
    for row, mine, got in zip(rows, counts, found, strict=True):
        begins = ends - lengths
        want = [
            select(row[a:b].copy(), int(k))[0] + a
            for a, b, k in zip(begins, ends, mine, strict=True)
        ]
        assert got.tolist() == np.concatenate(want).tolist()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["rotated", *VALUES])
@pytest.mark.parametrize("sections", [(), (600, 400), (300, 300, 400)])
def test_hostile_bodies_are_refused_or_read_as_one_by_one(
    sections: tuple[int, ...], kind: str
) -> None:
    """Each body with an honest one beside it: what is wrong with it may not be overlooked."""
    compressor: RotatedTopK | TopK = (
        TopK(0.05, kind, sections) if kind != "rotated" else (RotatedTopK(0.05, sections=sections))
    )
    of = contexts(2)
    size = sum(sections) or 5000
    vectors = updates(np.random.default_rng(3), sections, 8)
    honest = [compressor.compress(one, of[0]) for one in vectors]
    rng, outcomes = np.random.default_rng(4), set()
    for _ in range(1500):
        body = bytearray(honest[int(rng.integers(8))])
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(min(len(body), 24) if rng.random() < 0.5 else len(body)))
            kind = int(rng.integers(5))
            if kind < 2:
                body[at] ^= 1 << int(rng.integers(8))
            elif kind == 2:
                body[at] = int(rng.integers(256))
            elif kind == 3:
                del body[at : at + int(rng.integers(1, 4))]
            else:
                body[at:at] = rng.bytes(int(rng.integers(1, 4)))
            if not body:
                break
        try:
            truth = compressor.decompress(bytes(body), size, of[1])
        except ValueError:
            truth = None
        outcomes.add(truth is None)
        both = [honest[0], bytes(body)]
        if truth is None:
            # It need not say of which.
            with contextlib.suppress(ValueError):
                assert isinstance(compressor.decompress_many(both, size, of)[1], ValueError)
        else:
            found = compressor.decompress_many(both, size, of)[1]
            assert isinstance(found, Decoded)
            assert found.dense().tobytes() == truth.dense().tobytes()
    assert outcomes == {True, False}


def test_what_is_wrong_with_one_update_is_said_of_that_one() -> None:
    compressor = RotatedTopK(0.1)
    vectors = list(updates(np.random.default_rng(2), (), 4))
    vectors[1] = vectors[1].copy()
    vectors[1][3] = np.nan
    found = compress_many(compressor, vectors, contexts(4))
    assert isinstance(found[1], ValueError) and "1 of 5000 values" in str(found[1])
    whole = [compressor.compress(vectors[n], contexts(4)[n]) for n in (0, 2, 3)]
    assert [found[n] for n in (0, 2, 3)] == whole
    bodies = [whole[0], b"", whole[2], whole[1][:-1]]
    read = decompress_many(compressor, bodies, 5000, [NOTHING] * 4)
    assert [isinstance(one, Decoded) for one in read] == [True, False, True, False]
    for body, error in ((bodies[1], read[1]), (bodies[3], read[3])):
        with pytest.raises(ValueError, match=re.escape(str(error))):
            compressor.decompress(body, 5000)


def test_a_compressor_that_knows_one_only_is_asked_one_by_one() -> None:
    compressor = make("eden")
    vectors = list(updates(np.random.default_rng(2), (), 3))
    alone = [compressor.compress(one) for one in vectors]
    assert compress_many(compressor, vectors, [NOTHING] * 3) == alone
    read = decompress_many(compressor, alone, 5000, [NOTHING] * 3)
    for body, found in zip(alone, read, strict=True):
        assert isinstance(found, Decoded)
        assert found.dense().tolist() == compressor.decompress(body, 5000).dense().tolist()
    assert compress_many(compressor, [], []) == []


@dataclass(frozen=True)
class Noting(RotatedTopK):
    """Notes how many updates each call works on."""

    calls: list[tuple[str, int]] = field(default_factory=list, compare=False)

    def compress(self, vector: Any, context: Context = NOTHING) -> bytes:
        self.calls.append(("one", 1))
        return super().compress(vector, context)

    def decompress(self, body: bytes, size: int, context: Context = NOTHING) -> Decoded:
        self.calls.append(("one", 1))
        return super().decompress(body, size, context)

    def compress_many(self, vectors: Any, contexts: Any) -> list[bytes]:
        self.calls.append(("many", len(vectors)))
        return super().compress_many(vectors, contexts)

    def decompress_many(self, bodies: Any, size: int, contexts: Any) -> list[Decoded | ValueError]:
        self.calls.append(("many", len(bodies)))
        return super().decompress_many(bodies, size, contexts)


def test_a_bad_update_among_many_leaves_the_others_together() -> None:
    noting, of = Noting(0.1), contexts(16)
    vectors = list(updates(np.random.default_rng(2), (), 16))
    bodies = [noting.compress(one, each) for one, each in zip(vectors, of, strict=True)]
    vectors[5], bad = np.full(5000, np.nan, np.float32), [*bodies]
    bad[5] = b"\xff" * 9
    halves = [16, 8, 4, 4, 2, 2, 8]
    noting.calls.clear()
    assert isinstance(compress_many(noting, vectors, of)[5], ValueError)
    assert [many for _, many in noting.calls if many > 1] == halves
    assert noting.calls.count(("one", 1)) == 2
    noting.calls.clear()
    read = decompress_many(noting, bad, 5000, of)
    assert [at for at, one in enumerate(read) if isinstance(one, ValueError)] == [5]
    assert [many for _, many in noting.calls if many > 1] == halves
    assert noting.calls.count(("one", 1)) == 2


def test_a_body_whose_values_are_at_fault_costs_no_other_its_work_again() -> None:
    """Known only when all are rotated back: two lengths that overflow when they are added."""
    noting, of = Noting(1.0), contexts(4)
    vectors = list(updates(np.random.default_rng(2), (), 8)[:4] + 1)
    bodies = [noting.compress(one, each) for one, each in zip(vectors, of, strict=True)]
    _, used = layers.decode(memoryview(bodies[2]), 5000, 5000, [0])
    huge = np.array([3e38], "<f4").tobytes()
    bodies[2] = bodies[2][:used] + huge + bodies[2][used + 4 :]
    with pytest.raises(ValueError, match="finite") as truth:
        noting.decompress(bodies[2], 5000, of[2])
    noting.calls.clear()
    found = decompress_many(noting, bodies, 5000, of)
    assert noting.calls == [("many", 4)]
    assert [isinstance(one, Decoded) for one in found] == [True, True, False, True]
    assert str(found[2]) == str(truth.value)


@pytest.mark.parametrize("error", [RuntimeError, TypeError, MemoryError, StopIteration])
@pytest.mark.parametrize("many", [True, False])
def test_an_error_of_any_kind_is_of_its_own_update(error: type[Exception], many: bool) -> None:
    class Own:
        """A compressor of somebody's own, which cannot do with the number 2."""

        def compress(self, vector: Any, context: Context = NOTHING) -> bytes:
            if 2 in vector:
                raise error("own trouble")
            return bytes(vector.astype("<f4").tobytes())

    class Short(Own):
        """And one that forgets the last of many."""

        def compress_many(self, vectors: Any, contexts: Any) -> list[bytes]:
            return [self.compress(one) for one in vectors][:-1]

        decompress_many = compress_many

    own: Any = Short() if many else Own()
    found = compress_many(own, [np.array([n], np.float32) for n in range(5)], [NOTHING] * 5)
    assert isinstance(found[2], error)
    assert [found[n] for n in (0, 1, 3, 4)] == [np.float32(n).tobytes() for n in (0, 1, 3, 4)]
