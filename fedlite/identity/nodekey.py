"""A site's node key, by which the coordinator knows it: ECDSA on P-384, as Flower wants it.

The private half is a PEM file (PKCS8, mode 0600), the public half one line in OpenSSH format:
`flwr supernode register` takes such a line.
"""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_public_key,
)

from fedlite.identity import keys
from fedlite.identity.keys import KeyFileError

NodeKey = ec.EllipticCurvePrivateKey
_ECDSA = ec.ECDSA(SHA384())


def load(path: Path) -> NodeKey:
    """Read the private key at `path`.

    Raises KeyFileError: "key-permissions" where others may read it, "key-unreadable" where it is
    no PEM file, "key-kind" where it is no P-384 key.
    """
    data = keys.read_private(path)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            "key-unreadable",
            f"{path}: must be an unencrypted PKCS8 PEM private key ({error}); restore it from a "
            "copy, or enrol the site anew under another name",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise KeyFileError(
            "key-kind",
            f"{path}: must hold an ECDSA key on P-384, got {type(key).__name__}; name the file "
            "that `fedlite site init` wrote",
        )
    return key


def load_or_generate(path: Path) -> NodeKey:
    """Read the key at `path`, or create it, complete or not at all, where there is none."""
    # lexists: a dangling link is a lost key, not a reason to make a new one.
    if not os.path.lexists(path):
        key = ec.generate_private_key(ec.SECP384R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        keys.create_private(path, pem)
    return load(path)


def public(key: NodeKey) -> str:
    """Return the public half in OpenSSH format, without a comment."""
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return line.decode("ascii")


def check(field: str, line: str) -> None:
    """Raise ValueError unless `line` is the one OpenSSH form of a public P-384 key."""
    _public(field, line)


def fingerprint(line: str) -> str:
    """Return what `ssh-keygen -l` shows for a public key: "SHA256:" and 43 characters."""
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def sign(key: NodeKey, data: bytes) -> str:
    """Return the ECDSA signature (SHA-384, DER) of `data` in hex."""
    return key.sign(data, _ECDSA).hex()


def verify(line: str, signature: str, data: bytes) -> bool:
    """Tell whether `signature` (hex) of `data` is by the holder of the key; never raises."""
    try:
        _public("node_key", line).verify(bytes.fromhex(signature), data, _ECDSA)
    except (InvalidSignature, ValueError):
        return False
    return True


def _public(field: str, line: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_ssh_public_key(line.encode("ascii"))
        written = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{field}: must be a public key in OpenSSH format ({error})") from None
    if (
        not isinstance(key, ec.EllipticCurvePublicKey)
        or key.curve.name != "secp384r1"
        or written != line
    ):
        raise ValueError(
            f"{field}: must be one ECDSA P-384 key without a comment, got {line[:60]!r}; "
            "`fedlite site join` writes it"
        )
    return key
