"""Error feedback: nothing that a site wanted to say is ever lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedlite.compression import Compressor, Dense, TopK
from fedlite.compression.eden import Eden
from fedlite.compression.feedback import Residual, compress, restore


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
        sent = compress(TopK(density, values), delta, residual)
        residual = sent.residual
        sent.update.add_to(received, 1.0)
    assert residual is not None
    np.testing.assert_allclose(received + residual.value, deltas.sum(axis=0), atol=1e-4)


@pytest.mark.parametrize("compressor", [Dense(), TopK(1.0, "fp32")], ids=repr)
def test_a_lossless_compressor_leaves_no_residual(compressor: Compressor) -> None:
    rng = np.random.default_rng(0)
    residual = Residual(rng.normal(size=30).astype(np.float32))
    delta = rng.normal(size=30).astype(np.float32)
    sent = compress(compressor, delta, residual)
    np.testing.assert_array_equal(sent.residual.value, np.zeros(30))
    np.testing.assert_array_equal(sent.update.dense(), delta + residual.value)


def test_a_small_coordinate_is_sent_once_it_has_grown() -> None:
    delta = np.array([1.0, 0.4], dtype=np.float32)
    sent = []
    residual = None
    for _ in range(4):
        out = compress(TopK(0.5, "fp32"), delta, residual)
        residual = out.residual
        assert out.update.indices is not None
        sent.append(int(out.update.indices[0]))
    # The waiting coordinate grows by 0.4 a round: 0.4, 0.8, 1.2, and then it wins.
    assert sent == [0, 0, 1, 0]


def test_the_body_decodes_to_what_was_fed_back() -> None:
    compressor = TopK(0.1, "sign")
    delta = np.random.default_rng(3).normal(size=200).astype(np.float32)
    sent = compress(compressor, delta)
    received = compressor.decompress(sent.body, 200).dense()
    np.testing.assert_array_equal(received, sent.update.dense())
    np.testing.assert_array_equal(sent.residual.value, delta - received)
    np.testing.assert_array_equal(sent.unsent.value, delta)


def test_the_arguments_are_left_as_they_were() -> None:
    delta = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    residual = Residual(np.array([0.5, 0.5, 0.5], dtype=np.float32))
    compress(TopK(0.5), delta, residual)
    compress(TopK(0.5), delta, None)
    np.testing.assert_array_equal(delta, [1, 2, 3])
    np.testing.assert_array_equal(residual.value, [0.5, 0.5, 0.5])


@pytest.mark.parametrize("error", [False, True])
def test_a_reference_is_subtracted_and_comes_back(error: bool) -> None:
    """Whatever is subtracted: update plus what is left is what the site wanted to say."""
    rng = np.random.default_rng(4)
    delta, reference = rng.normal(size=(2, 300)).astype(np.float32)
    residual = Residual(rng.normal(size=300).astype(np.float32)) if error else None
    wanted = delta + (residual.value if residual else 0)
    sent = compress(TopK(0.1), delta, residual, reference=reference)
    received = restore(TopK(0.1).decompress(sent.body, 300), reference)
    np.testing.assert_array_equal(received.dense(), sent.update.dense())
    np.testing.assert_allclose(received.dense() + sent.residual.value, wanted, atol=1e-6)
    np.testing.assert_allclose(sent.unsent.value, wanted, atol=1e-7)


def within(values: np.ndarray) -> np.ndarray:
    """What a receiver with the bound 3 makes of an update, from the definition."""
    norm = float(np.linalg.norm(values.astype(np.float64)))
    return values if norm <= 3.0 else (values * (3.0 / norm)).astype(np.float32)


@pytest.mark.parametrize(
    "compressor",
    [TopK(0.1), TopK(0.1, "fp32"), TopK(0.1, "sign-per-tensor", (100, 200)), Eden(1, False)],
    ids=repr,
)
def test_a_receivers_bound_finds_nothing_to_cut(compressor: Compressor) -> None:
    """The message is as long as the bound, and the residual stays in proportion to it."""
    rng = np.random.default_rng(6)
    residual = Residual(np.zeros(300, np.float32))
    for _ in range(60):
        delta = rng.normal(size=300).astype(np.float32)
        wanted = (delta + residual.value).astype(np.float64)
        sent = compress(compressor, delta, residual, cut=within)
        values = compressor.decompress(sent.body, 300).dense()
        np.testing.assert_allclose(within(values), values, rtol=1e-5)
        assert np.linalg.norm(values) == pytest.approx(3.0, rel=1e-5)
        plain = np.linalg.norm(
            compressor.decompress(compressor.compress(wanted.astype("f4")), 300).values
        )
        together = values + sent.residual.value
        np.testing.assert_allclose(together, wanted * (3.0 / plain), atol=1e-5)
        np.testing.assert_array_equal(sent.unsent.value, wanted.astype(np.float32))
        residual = sent.residual
    assert np.linalg.norm(residual.value) < 10


def test_a_bound_that_is_not_reached_changes_nothing() -> None:
    delta = np.random.default_rng(7).normal(size=300).astype(np.float32) / np.float32(20)
    plain, bounded = compress(TopK(0.1), delta), compress(TopK(0.1), delta, cut=within)
    assert plain.body == bounded.body
    np.testing.assert_array_equal(plain.residual.value, bounded.residual.value)


def test_a_reference_beyond_the_bound_is_not_taken_off_the_residual() -> None:
    """Shortening what is said does not shorten what the receiver adds to it."""
    rng = np.random.default_rng(8)
    delta, reference = rng.normal(size=(2, 300)).astype(np.float32)
    sent = compress(TopK(0.1), delta, reference=reference, cut=within)
    received = within(restore(TopK(0.1).decompress(sent.body, 300), reference).dense())
    np.testing.assert_array_equal(received, sent.update.dense())
    together = received + sent.residual.value
    factor = float(together @ delta / (delta @ delta))
    assert 0 < factor < 1
    np.testing.assert_allclose(together, factor * delta, atol=1e-5)


def test_a_good_reference_leaves_less_to_say() -> None:
    rng = np.random.default_rng(5)
    common = rng.normal(size=1000).astype(np.float32)
    delta = common + np.float32(0.3) * rng.normal(size=1000).astype(np.float32)
    plain = compress(TopK(0.05), delta).residual.value
    helped = compress(TopK(0.05), delta, reference=common).residual.value
    assert np.linalg.norm(helped) < 0.5 * np.linalg.norm(plain)


def test_a_reference_that_overflows_the_update_is_refused() -> None:
    large = np.full(3, np.finfo(np.float32).max, dtype=np.float32)
    with pytest.raises(ValueError, match="must be finite"):
        restore(Dense().decompress(large.tobytes(), 3), large)
    with pytest.raises(ValueError, match="reference must have 3 values"):
        restore(Dense().decompress(large.tobytes(), 3), large[:2])


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
