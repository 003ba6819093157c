"""What a coordinator gives its partners: where it is, and which certificate and key are its own.

There is no secret in it. Whoever gets it must compare its fingerprint with the one that the
coordinator's operator tells by another way, by telephone for example; all else follows from that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from fedlite.deployment import document
from fedlite.deployment.protocol import Release
from fedlite.identity.names import site_problem

KIND = "fedlite-invitation"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9a-fA-F:.]{2,45}\])"
_ADDRESS = re.compile(rf"({_HOST}):([1-9][0-9]{{0,4}})", re.ASCII)


@dataclass(frozen=True)
class Invitation:
    """A coordinator's name, address, certificate authority and witness key.

    name: by the rule of site names. address: "host:port" of the gateway. ca_pem: exactly one CA
    certificate, PEM. witness: its public Ed25519 key, 64 hex digits. fedlite: the release that
    wrote it. federation: 1 to 64 printable characters. protocol: what that release speaks. Raises
    ValueError for anything else.
    """

    name: str
    address: str
    ca_pem: str
    witness: str
    fedlite: str
    federation: str
    protocol: str = ""

    def __post_init__(self) -> None:
        """Check everything; the certificate is kept in its one PEM form, and nothing beside it."""
        problem = site_problem(self.name)
        if problem:
            raise ValueError(problem.replace("site:", "name:", 1))
        split_address(self.address)
        if not re.fullmatch(r"[0-9a-f]{64}", self.witness):
            raise ValueError(
                f"witness: must be 64 lower-case hex digits, got {self.witness[:80]!r}; ask for "
                "the invitation anew"
            )
        document.check_text("federation", self.federation)
        _ = self.release
        pem = self._certificate().public_bytes(Encoding.PEM).decode("ascii")
        object.__setattr__(self, "ca_pem", pem)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the CA certificate (DER): 32 pairs of upper-case hex digits, with colons."""
        return self._certificate().fingerprint(hashes.SHA256()).hex(":").upper()

    @property
    def host(self) -> str:
        """The gateway's host name or address, without brackets."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """The gateway's port."""
        return split_address(self.address)[1]

    @property
    def release(self) -> Release:
        """What the coordinator ran when it wrote this; what it runs now, its answers say."""
        return Release(self.fedlite, self.protocol)

    def encode(self) -> bytes:
        """Return the invitation as a text file."""
        return document.encode(KIND, document.told(self))

    @classmethod
    def decode(cls, data: bytes) -> Invitation:
        """Read an invitation; raises ValueError with the field and the mend."""
        names = [field.name for field in fields(cls)]
        return cls(**document.decode(KIND, names, data, optional=("protocol",)))

    def _certificate(self) -> x509.Certificate:
        try:
            (certificate,) = x509.load_pem_x509_certificates(self.ca_pem.encode("ascii"))
            basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
            if not basic.value.ca:
                raise ValueError("is no CA")
        except (ValueError, x509.ExtensionNotFound) as error:
            raise ValueError(
                f"ca_pem: must be exactly one CA certificate in PEM ({error}); ask for the "
                "invitation anew"
            ) from None
        return certificate


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of "host:port"; raises ValueError for anything else."""
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[2]) > 65535:
        raise ValueError(
            f"address: must be HOST:PORT, for example fl.example.org:443, got {address[:80]!r}"
        )
    return match[1].strip("[]"), int(match[2])
