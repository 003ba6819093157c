"""Masks: keys that two members share, streams modulo 2^b from ChaCha20, and b bits a value.

A pair's key is HKDF-SHA256 (RFC 5869) of their X25519 secret (RFC 7748), bound to the group and to
who the two are. All else is derived from it for one purpose in one round of one model, so that what
is told of one round says nothing of another.
"""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fedlite.secure.rules import Refused

Words = NDArray[np.uint32]
End = tuple[int, bytes]
"""One end of a pair: a member's number, and its X25519 public key."""
SEED_BYTES = 32
MOST_BITS = 32


def pair_key(private: bytes, own: End, other: End, group: bytes) -> bytes:
    """Return the key that two members share, 32 bytes; both compute the same.

    private: one's X25519 private key; own, other: number and public key of either, as their cards
    have them; group: its digest. Raises Refused "members" for a public key of small order, which
    would make the secret known to all.
    """
    secret = _exchange(private, other[1])
    # The X25519 secret does not say with whom: a member may sign a card with another's key, or with
    # one that RFC 7748 takes for the same (the top bit, points of small order added), without
    # knowing its private part. So both ends are named here, as RFC 7748, section 6.1, asks for.
    info = b"fedlite secure sum, pair"
    for number, public in sorted([own, other]):
        info += number.to_bytes(2, "little") + public
    return HKDF(SHA256(), 32, salt=group, info=info).derive(secret)


def check_public(public: bytes) -> None:
    """Raise Refused "members" for an X25519 public key of small order, with which none is secret.

    With any private key its secret is zero, so one fixed key finds it.
    """
    _exchange(bytes(32), public)


def _exchange(private: bytes, public: bytes) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:
        raise Refused("members", "an agreement key is no point of large order") from None


def public_of(private: bytes) -> bytes:
    """Return the X25519 public key, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def derive(key: bytes, purpose: str, context: bytes, number: int = 0) -> bytes:
    """Return 32 bytes for one purpose in one context: the expansion of HKDF, one block.

    number: of the member whose round it is, where that matters.
    """
    info = purpose.encode() + b"\0" + number.to_bytes(2, "little") + context
    return hmac.digest(key, info + b"\1", "sha256")


def own_seed(secret: bytes, context: bytes) -> bytes:
    """Return the seed of a member's own mask from its shared secret of 16 bytes."""
    return hashlib.sha256(b"fedlite secure sum, own\0" + secret + context).digest()


def stream(seed: bytes, count: int, bits: int) -> Words:
    """Return `count` uniform numbers modulo 2^bits, uint32, by ChaCha20 (RFC 8439) under `seed`.

    A seed is for one stream only, so the nonce is zero.
    """
    dtype = "<u2" if bits <= 16 else "<u4"
    cipher = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()
    raw = np.frombuffer(cipher.update(bytes(count * np.dtype(dtype).itemsize)), dtype)
    return raw.astype(np.uint32) & np.uint32(2**bits - 1)


def pack(values: Words, bits: int) -> bytes:
    """Return numbers below 2^bits one after the other, `bits` bits each, low bit first.

    >>> pack(np.array([1, 2, 3], np.uint32), 3).hex()
    'd100'
    """
    flags = (values[:, None] >> np.arange(bits, dtype=np.uint32)) & np.uint32(1)
    return np.packbits(flags.astype(np.uint8).ravel(), bitorder="little").tobytes()


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes `count` packed numbers take."""
    return -(-count * bits // 8)


def unpack(data: bytes, count: int, bits: int) -> Words:
    """Return what `pack` wrote; raises Refused "form" for another length, or padding that is not 0.

    >>> unpack(bytes.fromhex("d100"), 3, 3).tolist()
    [1, 2, 3]
    """
    if len(data) != packed_bytes(count, bits):
        raise Refused("form", f"{count} values take {packed_bytes(count, bits)} bytes")
    flags = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if flags[count * bits :].any():
        raise Refused("form", "bits behind the last value must be 0")
    weights = np.uint32(1) << np.arange(bits, dtype=np.uint32)
    found: Words = (flags[: count * bits].reshape(count, bits) * weights).sum(1, dtype=np.uint32)
    return found
