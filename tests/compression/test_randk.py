"""A random support from a public seed: the draw, its mean and variance, hostile bodies."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedlite.compression import Context
from fedlite.compression.feedback import compress
from fedlite.compression.randk import RandK, below, strata

MASK = 2**64 - 1


def philox(key: int, blocks: int) -> list[int]:
    """Philox4x64-10 (Salmon et al. 2011) in Python integers, counter from 1."""
    words: list[int] = []
    for block in range(1, blocks + 1):
        c0, c1, c2, c3, k0, k1 = block, 0, 0, 0, key & MASK, key >> 64
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
            c0, c1, c2, c3 = (b >> 64) ^ c1 ^ k0, b & MASK, (a >> 64) ^ c3 ^ k1, a & MASK
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
        words += [c0, c1, c2, c3]
    return words


def context_words(seed: bytes, sender: int | None, count: int) -> list[int]:
    """The stream of a context, from the definition; `sender` None for the shared one."""
    name = len(seed).to_bytes(4, "little") + seed
    name += (0 if sender is None else 1 + sender).to_bytes(8, "little")
    key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
    return philox(key, count // 4 + 1)[:count]


@pytest.mark.parametrize("sender", [None, 0, 7, 2**32 - 1])
def test_the_stream_is_philox_as_documented(sender: int | None) -> None:
    context = Context(b"run-0001", sender or 0)
    words = context.random(shared=sender is None).random_raw(11)
    assert words.tolist() == context_words(b"run-0001", sender, 11)


def test_the_support_is_the_documented_one() -> None:
    """In integers of any size: word i times the length of stretch i, divided by 2**64."""
    n, k = 1003, 38
    words = context_words(b"run-0001", None, k)
    edges = [i * n // k for i in range(k + 1)]
    expected = [a + (w * (b - a) >> 64) for w, a, b in zip(words, edges, edges[1:], strict=False)]
    compressor = RandK(0.037, "fp32", unbiased=False)
    vector = np.arange(n, dtype=np.float32)
    context = Context(b"run-0001", 5)
    decoded = compressor.decompress(compressor.compress(vector, context), n, context)
    assert decoded.indices is not None
    assert decoded.indices.tolist() == expected
    np.testing.assert_array_equal(decoded.values, expected)


def test_all_sites_of_a_round_draw_the_same_and_rounds_differ() -> None:
    compressor = RandK(0.1, "fp32")
    vector = np.ones(500, dtype=np.float32)

    def support(seed: bytes, sender: int) -> list[int]:
        context = Context(seed, sender)
        decoded = compressor.decompress(compressor.compress(vector, context), 500, context)
        assert decoded.indices is not None
        return [int(index) for index in decoded.indices]

    assert support(b"round-1", 1) == support(b"round-1", 2)
    assert support(b"round-1", 1) != support(b"round-2", 1)


@settings(deadline=None)
@given(size=st.integers(1, 5000), share=st.floats(0, 1))
def test_stretches_cover_everything_and_differ_by_one(size: int, share: float) -> None:
    k = max(1, int(share * size))
    edges = strata(size, k)
    assert edges[0] == 0 and edges[-1] == size
    lengths = set(np.diff(edges).tolist())
    assert lengths <= {size // k, size // k + 1}


@settings(deadline=None)
@given(
    words=st.lists(st.integers(0, MASK), min_size=1, max_size=9),
    length=st.integers(1, 2**32 - 1),
)
def test_the_reduction_is_a_product_of_any_size(words: list[int], length: int) -> None:
    got = below(np.array(words, dtype=np.uint64), np.full(len(words), length))
    assert got.tolist() == [word * length >> 64 for word in words]


def test_the_reduction_carries_from_the_low_half() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, 200, dtype=np.uint64)
    lengths = rng.integers(2**31, 2**32, 200)
    expected = [w * n >> 64 for w, n in zip(words.tolist(), lengths.tolist(), strict=True)]
    assert below(words, lengths).tolist() == expected


@pytest.mark.parametrize("values", ["fp32", "fp16"])
def test_the_mean_over_draws_is_the_update_with_the_stated_variance(values: str) -> None:
    n, draws = 300, 2000
    compressor = RandK(0.1, values)
    vector = np.random.default_rng(0).normal(size=n).astype(np.float32)
    energy = float((vector.astype(np.float64) ** 2).sum())
    total, errors = np.zeros(n), []
    for draw in range(draws):
        context = Context(draw.to_bytes(4, "little"))
        decoded = compressor.decompress(compressor.compress(vector, context), n, context)
        decoded.add_to(total, 1.0)
        errors.append(float(((decoded.dense().astype(np.float64) - vector) ** 2).sum()) / energy)
    # Per coordinate: 0 or 10 x with probability 1 / 10, a standard deviation of 3 |x|.
    bound = 5.0 * 3.0 * np.abs(vector) / np.sqrt(draws) + 1e-3
    assert np.all(np.abs(total / draws - vector) < bound)
    assert np.mean(errors) == pytest.approx(10 - 1, rel=0.02)


def test_what_is_fed_back_shrinks_by_one_in_ten() -> None:
    """Stich et al. 2018: without scaling the error keeps 1 - k/n of the squared norm."""
    n, rounds = 2000, 60
    compressor = RandK(0.1, "fp32", unbiased=False)
    vector = np.random.default_rng(1).normal(size=n).astype(np.float32)
    sent = compress(compressor, vector, context=Context(b"0"))
    for number in range(1, rounds):
        sent = compress(
            compressor, np.zeros(n, np.float32), sent.residual, context=Context(b"%d" % number)
        )
    share = (sent.residual.value**2).sum() / (vector**2).sum()
    assert 0.5 * 0.9**rounds < share < 2 * 0.9**rounds


@pytest.mark.parametrize(
    ("values", "size"), [("fp32", 400), ("fp16", 200), ("sign", 17), ("sign-per-tensor", 19)]
)
def test_a_body_is_nothing_but_values(values: str, size: int) -> None:
    sections = (300, 700) if values == "sign-per-tensor" else ()
    compressor = RandK(0.1, values, sections)
    assert compressor.codec == 7
    assert len(compressor.compress(np.ones(1000, dtype=np.float32))) == size
    assert compressor.limit(1000) == size


def test_bytes_after_values_of_varying_length_are_refused() -> None:
    compressor = RandK(1.0, "levels-2")
    body = compressor.compress(np.where(np.arange(400) == 7, 9, 1).astype(np.float32))
    assert len(body) + 1 < compressor.limit(400)
    with pytest.raises(ValueError, match="trailing bytes"):
        compressor.decompress(body + b"\0", 400)


def test_every_tensor_has_its_own_magnitude() -> None:
    compressor = RandK(0.5, "sign-per-tensor", (4, 6), unbiased=False)
    vector = np.array([100] * 4 + [1] * 6, dtype=np.float32)
    decoded = compressor.decompress(compressor.compress(vector), 10)
    np.testing.assert_allclose(decoded.values, vector[decoded.indices], rtol=0.045)
    with pytest.raises(ValueError, match="sections must add up to the vector's 9 values, got 10"):
        compressor.compress(vector[:9])


def test_values_that_scaling_would_make_infinite_are_refused_at_both_ends() -> None:
    large = np.full(10, np.finfo(np.float32).max, dtype=np.float32)
    with pytest.raises(ValueError, match="finite after scaling by 10"):
        RandK(0.1, "fp32").compress(large)
    body = RandK(0.1, "fp32", unbiased=False).compress(large)
    with pytest.raises(ValueError, match="finite after scaling"):
        RandK(0.1, "fp32").decompress(body, 10)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="density must be in"):
        RandK(0.0)
    with pytest.raises(ValueError, match="values must be one of"):
        RandK(0.1, "int8")
