"""A Mersenne Twister's state from what a release gives away: it was done, and is done again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedlite.attacks import twister
from fedlite.privacy.grid import SPREAD
from fedlite.privacy.noise import Stream
from tests.attacks.ground import FloatNoise


@pytest.mark.parametrize("sizes", [(640, 20_000), (50, 37, 100), (16,)])
def test_the_normals_are_torchs(sizes: tuple[int, ...]) -> None:
    old = FloatNoise()
    drawn = [torch.normal(0.0, 1.0, (n,), generator=old.generator).numpy() for n in sizes]
    found = twister.normals(old.state, sizes)
    np.testing.assert_allclose(found, np.concatenate(drawn), atol=1e-5)


def test_certain_bits_are_right_and_fewer_where_less_is_known() -> None:
    old, rng = FloatNoise(), np.random.default_rng(0)
    sizes = (640, 5000)
    noise = twister.normals(old.state, sizes)
    raw = np.random.MT19937()
    raw.state = {"bit_generator": "MT19937", "state": {"key": old.state, "pos": 624}}
    outputs = raw.random_raw(5700).astype(np.int64)
    counts = []
    for doubt in (0.01, 0.1, 0.5):
        seen = noise + rng.uniform(-doubt, doubt, noise.size)
        certain = twister.certain_bits(seen, np.full(noise.size, doubt), sizes)
        truth = (outputs[certain.output] >> certain.bit) & 1
        np.testing.assert_array_equal(truth, certain.value)
        counts.append(len(truth))
    assert counts[0] > counts[1] > counts[2] > 0


@pytest.mark.long
def test_a_state_that_is_mostly_known_is_solved_and_another_noise_contradicts_it() -> None:
    old, sizes = FloatNoise(), (8000,)
    known = old.state[64:]
    certain = twister.certain_bits(twister.normals(old.state, sizes), np.full(8000, 0.02), sizes)
    solved = twister.solve(*twister.equations(certain, known), 64 * 32)
    assert solved.state is not None and solved.spare > 1000
    whole = np.concatenate([solved.state, known])
    np.testing.assert_allclose(
        twister.normals(whole, sizes), twister.normals(old.state, sizes), atol=1e-9
    )
    cipher = Stream.fresh().gaussians(8000) / SPREAD
    certain = twister.certain_bits(cipher, np.full(8000, 0.02), sizes)
    assert len(certain.value) > 3000
    assert twister.solve(*twister.equations(certain, known), 64 * 32).state is None


@pytest.mark.long
def test_a_dense_float_release_gives_its_whole_state_and_the_clean_sum_away() -> None:
    """The quickstart's model, one update of one step, a fresh generator, rough bounds only."""
    old, rng, sizes = FloatNoise(), np.random.default_rng(2), (640, 20_000)
    clean = np.concatenate([0.1 * rng.standard_normal(640), 0.015 * rng.standard_normal(20_000)])
    released = np.concatenate([old.release(part, 1.0) for part in np.split(clean, [640])])
    doubt = np.repeat([np.abs(clean[:640]).max(), np.abs(clean[640:]).max()], sizes)
    certain = twister.certain_bits(released, doubt, sizes)
    assert len(certain.value) > 39_000
    kept = np.sort(rng.permutation(len(certain.value))[: twister.UNKNOWNS + 200])
    certain = twister.Certain(certain.output[kept], certain.bit[kept], certain.value[kept])
    solved = twister.solve(*twister.equations(certain))
    assert solved.state is not None and solved.rank == twister.UNKNOWNS - 31
    found = released - twister.normals(solved.state, sizes)
    np.testing.assert_allclose(found, clean, atol=1e-5)


def test_a_small_system_is_solved_as_by_hand() -> None:
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 2, 96).astype(np.uint8)
    dense = rng.integers(0, 2, (140, 96)).astype(np.uint8)
    right = (dense @ truth % 2).astype(np.uint8)
    padded = np.concatenate([dense, np.zeros((140, 32), np.uint8)], axis=1)
    packed = np.packbits(padded, axis=1, bitorder="little").view("<u8").copy()
    solved = twister.solve(packed.copy(), right, 96)
    assert solved.state is not None
    bits = ((solved.state[:, None] >> np.arange(32, dtype=np.uint32)) & 1).ravel()
    np.testing.assert_array_equal(bits, truth)
    wrong = right.copy()
    wrong[130] ^= 1
    assert twister.solve(packed, wrong, 96).state is None
