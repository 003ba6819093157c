"""A part of a vector that travels alone: as it would by itself, and the rest is left as it is."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from fedlite.compression import Compressor, Context, Part, Residual, compress, feedback, make
from fedlite.privacy import client

SIZE = 500
MOVING = np.flatnonzero(np.random.default_rng(1).random(SIZE) < 0.4)
STANDING = np.setdiff1d(np.arange(SIZE), MOVING)
CONTEXT = Context(b"seed of a round", 3)
VECTOR = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
INNER = {
    name: make(name, density=None if name == "dense" else 0.1)
    for name in ("dense", "topk", "randk", "rotated-topk")
}


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_it_arrives_as_it_would_alone_and_nothing_arrives_beside_it(inner: Compressor) -> None:
    part = Part(SIZE, MOVING, inner)
    body = part.compress(VECTOR, CONTEXT)
    alone = inner.compress(VECTOR[MOVING], CONTEXT)
    assert body == bytes([inner.codec]) + alone
    assert len(body) <= part.limit(SIZE) == 1 + inner.limit(MOVING.size)
    found = part.decompress(body, SIZE, CONTEXT)
    assert found.indices is not None and (np.diff(found.indices) > 0).all()
    wanted = inner.decompress(alone, MOVING.size, CONTEXT).dense()
    np.testing.assert_array_equal(found.dense()[MOVING], wanted)
    assert not found.dense()[STANDING].any()


@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_the_residual_of_the_rest_stays_to_the_bit_even_where_an_update_is_cut(
    bound: float,
) -> None:
    inner = INNER["topk"]
    residual = Residual(np.linspace(-1, 1, SIZE).astype(np.float32))
    cut = partial(client.clip, bound=bound) if bound else None
    sent = compress(Part(SIZE, MOVING, inner), VECTOR, residual, context=CONTEXT, cut=cut)
    alone = feedback.compress(
        inner, VECTOR[MOVING], Residual(residual.value[MOVING]), context=CONTEXT, cut=cut
    )
    for whole, mine in ((sent.unsent, alone.unsent), (sent.residual, alone.residual)):
        np.testing.assert_array_equal(whole.value[MOVING], mine.value)
        np.testing.assert_array_equal(whole.value[STANDING], residual.value[STANDING])
    np.testing.assert_array_equal(sent.update.dense()[MOVING], alone.update.dense())


@pytest.mark.parametrize("body", [b"", b"\x06\x00\x00", b"\x00" * 7, b"\x00" * (2 + 4 * SIZE)])
def test_what_no_part_is_written_as_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="body"):
        Part(SIZE, MOVING, INNER["dense"]).decompress(body, SIZE)


def test_another_size_and_a_reference_are_refused() -> None:
    part = Part(SIZE, MOVING, INNER["dense"])
    with pytest.raises(ValueError, match="must have 500 values, got 499"):
        part.compress(VECTOR[:-1])
    with pytest.raises(ValueError, match="reference: must be none"):
        compress(part, VECTOR, reference=VECTOR)
