"""Streams and packing against the cipher and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from fedlite.secure import masks
from fedlite.secure.group import new_agreement
from fedlite.secure.rules import Refused

_FIELD = 2**255 - 19
# All u of order 1, 2, 4 and 8 on the curve and its twist, and as RFC 7748 reads them again.
SMALL_ORDER = [
    number.to_bytes(32, "little")
    for number in (
        0,
        1,
        _FIELD - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _FIELD,
        _FIELD + 1,
    )
]


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
    ends = (0, masks.public_of(one)), (3, masks.public_of(two))
    there = masks.pair_key(one, *ends, b"group")
    assert there == masks.pair_key(two, *ends[::-1], b"group")
    assert there != masks.pair_key(two, *ends[::-1], b"other")


def same_keys(public: bytes) -> dict[str, bytes]:
    """Return keys of which X25519 makes the same secret, without the private part of any."""
    flipped = public[:31] + bytes([public[31] ^ 0x80])
    # The point of order 2 added: u becomes 1 / u, and every private key is a multiple of 8.
    inverse = pow(int.from_bytes(public, "little"), -1, 2**255 - 19).to_bytes(32, "little")
    return {"copied": public, "flipped": flipped, "inverse": inverse}


@pytest.mark.parametrize("how", ["copied", "flipped", "inverse"])
def test_a_key_made_of_anothers_shares_no_pair_with_anybody(how: str) -> None:
    victim, friend = new_agreement(), new_agreement()
    public, mine = masks.public_of(victim), (1, masks.public_of(friend))
    stolen = same_keys(public)[how]
    raw = [
        X25519PrivateKey.from_private_bytes(friend).exchange(X25519PublicKey.from_public_bytes(one))
        for one in (public, stolen)
    ]
    assert raw[0] == raw[1], "the attack is one"
    real = masks.pair_key(friend, mine, (0, public), b"group")
    assert masks.pair_key(friend, mine, (2, stolen), b"group") != real


def test_a_key_of_small_order_is_refused() -> None:
    for small in SMALL_ORDER:
        with pytest.raises(Refused, match=r"^members: an agreement key is no point"):
            masks.pair_key(new_agreement(), (0, bytes(32)), (1, small), b"group")
        with pytest.raises(Refused, match=r"^members: an agreement key is no point"):
            masks.check_public(small)
    masks.check_public(masks.public_of(new_agreement()))


def test_seeds_differ_by_purpose_context_and_member() -> None:
    seeds = {
        masks.derive(bytes(32), purpose, context, number)
        for purpose in ("mask", "share", "pad")
        for context in (b"1", b"2")
        for number in (0, 1)
    }
    assert len(seeds) == 12
