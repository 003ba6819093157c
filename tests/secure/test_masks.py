"""Streams and packing against the cipher and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from fedlite.secure import masks
from fedlite.secure.group import new_agreement
from fedlite.secure.rules import Refused


@pytest.mark.parametrize("bits", [1, 5, 8, 16, 17, 32])
def test_a_stream_is_the_cipher_cut_to_bits(bits: int) -> None:
    seed, width = bytes(range(32)), 2 if bits <= 16 else 4
    raw = Cipher(algorithms.ChaCha20(seed, bytes(16)), None).encryptor().update(bytes(50 * width))
    words = [int.from_bytes(raw[at : at + width], "little") for at in range(0, 50 * width, width)]
    assert masks.stream(seed, 50, bits).tolist() == [word % 2**bits for word in words]


@pytest.mark.parametrize("bits", [1, 3, 7, 8, 13, 32])
@pytest.mark.parametrize("count", [0, 1, 2, 15, 64])
def test_packing_is_a_number_in_little_bits(bits: int, count: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, count).astype(np.uint32)
    packed = masks.pack(values, bits)
    whole = sum(int(value) << (at * bits) for at, value in enumerate(values))
    assert packed == whole.to_bytes(masks.packed_bytes(count, bits), "little")
    assert masks.unpack(packed, count, bits).tolist() == values.tolist()
    with pytest.raises(Refused, match=r"^form: "):
        masks.unpack(packed + b"\0", count, bits)


def test_padding_must_be_zero() -> None:
    with pytest.raises(Refused, match=r"^form: bits behind"):
        masks.unpack(b"\xff", 1, 7)


def test_both_ends_share_a_key_of_their_group_alone() -> None:
    one, two = new_agreement(), new_agreement()
    there = masks.pair_key(one, masks.public_of(two), b"group")
    assert there == masks.pair_key(two, masks.public_of(one), b"group")
    assert there != masks.pair_key(two, masks.public_of(one), b"other")


def test_a_key_of_small_order_is_refused() -> None:
    with pytest.raises(Refused, match=r"^members: "):
        masks.pair_key(new_agreement(), bytes(32), b"group")


def test_seeds_differ_by_purpose_context_and_member() -> None:
    seeds = {
        masks.derive(bytes(32), purpose, context, number)
        for purpose in ("mask", "share", "pad")
        for context in (b"1", b"2")
        for number in (0, 1)
    }
    assert len(seeds) == 12
