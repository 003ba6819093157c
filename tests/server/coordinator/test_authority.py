"""Covers server/coordinator/setup.py."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from server.coordinator import authority
from server.coordinator.folder import Coordinator
from server.coordinator.setup import init


@pytest.fixture
def made(tmp_path: Path) -> Coordinator:
    return init(tmp_path / "c", "study", "fl.example.org:8443")


def test_openssl_accepts_the_chain_strictly(made: Coordinator) -> None:
    words = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver"]
    words += ["-CAfile", str(made.ca_cert)]
    for name in ("fl.example.org", "localhost"):
        done = subprocess.run([*words, "-verify_hostname", name, made.server_cert], check=False)
        assert done.returncode == 0
    ip = subprocess.run([*words, "-verify_ip", "127.0.0.1", made.server_cert], check=False)
    other = subprocess.run([*words, "-verify_hostname", "x.org", made.server_cert], check=False)
    assert ip.returncode == 0 and other.returncode != 0


def test_certificates_say_what_they_are_for(made: Coordinator) -> None:
    ca, server = authority.load(made.ca_cert), authority.load(made.server_cert)
    assert isinstance(ca.public_key(), ec.EllipticCurvePublicKey)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert basic.critical and basic.value.ca and usage.critical and usage.value.key_cert_sign
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert authority.days_left(made.ca_cert) == 3649
    assert authority.days_left(made.server_cert) == 824
    assert server.not_valid_after_utc - server.not_valid_before_utc <= timedelta(days=825)
    now = datetime.now(UTC)
    assert now - server.not_valid_before_utc > timedelta(minutes=59)


def test_a_server_certificate_is_renewed_only_when_it_is_due(
    made: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca, first = made.ca_cert.read_bytes(), made.server_cert.read_bytes()
    assert not authority.ensure(made)
    for days, renewed in ((30, False), (29, True)):
        monkeypatch.setattr(authority, "SERVER_DAYS", days + 1)
        made.server_cert.unlink()
        assert authority.ensure(made)
        monkeypatch.undo()
        assert authority.days_left(made.server_cert) == days
        assert authority.ensure(made) is renewed
    assert authority.days_left(made.server_cert) == 824
    assert made.ca_cert.read_bytes() == ca and made.server_cert.read_bytes() != first


def test_another_address_or_key_or_authority_needs_another_certificate(
    made: Coordinator, tmp_path: Path
) -> None:
    text = made.toml.read_text().replace("fl.example.org", "192.0.2.7")
    made.toml.write_text(text)
    moved = Coordinator(made.path)
    assert authority.ensure(moved) and not authority.ensure(moved)
    other = init(tmp_path / "other", "study", "192.0.2.7:8443")
    made.server_cert.write_bytes(other.server_cert.read_bytes())
    assert authority.ensure(moved)
    made.server_key.unlink()
    assert authority.ensure(moved)
    made.ca_cert.write_bytes(other.ca_cert.read_bytes())
    with pytest.raises(ValueError, match=r"ca\.crt: is not the certificate of"):
        authority.ensure(moved)


def test_an_authority_that_has_expired_is_told(
    made: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority, "CA_DAYS", 0)
    made.ca_cert.unlink()
    with pytest.raises(ValueError, match="expired on"):
        authority.ensure(made)
