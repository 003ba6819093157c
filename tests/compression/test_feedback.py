"""Error feedback: nothing that a site wanted to say is ever lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlite.compression import Compressor, Dense, TopK
from fedlite.compression.feedback import Residual, compress


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 50),
    rounds=st.integers(1, 12),
    density=st.sampled_from([0.01, 0.1, 0.5, 1.0]),
    values=st.sampled_from(["sign", "fp32"]),
    seed=st.integers(0, 2**31),
)
def test_what_was_decoded_and_the_residual_sum_to_the_deltas(
    n: int, rounds: int, density: float, values: str, seed: int
) -> None:
    deltas = np.random.default_rng(seed).laplace(size=(rounds, n)).astype(np.float32)
    received = np.zeros(n)
    residual = None
    for delta in deltas:
        _, decoded, residual = compress(TopK(density, values), delta, residual)
        decoded.add_to(received, 1.0)
    assert residual is not None
    np.testing.assert_allclose(received + residual.value, deltas.sum(axis=0), atol=1e-4)


@pytest.mark.parametrize("compressor", [Dense(), TopK(1.0, "fp32")], ids=repr)
def test_a_lossless_compressor_leaves_no_residual(compressor: Compressor) -> None:
    rng = np.random.default_rng(0)
    residual = Residual(rng.normal(size=30).astype(np.float32))
    delta = rng.normal(size=30).astype(np.float32)
    _, decoded, after = compress(compressor, delta, residual)
    np.testing.assert_array_equal(after.value, np.zeros(30))
    np.testing.assert_array_equal(decoded.dense(), delta + residual.value)


def test_a_small_coordinate_is_sent_once_it_has_grown() -> None:
    delta = np.array([1.0, 0.4], dtype=np.float32)
    sent = []
    residual = None
    for _ in range(4):
        _, decoded, residual = compress(TopK(0.5, "fp32"), delta, residual)
        assert decoded.indices is not None
        sent.append(int(decoded.indices[0]))
    # The waiting coordinate grows by 0.4 a round: 0.4, 0.8, 1.2, and then it wins.
    assert sent == [0, 0, 1, 0]


def test_the_body_decodes_to_what_was_fed_back() -> None:
    compressor = TopK(0.1, "sign")
    delta = np.random.default_rng(3).normal(size=200).astype(np.float32)
    body, decoded, residual = compress(compressor, delta, None)
    received = compressor.decompress(body, 200).dense()
    np.testing.assert_array_equal(received, decoded.dense())
    np.testing.assert_array_equal(residual.value, delta - received)


def test_the_arguments_are_left_as_they_were() -> None:
    delta = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    residual = Residual(np.array([0.5, 0.5, 0.5], dtype=np.float32))
    compress(TopK(0.5), delta, residual)
    compress(TopK(0.5), delta, None)
    np.testing.assert_array_equal(delta, [1, 2, 3])
    np.testing.assert_array_equal(residual.value, [0.5, 0.5, 0.5])


def test_another_shape_is_refused() -> None:
    residual = Residual(np.zeros(4, dtype=np.float32))
    with pytest.raises(ValueError, match="shape of the delta"):
        compress(TopK(0.5), np.zeros(3, dtype=np.float32), residual)
    with pytest.raises(ValueError, match="residual must be float32"):
        Residual(np.zeros(4))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_delta_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        compress(TopK(0.5), np.array([1.0, bad], dtype=np.float32), None)


def test_a_sum_that_overflows_is_refused() -> None:
    large = np.full(3, np.finfo(np.float32).max, dtype=np.float32)
    with pytest.raises(ValueError, match="must be finite"):
        compress(TopK(0.5), large, Residual(large))
