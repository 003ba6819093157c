"""Rotated top-k: unbiased, with errors that average out, and at any length."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import norm

from fedlite.compression import Context, TopK
from fedlite.compression.rotated import RotatedTopK, _drawn, chunks, shares
from fedlite.compression.rotation import rotate, unrotate

CONTEXT = Context(b"run-0001", 7)
SECTIONS = (144, 16, 4608, 32, 2880, 10)
N = sum(SECTIONS)


def layers(seed: int = 0) -> np.ndarray:
    """An update whose tensors differ in size and scale, with a heavy tail."""
    rng = np.random.default_rng(seed)
    scale = np.repeat(np.exp(rng.normal(size=len(SECTIONS))), SECTIONS)
    return (rng.laplace(size=N) * scale).astype(np.float32)


def decoded(compressor: RotatedTopK, vector: np.ndarray, sender: int) -> np.ndarray:
    context = Context(b"round", sender)
    body = compressor.compress(vector, context)
    assert len(body) <= compressor.limit(vector.size)
    return compressor.decompress(body, vector.size, context).dense()


def error(got: np.ndarray, vector: np.ndarray) -> float:
    exact = vector.astype(np.float64)
    return float(((got - exact) ** 2).sum() / (exact**2).sum())


@pytest.mark.parametrize(("density", "least", "most"), [(0.1, 0.9, 1.4), (0.03, 3.0, 4.0)])
def test_the_mean_over_sites_has_a_fraction_of_one_sites_error(
    density: float, least: float, most: float
) -> None:
    """What is unbiased and independent: the error of a mean over m is one m-th, and no floor."""
    compressor, vector = RotatedTopK(density, sections=SECTIONS), layers()
    sites = 60
    got = [decoded(compressor, vector, site) for site in range(sites)]
    single = float(np.mean([error(one, vector) for one in got]))
    assert least < single < most
    together = error(np.mean(got, axis=0, dtype=np.float64), vector)
    assert together == pytest.approx(single / sites, rel=0.15)


@pytest.mark.parametrize("density", [0.1, 0.03, 0.01])
@pytest.mark.parametrize("size", [65_536, 62_500])
def test_the_error_is_that_of_the_largest_of_normal_values(size: int, density: float) -> None:
    """|z|^2 k / (sum of |z sent|)^2 - 1, with the mean of what is above a quantile: 1.35 to 11."""
    vector = np.random.default_rng(3).laplace(size=size).astype(np.float32)
    threshold = norm.isf(density / 2)
    theory = density / (2 * norm.pdf(threshold)) ** 2 - 1
    found = [error(decoded(RotatedTopK(density), vector, site), vector) for site in range(4)]
    assert np.mean(found) == pytest.approx(theory, rel=0.02)


@pytest.mark.long
@pytest.mark.parametrize("size", [127, 200, 255, 256, 300])
@pytest.mark.parametrize("spikes", [{17: 5.0}, {17: 5.0, 40: 1.0}, {3: 5.0, 290: -2.0, 8: 1.0}])
def test_spikes_are_unbiased_too(size: int, spikes: dict[int, float]) -> None:
    """The worst case for one Hadamard transform: after it, few magnitudes are left to tell."""
    vector = np.zeros(size, np.float32)
    for at, value in spikes.items():
        vector[at % size] = value
    compressor = RotatedTopK(0.05)
    sites = 400
    got = [decoded(compressor, vector, site) for site in range(sites)]
    single = float(np.mean([error(one, vector) for one in got]))
    assert error(np.mean(got, axis=0, dtype=np.float64), vector) < 2 * single / sites


@pytest.mark.long
def test_every_layer_is_sent_even_of_a_tiny_model() -> None:
    """At 1 % of 600 values six would be sent, of seven layers: the seventh would be lost."""
    sections = (150,) * 7
    vector = np.repeat(np.float32([1e-3, 1, 1, 1, 1, 1, 1]), 150)
    vector *= np.random.default_rng(2).normal(size=1050).astype(np.float32)
    compressor = RotatedTopK(0.005, sections=sections)
    got = np.mean([decoded(compressor, vector, site) for site in range(500)], axis=0)
    first = np.corrcoef(got[:150], vector[:150])[0, 1]
    assert first > 0.9


def test_without_unbiased_a_residual_shrinks() -> None:
    compressor, left = RotatedTopK(0.03, unbiased=False, sections=SECTIONS), layers()
    before = float(np.linalg.norm(left))
    for step in range(100):
        left = left - decoded(compressor, left, step)
        after = float(np.linalg.norm(left))
        assert after < before
        before = after
    assert before < 0.1 * np.linalg.norm(layers())


def test_energy_goes_to_layers_as_it_should() -> None:
    """No other split of the same count has a smaller sum of size times energy over count."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        sizes = rng.integers(50, 5000, 6)
        energies = rng.lognormal(sigma=2, size=6)
        got = shares(energies, sizes, 400)

        def cost(split: np.ndarray) -> float:
            return float((sizes * energies / split).sum())  # noqa: B023

        for _ in range(50):
            other = got.copy()
            take, give = rng.choice(6, 2, replace=False)
            moved = int(rng.integers(1, 20))
            if other[take] > moved and other[give] + moved <= sizes[give]:
                other[take] -= moved
                other[give] += moved
                assert cost(got) <= cost(other) * 1.02


@settings(deadline=None, max_examples=200)
@given(
    parts=st.lists(
        st.tuples(st.integers(1, 60), st.sampled_from([0.0, 1e-30, 1.0, 1e6])), min_size=1
    ),
    share=st.floats(0, 1),
)
def test_shares_add_up_and_fit(parts: list[tuple[int, float]], share: float) -> None:
    sizes = np.array([size for size, _ in parts])
    energies = np.array([energy for _, energy in parts])
    count = int(share * sizes.sum())
    got = shares(energies, sizes, count)
    assert got.sum() == count and (got >= 0).all() and (got <= sizes).all()
    if count >= len(parts):
        assert (got[energies > 0] >= 1).all()


@pytest.mark.parametrize("size", [*range(1, 70), 4095, 4096, 4097, 6000])
def test_a_rotation_keeps_lengths_and_can_be_undone(size: int) -> None:
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    signs = _drawn(CONTEXT.random(shared=False), size)
    turned = rotate(values, signs)
    np.testing.assert_allclose(np.linalg.norm(turned), np.linalg.norm(values), rtol=1e-5)
    np.testing.assert_allclose(unrotate(turned, signs), values, atol=2e-6)


def test_a_rotation_is_orthonormal_from_its_definition() -> None:
    """Against the matrices themselves: Sylvester's construction, diagonal signs."""
    size, length = 11, 8
    turns = 4
    signs = _drawn(CONTEXT.random(shared=False), size)
    h = np.ones((1, 1))
    while len(h) < length:
        h = np.block([[h, h], [h, -h]])
    first, last = np.eye(size), np.eye(size)
    first[:length, :length] = h / np.sqrt(length)
    last[-length:, -length:] = h / np.sqrt(length)
    shuffle = np.eye(size)[[0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9]]
    matrix = np.eye(size)
    for turn in range(turns):
        if turn:
            matrix = shuffle @ matrix
        before, after = np.ones(size), np.ones(size)
        before[:length], after[-length:] = signs[2 * turn], signs[2 * turn + 1]
        matrix = last @ np.diag(after) @ first @ np.diag(before) @ matrix
    assert len(signs) == 2 * turns
    values = np.random.default_rng(0).normal(size=size).astype(np.float32)
    np.testing.assert_allclose(rotate(values, signs), matrix @ values, atol=1e-5)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-6)


def test_small_tensors_join_the_layer_before_them() -> None:
    assert chunks(SECTIONS, N) == (160, 4640, 2890)
    # A layer that is too short for many different rotations joins a neighbour.
    assert chunks((40, 1000, 50, 900, 60), 2050) == (1040, 1010)
    assert chunks((40,), 40) == (40,)
    assert max(chunks((), 10**6)) <= 2**16
    with pytest.raises(ValueError, match="must add up"):
        chunks((3, 4), 8)


@pytest.mark.parametrize(
    "sections",
    [
        (2**24 + 2,),
        (2**24 + 127,),
        (2**24 + 128,),
        (2**24 - 5, 2**20),
        (2**24 + 5, 2**20),
        (2**25 - 40, 2**19, 2**23 - 2**19 + 60),
    ],
)
def test_no_chunk_is_short_where_blocks_end(sections: tuple[int, ...]) -> None:
    """A chunk of 2 of which one is sent loses the smaller for good, whatever is drawn."""
    size = sum(sections)
    lengths = chunks(sections, size)
    assert sum(lengths) == size
    assert 128 <= min(lengths) and max(lengths) <= 2**16
    blocks = list(RotatedTopK(0.01, sections=sections)._plan(size).blocks(size))
    assert {block.start for block in blocks} <= {0, *np.cumsum(lengths).tolist()}
    assert all(block.start % 2**24 == 0 for block in blocks)
    assert all(128 <= block.size < 2**24 + 128 for block in blocks)
    assert sum(block.size for block in blocks) == size


@pytest.mark.parametrize("size", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("value", [0.0, -2.5, 1e-40])
def test_small_and_empty_vectors(size: int, value: float) -> None:
    vector = np.full(size, value, np.float32)
    got = decoded(RotatedTopK(0.5), vector, 3)
    assert got.shape == (size,) and got.dtype == np.float32
    if size == 1:
        np.testing.assert_allclose(got, vector, rtol=1e-6)
    if not value:
        assert not got.any()


def test_too_large_an_update_is_refused_in_words() -> None:
    huge = np.full(64, np.finfo(np.float32).max, np.float32)
    with pytest.raises(ValueError, match="must be finite when rotated"):
        RotatedTopK(0.5).compress(huge)


def test_two_machines_decode_the_same_bits() -> None:
    """A broadcast is checked by its digest, so decoding may not depend on the machine."""
    turned = np.zeros(5000, np.float32)
    turned[::20] = np.where(np.arange(250) % 3, 0.75, -0.75)
    compressor = RotatedTopK(0.05, sections=(3000, 2000))
    body = TopK(0.05, "sign-per-chunk", chunks((3000, 2000), 5000)).compress(turned)
    got = compressor.decompress(body, 5000, CONTEXT).dense()
    np.testing.assert_allclose(np.linalg.norm(got), np.linalg.norm(turned), rtol=1e-5)
    assert hashlib.sha256(got.astype("<f4").tobytes()).hexdigest()[:16] == "3e07d7e3e9c94cd3"


def test_another_sender_or_round_decodes_to_something_else() -> None:
    """Which is why the frame's binding is checked before the body is looked at."""
    vector = layers()
    compressor = RotatedTopK(0.1, sections=SECTIONS)
    body = compressor.compress(vector, Context(b"a", 1))
    right = compressor.decompress(body, N, Context(b"a", 1)).dense()
    for wrong in (Context(b"a", 2), Context(b"b", 1)):
        other = compressor.decompress(body, N, wrong).dense()
        assert abs(np.corrcoef(right, other)[0, 1]) < 0.1
