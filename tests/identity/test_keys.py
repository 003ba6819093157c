"""Keys and secrets: only their owner reads them, and nothing replaces them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from fedlite.identity import keys
from fedlite.identity.keys import KeyFileError


def written(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def rule_of(path: Path) -> str:
    with pytest.raises(KeyFileError) as caught:
        keys.load(path)
    assert caught.value.rule in keys.KEY_RULES and str(path) in str(caught.value)
    return caught.value.rule


def test_a_key_survives_its_file_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "site.pem"
    mask = os.umask(0)
    try:
        key = keys.generate(path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert keys.public_hex(keys.load(path)) == keys.public_hex(key)
    assert os.listdir(path.parent) == ["site.pem"]  # nothing is left over


def test_a_signature_is_that_of_rfc_8032() -> None:
    # RFC 8032, section 7.1, test 2.
    secret = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert keys.public_hex(key) == public and keys.sign(key, b"\x72") == signature
    assert keys.verify(public, signature, b"\x72")
    assert not keys.verify(public, signature, b"\x73")


@pytest.mark.parametrize("public", ["", "zz" * 32, "00" * 31, "ff" * 32, "é", "00" * 33])
def test_verify_is_false_for_what_is_no_key_or_signature(public: str) -> None:
    assert keys.verify(public, "00" * 64, b"") is False
    key = keys.Key.generate()
    assert keys.verify(keys.public_hex(key), public, b"") is False


def test_the_order_of_the_group_added_to_a_signature_makes_it_invalid() -> None:
    # Otherwise a row would have two valid forms (RFC 8032, section 5.1.7: S must be below L).
    key = keys.Key.generate()
    signature = bytes.fromhex(keys.sign(key, b"x"))
    order = 2**252 + 27742317777372353535851937790883648493
    other = int.from_bytes(signature[32:], "little") + order
    forged = signature[:32] + other.to_bytes(32, "little")
    assert not keys.verify(keys.public_hex(key), forged.hex(), b"x")


# Every encoding of the 8 points of small order: canonical ones, and those with a needless sign or
# a y that was not reduced (Chalkias, Garillot, Nikolaenko 2020, "Taming the many EdDSAs", table 2).
CANONICAL = [
    "01" + "00" * 31,
    "ec" + "ff" * 30 + "7f",
    "00" * 32,
    "00" * 31 + "80",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]
OTHERS = [
    "01" + "00" * 30 + "80",
    "ec" + "ff" * 31,
    "ed" + "ff" * 30 + "7f",
    "ed" + "ff" * 31,
    "ee" + "ff" * 30 + "7f",
    "ee" + "ff" * 31,
]


@pytest.mark.parametrize("public", CANONICAL + OTHERS)
def test_nobody_signs_with_a_key_of_small_order(public: str) -> None:
    # With S = 0 and R one of the eight points, R = -hA holds for one R, or one message in a few.
    messages = [b"%d" % n for n in range(16)]
    forged = [r + "00" * 32 for r in CANONICAL]
    bare = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))

    def library(signature: str, message: bytes) -> bool:
        try:
            bare.verify(bytes.fromhex(signature), message)
        except InvalidSignature:
            return False
        return True

    pairs = [(signature, message) for signature in forged for message in messages]
    taken = [pair for pair in pairs if library(*pair)]
    assert taken, "the attack itself must work on the bare library"
    assert not any(keys.verify(public, *pair) for pair in pairs)


def test_generate_never_replaces_a_file(tmp_path: Path) -> None:
    path = written(tmp_path / "site.pem", b"dear")
    with pytest.raises(KeyFileError) as caught:
        keys.generate(path)
    assert caught.value.rule == "key-exists"
    assert path.read_bytes() == b"dear" and os.listdir(tmp_path) == ["site.pem"]


def test_a_dangling_link_is_a_lost_key_and_not_a_reason_for_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "site.pem").symlink_to(tmp_path / "gone.pem")
    with pytest.raises(KeyFileError) as caught:
        keys.load_or_generate(tmp_path / "site.pem")
    assert caught.value.rule == "key-unreadable" and not (tmp_path / "gone.pem").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_wrong_permissions_are_refused(tmp_path: Path, mode: int) -> None:
    keys.generate(tmp_path / "site.pem")
    (tmp_path / "site.pem").chmod(mode)
    assert rule_of(tmp_path / "site.pem") == "key-permissions"
    keys.secret(tmp_path / "secret")
    (tmp_path / "secret").chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        keys.secret(tmp_path / "secret")


def test_an_unreadable_key_is_refused(tmp_path: Path) -> None:
    assert rule_of(tmp_path / "missing.pem") == "key-unreadable"
    (tmp_path / "directory").mkdir(mode=0o700)
    assert rule_of(tmp_path / "directory") == "key-unreadable"
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert rule_of(tmp_path / "pipe") == "key-unreadable"  # and does not hang
    for data in (b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n", b"\0" * 100_000):
        assert rule_of(written(tmp_path / "bad.pem", data)) == "key-unreadable"


def test_an_encrypted_key_and_another_kind_of_key_are_refused(tmp_path: Path) -> None:
    locked = keys.Key.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")
    )
    assert rule_of(written(tmp_path / "locked.pem", locked)) == "key-unreadable"
    curve = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    assert rule_of(written(tmp_path / "curve.pem", curve)) == "key-kind"


def test_many_threads_and_processes_agree_on_one_key_and_secret(tmp_path: Path) -> None:
    path = tmp_path / "site.pem"
    with ThreadPoolExecutor(16) as pool:
        found = {keys.public_hex(key) for key in pool.map(keys.load_or_generate, [path] * 64)}
        secrets = set(pool.map(keys.secret, [tmp_path / "secret"] * 64))
    code = "import sys; from fedlite.identity import keys; "
    code += "print(keys.public_hex(keys.load_or_generate(sys.argv[1])))"
    shown = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert found == {shown.stdout.strip()}
    assert len(secrets) == 1 and len(secrets.pop()) == 32
    assert sorted(os.listdir(tmp_path)) == ["secret", "site.pem"]


def test_a_secret_of_another_length_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "secret", b"short")
    with pytest.raises(KeyFileError, match="exactly 32 bytes, got 5"):
        keys.secret(tmp_path / "secret")
    assert keys.secret(tmp_path / "a") != keys.secret(tmp_path / "b")
