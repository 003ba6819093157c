"""The coordinator's own certificate authority, and the one server certificate that it signs.

Sites trust this authority alone, by its fingerprint in the invitation, so no public one is needed.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedlite.identity import nodekey
from fedlite.storage import write_atomic
from server.coordinator.folder import Coordinator

CA_DAYS = 3650
SERVER_DAYS = 825
RENEW_DAYS = 30


def ensure(coordinator: Coordinator) -> bool:
    """Make what is missing, and renew the server's certificate where it is due.

    It is due with less than 30 days left, or when address or key have changed. Returns whether it
    was made. Raises ValueError when the authority has expired or its key and certificate differ.
    """
    ca_key = nodekey.load_or_generate(coordinator.ca_key)
    if not coordinator.ca_cert.exists():
        certificate = _authority(ca_key, coordinator.settings.name)
        write_atomic(coordinator.ca_cert, certificate.public_bytes(Encoding.PEM))
    ca = load(coordinator.ca_cert)
    if ca.public_key() != ca_key.public_key():
        raise ValueError(
            f"{coordinator.ca_cert}: is not the certificate of {coordinator.ca_key}; restore both "
            "from one copy"
        )
    if days_left(coordinator.ca_cert) <= 0:
        raise ValueError(
            f"{coordinator.ca_cert}: expired on {ca.not_valid_after_utc:%Y-%m-%d}; make a new "
            "coordinator with fedlite server init, and invite the sites anew"
        )
    key = nodekey.load_or_generate(coordinator.server_key)
    names = subject_names(coordinator.settings.host)
    if _good(coordinator.server_cert, ca, key, names):
        return False
    certificate = _server(ca, ca_key, key, names)
    write_atomic(coordinator.server_cert, certificate.public_bytes(Encoding.PEM))
    return True


def load(path: Path) -> x509.Certificate:
    """Read a certificate; raises ValueError when it is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{path}: must be a certificate in PEM ({error}); restore it from a copy"
        ) from None


def days_left(path: Path) -> int:
    """Return for how many whole days the certificate is still valid; 0 or less: it has expired."""
    return (load(path).not_valid_after_utc - datetime.now(UTC)) // timedelta(days=1)


def subject_names(host: str) -> list[x509.GeneralName]:
    """Return what the server may be called: its host, and this machine."""
    names: list[x509.GeneralName] = []
    for name in dict.fromkeys((host, "localhost", "127.0.0.1")):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            names.append(x509.DNSName(name))
    return names


def _good(
    path: Path, ca: x509.Certificate, key: nodekey.NodeKey, names: list[x509.GeneralName]
) -> bool:
    if not path.exists():
        return False
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
        found.verify_directly_issued_by(ca)
        extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return (
        list(extension.value) == names
        and found.public_key() == key.public_key()
        and days_left(path) >= RENEW_DAYS
    )


def _authority(key: nodekey.NodeKey, name: str) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedlite {name}"[:64])])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    return (
        _builder(subject, subject, key, datetime.now(UTC) + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, SHA384())
    )


def _server(
    ca: x509.Certificate,
    ca_key: nodekey.NodeKey,
    key: nodekey.NodeKey,
    names: list[x509.GeneralName],
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedlite coordinator")])
    # One hour less: counted from the start of validity, which lies an hour back.
    end = datetime.now(UTC) + timedelta(days=SERVER_DAYS, hours=-1)
    issuer = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder(subject, ca.subject, key, min(end, ca.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False
        )
        .sign(ca_key, SHA384())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, end: datetime
) -> x509.CertificateBuilder:
    # An hour back: a site's clock may be behind.
    start = datetime.now(UTC) - timedelta(hours=1)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(**true: bool) -> x509.KeyUsage:
    uses = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{use: true.get(use, False) for use in uses})
