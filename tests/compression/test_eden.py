"""Rotated quantization: the transform, the centroids, the error, the mean, hostile bodies."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import hadamard as sylvester
from scipy.stats import norm

from fedlite.compression import Context
from fedlite.compression.eden import _CENTROIDS, Eden, _table, chunks, hadamard
from fedlite.compression.feedback import compress

# Max 1960, table I, and Lloyd's iteration for the last four: mean squared error for N(0, 1).
DISTORTION = {
    1: 0.36338,
    2: 0.11748,
    3: 0.034548,
    4: 0.0095010,
    5: 0.0025047,
    6: 6.4424e-4,
    7: 1.6348e-4,
    8: 4.1185e-5,
}


def vector(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).laplace(size=n).astype(np.float32)


def through(compressor: Eden, update: NDArray[np.float32], context: Context) -> NDArray[np.float64]:
    body = compressor.compress(update, context)
    assert len(body) == compressor.limit(update.size)
    return compressor.decompress(body, update.size, context).values.astype(np.float64)


def error(got: NDArray[np.float64], update: NDArray[np.float32]) -> float:
    exact = update.astype(np.float64)
    return float(((got - exact) ** 2).sum() / (exact**2).sum())


@pytest.mark.parametrize("p", range(8))
def test_the_transform_is_sylvesters(p: int) -> None:
    rows = np.random.default_rng(p).integers(-1000, 1000, (3, 1 << p)).astype(np.int32)
    np.testing.assert_array_equal(hadamard(rows), rows @ sylvester(1 << p, dtype=np.int64))


def test_the_transform_twice_is_a_multiple_of_the_identity() -> None:
    rows = np.random.default_rng(0).integers(-100, 100, (2, 2**11)).astype(np.int32)
    before = rows.copy()
    np.testing.assert_array_equal(hadamard(hadamard(rows)), before * 2**11)
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_centroids_are_lloyd_max(bits: int) -> None:
    """Each is the mean of the normal distribution over its cell, and the error is Max's."""
    table = _table(bits) / 4096
    assert table.size == 2**bits
    edges = np.concatenate(([-np.inf], (table[1:] + table[:-1]) / 2, [np.inf]))
    mass = norm.cdf(edges[1:]) - norm.cdf(edges[:-1])
    first = norm.pdf(edges[:-1]) - norm.pdf(edges[1:])
    # Half a unit of rounding, and what the neighbours' rounding moves the edges.
    np.testing.assert_allclose(first / mass, table, atol=1.5 / 4096)
    assert 1 - 2 * (table * first).sum() + (table**2 * mass).sum() == pytest.approx(
        DISTORTION[bits], rel=1e-3
    )


def test_no_sum_leaves_what_float64_holds_exactly() -> None:
    """So any order of adding, in integers or in float64, gives the same update."""
    largest = max(max(row) for row in _CENTROIDS.values())
    assert largest * 2**32 < 2**53
    assert largest * 2**16 < 2**31


@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 511, 1000, 20_640, 65_536, 300_000])
def test_chunks_cover_the_vector_and_little_more(n: int) -> None:
    total = sum(number * length for number, length in chunks(n))
    assert n <= total < n + 256
    lengths = [length for _, length in chunks(n)]
    assert lengths == sorted(lengths, reverse=True)
    assert all(256 <= length <= 2**16 and length & (length - 1) == 0 for length in lengths)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_error_is_the_theory_of_the_normal_distribution(bits: int) -> None:
    """Unbiased: D / (1 - D) with the distortion D of Lloyd-Max; least error: D."""
    update = vector(100_000)
    d = DISTORTION[bits]
    got = through(Eden(bits), update, Context(b"run", 1))
    assert error(got, update) == pytest.approx(d / (1 - d), rel=0.03)
    got = through(Eden(bits, unbiased=False), update, Context(b"run", 1))
    assert error(got, update) == pytest.approx(d, rel=0.03)


@pytest.mark.parametrize("compressor", [Eden(1), Eden(2)], ids=repr)
def test_the_mean_over_rotations_is_the_update(compressor: Eden) -> None:
    """And over sites the squared error falls as one over their number."""
    n, sites = 1024, 800
    update = vector(n)
    total, squares, single, along = np.zeros(n), np.zeros(n), [], []
    energy = float(update.astype(np.float64) @ update)
    for site in range(sites):
        got = through(compressor, update, Context(b"run-0001", site))
        total += got
        squares += (got - update) ** 2
        single.append(error(got, update))
        along.append(float(got @ update) / energy)
    mean = total / sites
    sigma = np.sqrt(squares / sites / sites)
    # 5 sigma for each of 1024 coordinates, and for their weighted sum.
    assert np.all(np.abs(mean - update) < 5 * sigma)
    assert abs(np.mean(along) - 1) < 5 * np.std(along) / math.sqrt(sites) + 1e-6
    assert error(mean, update) * sites == pytest.approx(float(np.mean(single)), rel=0.15)


def test_errors_average_out_over_sites_for_uneven_tensors() -> None:
    """Also in the short last chunks, and where one tensor is 30 times as large as the others."""
    update = vector(1500) * np.repeat(np.float32([1, 30, 0.01]), 500)
    sites = 64
    single, mean = [], np.zeros(1500)
    for site in range(sites):
        got = through(Eden(1), update, Context(b"run-0001", site))
        single.append(error(got, update))
        mean += got / sites
    assert np.mean(single) == pytest.approx(math.pi / 2 - 1, rel=0.05)
    assert error(mean, update) * sites == pytest.approx(float(np.mean(single)), rel=0.25)


def test_a_few_large_coordinates_do_not_decide_everything() -> None:
    """One transform would give every site the same sign pattern here, and the error would stay."""
    update = np.zeros(1024, dtype=np.float32)
    update[[3, 5, 900]] = [1.5, -2.5, 0.5]
    sites = 400
    mean = np.zeros(1024)
    for site in range(sites):
        mean += through(Eden(1), update, Context(b"run-0001", site)) / sites
    assert error(mean, update) < 1.3 * (math.pi / 2 - 1) / sites


@pytest.mark.parametrize("compressor", [Eden(1), Eden(3)], ids=repr)
def test_the_scale_of_least_error_leaves_a_right_angle(compressor: Eden) -> None:
    """What is left of a chunk has nothing in common with what was sent of it."""
    update = vector(256)
    body = replace(compressor, unbiased=False).compress(update)
    got = replace(compressor, unbiased=False).decompress(body, 256).values.astype(np.float64)
    assert abs(float((update - got) @ got)) < 1e-5 * float(got @ got)


def test_sites_and_rounds_have_their_own_rotations() -> None:
    update = vector(500)
    bodies = [
        Eden().compress(update, Context(seed, sender))
        for seed in (b"round-1", b"round-2")
        for sender in (0, 1, 2)
    ]
    assert len(set(bodies)) == 6
    assert Eden().compress(update, Context(b"round-1", 1)) == bodies[1]


def test_what_is_fed_back_never_grows() -> None:
    """With the scale of least error the residual is a projection, so it is never longer."""
    sent = compress(Eden(1, unbiased=False), vector(3000), context=Context(b"0", 4))
    length = float((sent.residual.value**2).sum())
    for number in range(1, 30):
        context = Context(b"%d" % number, 4)
        sent = compress(
            Eden(1, unbiased=False),
            np.zeros(3000, np.float32),
            sent.residual,
            context=context,
        )
        after = float((sent.residual.value**2).sum())
        assert after < length
        length = after


def rotation(length: int, context: Context) -> NDArray[np.float64]:
    """The first chunk's rotation as a matrix, from the definition; its rows have length length."""
    words = context.random(shared=False).random_raw(2 * length // 64).tolist()
    signs = np.array([-1.0 if word >> bit & 1 else 1.0 for word in words for bit in range(64)])
    first, second = signs[:length], signs[length:]
    hadamard_matrix = sylvester(length).astype(np.float64)
    return (hadamard_matrix * second) @ (hadamard_matrix * first)


def test_a_body_decodes_as_documented() -> None:
    """Scale, then planes of centroid numbers; rotation back x centroids x scale / length."""
    context = Context(b"run-0001", 9)
    numbers = np.random.default_rng(1).integers(0, 8, 256)
    planes = [int(number) >> plane & 1 for plane in range(3) for number in numbers]
    packed = np.packbits(planes, bitorder="little").tobytes()
    body = np.float32(0.25).tobytes() + packed
    decoded = Eden(3).decompress(body, 50, context).values
    centroids = np.array([-8814, -5505, -3097, -1004, 1004, 3097, 5505, 8814], np.float64)[numbers]
    exact = rotation(256, context).T @ centroids
    np.testing.assert_array_equal(decoded, (exact / 256).astype(np.float32)[:50] * 0.25)


def test_an_encoded_coordinate_has_the_nearest_centroid() -> None:
    context = Context(b"run-0001", 9)
    update = vector(256)
    rotated = rotation(256, context) @ update
    body = Eden(4).compress(update, context)
    bits = np.unpackbits(np.frombuffer(body[4:], np.uint8), bitorder="little").reshape(4, 256)
    numbers = (bits << np.arange(4)[:, None]).sum(axis=0)
    table = _table(4) / 4096
    unit = rotated / np.linalg.norm(rotated) * 16
    np.testing.assert_array_equal(numbers, np.abs(unit[:, None] - table).argmin(axis=1))
    scale = float(np.frombuffer(body[:4], "<f4")[0])
    exact = 256 * float(update @ update) / float(rotated @ _table(4)[numbers])
    assert scale == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("n", [0, 1, 5, 256, 700])
@pytest.mark.parametrize("fill", [0.0, 1e-45, -1e-38, 1e-10, -1e30])
@pytest.mark.parametrize("bits", [1, 8])
def test_extreme_vectors_come_back(n: int, fill: float, bits: int) -> None:
    update = np.full(n, fill, dtype=np.float32)
    got = Eden(bits).decompress(Eden(bits).compress(update), n).values
    assert np.isfinite(got).all()
    if fill == 0:
        np.testing.assert_array_equal(got, update)
    elif abs(fill) >= 1e-38 and n > 1:
        assert error(got.astype(np.float64), update) < (2.0 if bits == 1 else 0.01)


@pytest.mark.parametrize("magnitude", [1e-30, 1.0, 1e30])
def test_the_scale_of_an_update_does_not_matter(magnitude: float) -> None:
    update = (vector(1000) * np.float32(magnitude)).astype(np.float32)
    got = through(Eden(4), update, Context())
    assert error(got, update) < 0.02


def test_updates_too_large_to_rotate_are_refused() -> None:
    with pytest.raises(ValueError, match="below about 1e30"):
        Eden().compress(np.full(10, np.finfo(np.float32).max, dtype=np.float32))


def test_chunks_of_zeros_take_a_scale_of_zero() -> None:
    update = np.concatenate((np.zeros(2**16), vector(2**16))).astype(np.float32)
    body = Eden(1).compress(update)
    assert body[:4] == bytes(4)
    got = Eden(1).decompress(body, 2**17).values
    np.testing.assert_array_equal(got[: 2**16], 0)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 2.0**97])
def test_bad_scales_are_refused(scale: float) -> None:
    body = np.float32(scale).tobytes() + bytes(32)
    with pytest.raises(ValueError, match=r"scales must be in \[0, 2\*\*96\]"):
        Eden(1).decompress(body, 256)


def test_the_largest_scale_stays_finite() -> None:
    length = 2**16
    for fill in (b"\0", b"\xff"):
        body = np.float32(2.0**96).tobytes() + fill * length
        assert np.isfinite(Eden(8).decompress(body, length).values).all()


def test_other_lengths_are_refused() -> None:
    body = Eden(1).compress(vector(256))
    assert len(body) == 36
    for other in (b"", body[:-1], body + b"\0"):
        with pytest.raises(ValueError, match=f"takes 36 bytes, got {len(other)}"):
            Eden(1).decompress(other, 256)


@pytest.mark.parametrize("bits", [0, 9])
def test_settings_are_checked(bits: int) -> None:
    with pytest.raises(ValueError, match=r"bits must be in \[1, 8\]"):
        Eden(bits)


def test_memory_is_bounded_by_groups_of_chunks() -> None:
    update = vector(3_000_000)
    tracemalloc.start()
    try:
        Eden(2).compress(update)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 25_000_000
