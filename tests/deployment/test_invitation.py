"""Invitations: the CA's fingerprint, the one certificate, and what is refused.

Covers fedlite/deployment/document.py.
"""

from __future__ import annotations

import hashlib
import json
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fedlite.deployment.invitation import Invitation


def certificate(*, ca: bool = True) -> str:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a CA")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, hashes.SHA384())
    )
    return built.public_bytes(Encoding.PEM).decode()


PEM = certificate()
GOOD = Invitation("hospitals", "fl.example.org:443", PEM, "ab" * 32, "0.1.0", "default")


def test_there_and_back_with_the_fingerprint_that_everybody_computes() -> None:
    assert Invitation.decode(GOOD.encode()) == GOOD
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(PEM)).hexdigest().upper()
    assert GOOD.fingerprint.replace(":", "") == digest and GOOD.fingerprint.count(":") == 31
    assert (GOOD.host, GOOD.port) == ("fl.example.org", 443)
    assert replace(GOOD, address="[::1]:8443").host == "::1"


def test_what_the_first_release_wrote_is_still_an_invitation() -> None:
    old = json.loads(GOOD.encode())
    assert "protocol" not in old and old["version"] == 1
    told = replace(GOOD, fedlite="0.2.0", protocol="1-2")
    assert Invitation.decode(told.encode()) == told
    assert (GOOD.release.problem, told.release.problem) == ("", "")
    with pytest.raises(ValueError, match="protocol: must be"):
        replace(GOOD, protocol="x")


def test_nothing_but_the_one_certificate_is_kept() -> None:
    hidden = "remarks\n" + PEM.replace("\n", "\n\n", 1)
    assert replace(GOOD, ca_pem=hidden).ca_pem == PEM
    # Another label for a certificate, which OpenSSL would trust as well.
    trusted = certificate().replace("CERTIFICATE", "X509 CERTIFICATE")
    try:
        kept = replace(GOOD, ca_pem=PEM + trusted).ca_pem
    except ValueError:
        kept = PEM
    assert kept == PEM


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a/b"),
        ("name", "x" * 65),
        ("name", "\x1b[2J"),
        ("address", "fl.example.org"),
        ("address", "fl.example.org:0"),
        ("address", "fl.example.org:65536"),
        ("address", "a b:443"),
        ("address", "-fl:443"),
        ("ca_pem", ""),
        ("ca_pem", PEM + PEM),
        ("ca_pem", certificate(ca=False)),
        ("witness", "AB" * 32),
        ("fedlite", ""),
        ("federation", "two\nlines"),
    ],
)
def test_wrong_fields_are_named(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        replace(GOOD, **{field: value})


def test_strange_files_are_refused() -> None:
    said = json.loads(GOOD.encode())
    cases = {
        "kind: ": said | {"kind": "fedlite-request"},
        "version: ": said | {"version": 2},
        "version: must be 1": said | {"version": True},
        "'more' is unknown": said | {"more": "x"},
        "'witness' is missing": {k: v for k, v in said.items() if k != "witness"},
        "name must be text": said | {"name": 1},
        "kind: must": [said],
    }
    for text, case in cases.items():
        with pytest.raises(ValueError, match=text):
            Invitation.decode(json.dumps(case).encode())
    for data in (
        b"\xff",
        b"[" * 9000,
        GOOD.encode() + b" " * 20000,
        GOOD.encode().replace(b'"version"', b'"kind": "fedlite-invitation", "version"'),
    ):
        with pytest.raises(ValueError, match="fedlite-invitation: must be"):
            Invitation.decode(data)
