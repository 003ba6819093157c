"""A site's Ed25519 key and its secret, as files that only their owner can read.

Signatures and public keys travel as lower-case hex: 64 digits a public key, 128 a signature
(Bernstein, Duif, Lange, Schwabe, Yang 2012; RFC 8032).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

KEY_RULES = {
    "key-exists": "A key file is never replaced.",
    "key-permissions": "A key file can be read by its owner alone.",
    "key-unreadable": "A key file can be read and holds an unencrypted private key.",
    "key-kind": "A ledger is signed with an Ed25519 key.",
}

Key = Ed25519PrivateKey
SECRET_BYTES = 32
# The curve's field, and the y of its points of order 8 (with -y); 0, 1 and -1 are of order 4, 1, 2.
_FIELD = 2**255 - 19
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL = {0, 1, _FIELD - 1, _ORDER_8, _FIELD - _ORDER_8}
# An Ed25519 key in PEM has about 120 bytes; more is another kind of file.
_MAX_BYTES = 16384


class KeyFileError(ValueError):
    """A key file cannot be used.

    rule: one of `KEY_RULES`. text: the file, what was found, and the mend.
    """

    def __init__(self, rule: str, text: str) -> None:
        """Keep the parts."""
        super().__init__(rule, text)
        self.rule, self.text = rule, text

    def __str__(self) -> str:
        """Return one line: rule, text."""
        return f"{self.rule}: {self.text}"


def generate(path: str | Path) -> Key:
    """Create a new private key at `path`: PKCS8 PEM, not encrypted, mode 0600, durable.

    The file appears complete or not at all, and never replaces another.
    Raises KeyFileError "key-exists" where `path` exists, OSError where it cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    create_private(Path(path), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def load(path: str | Path) -> Key:
    """Read the private key at `path`.

    Raises KeyFileError: "key-permissions" where others may read it, "key-unreadable" where it is
    not a readable PEM file, "key-kind" where it holds another kind of key.
    """
    path = Path(path)
    data = read_private(path)
    try:
        key = _parsed(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            "key-unreadable",
            f"{path}: must be an unencrypted PKCS8 PEM private key ({error}); restore it from a "
            "copy, because a ledger can only be continued with its own key",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(
            "key-kind",
            f"{path}: must hold an Ed25519 key, got {type(key).__name__}; name the file that "
            "`generate` wrote",
        )
    return key


# A file is read anew each time, as it may have been replaced; what it says is mostly the same.
@lru_cache(maxsize=256)
def _parsed(data: bytes) -> object:
    return load_pem_private_key(data, password=None)


def load_or_generate(path: str | Path) -> Key:
    """Read the key at `path`, or create it where there is none; two processes get the same key."""
    # lexists: a dangling link is a lost key, not a reason to make a new one.
    if not os.path.lexists(path):
        with contextlib.suppress(KeyFileError):  # Another process was faster: read its key.
            return generate(path)
    return load(path)


def secret(path: str | Path) -> bytes:
    """Return the 32 random bytes kept at `path` (mode 0600), created on the first call.

    They key the commitment to a data set, so that nobody can guess the data set from it.
    Raises KeyFileError as `load` does.
    """
    path = Path(path)
    if not os.path.lexists(path):
        with contextlib.suppress(KeyFileError):
            create_private(path, secrets.token_bytes(SECRET_BYTES))
    data = read_private(path)
    if len(data) != SECRET_BYTES:
        raise KeyFileError(
            "key-unreadable",
            f"{path}: must hold exactly {SECRET_BYTES} bytes, got {len(data)}; restore it from a "
            "copy",
        )
    return data


def public_hex(key: Key) -> str:
    """Return the public key of `key` as 64 lower-case hex digits."""
    return key.public_key().public_bytes_raw().hex()


def sign(key: Key, data: bytes) -> str:
    """Return the Ed25519 signature of `data` as 128 lower-case hex digits."""
    return key.sign(data).hex()


def verify(public: str, signature: str, data: bytes) -> bool:
    """Tell whether `signature` (hex) of `data` is by the holder of `public` (hex); never raises.

    A key of small order has no holder: anybody can make signatures that fit it. Such keys, and
    encodings that no honest key has, sign nothing here.

    >>> key = Ed25519PrivateKey.generate()
    >>> verify(public_hex(key), sign(key, b"head"), b"head")
    True
    >>> verify(public_hex(key), sign(key, b"head"), b"another"), verify("", "", b"head")
    (False, False)
    """
    return _verified(public, signature, data)


# One receipt is held against a ledger three times a round, and nothing but these three decides.
@lru_cache(maxsize=512)
def _verified(public: str, signature: str, data: bytes) -> bool:
    try:
        _public(public).verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=256)
def _public(public: str) -> Ed25519PublicKey:
    data = bytes.fromhex(public)
    y = int.from_bytes(data, "little") & (2**255 - 1)
    if y >= _FIELD or y in _SMALL:
        raise ValueError("public key: must be the canonical form of a point of large order")
    return Ed25519PublicKey.from_public_bytes(data)


def read_private(path: Path) -> bytes:
    """Return the bytes of a file that holds a secret; raises KeyFileError as `load` does."""
    try:
        # Not blocking: a pipe in the place of a key must not hang the site.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise KeyFileError(
            "key-unreadable",
            f"{path}: cannot be read ({error.strerror}); restore it or its permissions",
        ) from error
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise KeyFileError("key-unreadable", f"{path}: must be a file; restore it from a copy")
        if mode & 0o077:
            raise KeyFileError(
                "key-permissions",
                f"{path}: only its owner may have access (mode 0600), got mode "
                f"{stat.S_IMODE(mode):04o}; run `chmod 600 {path}`, and replace the key if "
                "somebody else may have read it",
            )
        data = os.read(handle, _MAX_BYTES + 1)
    except OSError as error:
        raise KeyFileError(
            "key-unreadable", f"{path}: cannot be read ({error.strerror})"
        ) from error
    finally:
        os.close(handle)
    if len(data) > _MAX_BYTES:
        raise KeyFileError(
            "key-unreadable", f"{path}: must be at most {_MAX_BYTES} bytes; this is no key file"
        )
    return data


def create_private(path: Path, data: bytes) -> None:
    """Write a secret beside `path`, flush it, and link it to `path`.

    Raises KeyFileError "key-exists" where `path` exists, OSError where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.link(temporary, path)
    except FileExistsError as error:
        raise KeyFileError(
            "key-exists",
            f"{path}: must not exist, because a key is never replaced; load it, or name another",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
