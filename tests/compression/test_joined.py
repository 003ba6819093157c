"""Several vectors in one body: each as it would travel alone, and nothing hostile passes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fedlite.compression import Context, Decoded, Joined, Residual, compress, feedback, make, split
from fedlite.privacy import client

SIZES = (300, 200, 40)
TOPK = make("topk", density=0.1, values="sign")
PARTS = (TOPK, make("rotated-topk", density=0.1), make("dense"))
JOINED = Joined(tuple(zip(SIZES, PARTS, strict=True)))
CONTEXT = Context(b"seed of a round", 3)
VECTOR = np.random.default_rng(0).normal(size=sum(SIZES)).astype(np.float32)


def test_each_stretch_arrives_as_it_would_alone_and_with_randomness_of_its_own() -> None:
    body = JOINED.compress(VECTOR, CONTEXT)
    found = split(JOINED.decompress(body, sum(SIZES), CONTEXT), SIZES)
    pieces = np.split(VECTOR, np.cumsum(SIZES)[:-1])
    for number, (piece, compressor) in enumerate(zip(pieces, PARTS, strict=True)):
        context = replace(CONTEXT, seed=CONTEXT.seed + bytes([number]) * bool(number))
        alone = compressor.decompress(compressor.compress(piece, context), piece.size, context)
        np.testing.assert_array_equal(found[number].dense(), alone.dense())
    assert len(body) <= JOINED.limit(sum(SIZES))
    assert JOINED.limit(sum(SIZES)) == 15 + sum(
        one.limit(size) for size, one in zip(SIZES, PARTS, strict=True)
    )


def test_sparse_stretches_stay_sparse() -> None:
    both = Joined(((300, TOPK), (240, TOPK)))
    found = both.decompress(both.compress(VECTOR, CONTEXT), 540, CONTEXT)
    assert found.indices is not None and len(found.indices) == 30 + 24
    assert (np.diff(found.indices) > 0).all() and found.indices[-1] < 540
    for part, size in zip(split(found, (300, 240)), (300, 240), strict=True):
        assert part.size == size and part.indices is not None and part.indices.max() < size
    np.testing.assert_array_equal(
        np.concatenate([part.dense() for part in split(found, (300, 240))]), found.dense()
    )


def test_two_equal_vectors_do_not_err_alike() -> None:
    """With one rotation for both, the errors of a model and of what corrects it would add up."""
    rotated = make("rotated-topk", density=0.05)
    half = VECTOR[:200]
    both = Joined(((200, rotated), (200, rotated)))
    body = both.compress(np.concatenate([half, half]), CONTEXT)
    first, second = split(both.decompress(body, 400, CONTEXT), (200, 200))
    assert not np.array_equal(first.dense(), second.dense())


def test_only_the_first_stretch_has_a_residual_and_a_bound() -> None:
    both = Joined(((300, TOPK), (240, TOPK)))
    residual = Residual(np.linspace(-1, 1, 540).astype(np.float32))
    cut = partial(client.clip, bound=1.0)
    sent = compress(both, VECTOR, residual, context=CONTEXT, cut=cut)
    alone = feedback.compress(
        TOPK, VECTOR[:300], Residual(residual.value[:300]), context=CONTEXT, cut=cut
    )
    for whole, part in ((sent.unsent, alone.unsent), (sent.residual, alone.residual)):
        np.testing.assert_array_equal(whole.value[:300], part.value)
        assert not whole.value[300:].any()
    arrived = split(both.decompress(sent.body, 540, CONTEXT), (300, 240))
    np.testing.assert_allclose(arrived[0].dense(), alone.update.dense(), rtol=1e-6)
    assert np.linalg.norm(arrived[0].values) <= 1.0001 < np.linalg.norm(arrived[1].values)
    np.testing.assert_array_equal(
        arrived[1].dense(), TOPK.decompress(TOPK.compress(VECTOR[300:]), 240).dense()
    )


def test_one_vector_alone_travels_as_ever() -> None:
    sent, ever = compress(TOPK, VECTOR), feedback.compress(TOPK, VECTOR)
    assert sent.body == ever.body and isinstance(sent.update, Decoded)


BODY = JOINED.compress(VECTOR, CONTEXT)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "stretch 0 is missing"),
        (BODY[:4], "stretch 0 is missing"),
        (BODY[:-1], "stretch 2 must have at most 160 of the 159 bytes"),
        (BODY + b"\0", "1 bytes too many"),
        (bytes([9]) + BODY[1:], "stretch 0 must have codec 1, got 9"),
        (BODY[:1] + b"\xff\xff\xff\xff" + BODY[5:], "stretch 0 must have at most"),
        (BODY[:1] + bytes(4) + BODY[5:], "must|needs|takes|body"),
    ],
)
def test_a_body_that_is_no_such_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        JOINED.decompress(body, sum(SIZES), CONTEXT)


@pytest.mark.long
def test_no_damage_passes_as_more_than_a_finite_update() -> None:
    rng = np.random.default_rng(1)
    for _ in range(2000):
        broken = bytearray(BODY)
        for at in rng.integers(0, len(BODY), rng.integers(1, 4)):
            broken[at] = rng.integers(256)
        cut = bytes(broken[: rng.integers(len(BODY) - 3, len(BODY) + 1)])
        try:
            found = JOINED.decompress(cut, sum(SIZES), CONTEXT)
        except ValueError:
            continue
        assert found.size == sum(SIZES) and np.isfinite(found.values).all()


def test_another_size_is_refused() -> None:
    for call in (
        lambda: JOINED.compress(VECTOR[1:]),
        lambda: JOINED.decompress(BODY, 539),
        lambda: JOINED.limit(539),
    ):
        with pytest.raises(ValueError, match="vector must have 540 values in all, got 539"):
            call()
