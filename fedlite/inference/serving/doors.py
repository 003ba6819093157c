"""Where a server listens, and what a door that others reach must have."""

from __future__ import annotations

import ipaddress
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Door:
    """An address, and what guards it.

    host: an IP address of this machine, or localhost. port: 0: any free one. cert, key: PEM files
    of TLS. tokens: the file of those who may ask. anywhere: whether others may come in without.
    """

    host: str = "127.0.0.1"
    port: int = 8001
    cert: Path | None = None
    key: Path | None = None
    tokens: Path | None = None
    anywhere: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a door that cannot be, or is open to whom it should not be."""
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port: must be from 0 to 65535, got {self.port}")
        if (self.cert is None) != (self.key is None):
            one, other = (
                ("--tls-key", "--tls-cert") if self.key is None else ("--tls-cert", "--tls-key")
            )
            raise ValueError(f"{one}: must be given with {other}")
        pair = {"--tls-cert and --tls-key": self.cert, "--tokens": self.tokens}
        lacks = [option for option, found in pair.items() if found is None]
        if not self._ip().is_loopback and lacks and not self.anywhere:
            raise ValueError(
                f"--host: must be of this machine alone, such as 127.0.0.1, without "
                f"{' and without '.join(lacks)}, got {self.host}; whoever reaches it would be "
                "answered, or read what others ask: give them, or add --anywhere where something "
                "before it does both"
            )

    def _ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        try:
            return ipaddress.ip_address("127.0.0.1" if self.host == "localhost" else self.host)
        except ValueError:
            raise ValueError(
                f"--host: must be an IP address, got {self.host!r:.80}; for example 127.0.0.1"
            ) from None

    @property
    def address(self) -> str:
        """The address as gRPC takes it."""
        found = self._ip()
        return f"[{found}]:{self.port}" if found.version == 6 else f"{found}:{self.port}"

    def open(self, server: Any) -> int:
        """Let a server of gRPC listen here, and return the port.

        Raises ValueError for a certificate that cannot be used, and where the port is taken.
        """
        pair = None
        if self.cert is not None and self.key is not None:
            pair = _credentials(self.cert, self.key)
        try:
            if pair is None:
                port = server.add_insecure_port(self.address)
            else:
                port = server.add_secure_port(self.address, pair)
        except RuntimeError:
            port = 0
        if not port:
            raise ValueError(
                f"--port {self.port}: cannot be listened on at {self.host}; choose another"
            )
        return int(port)


def _credentials(cert: Path, key: Path) -> Any:
    import grpc

    try:
        if key.stat().st_mode & stat.S_IRWXO:
            raise ValueError(f"--tls-key {key}: must be closed to others; chmod 640 {key}")
        # gRPC itself says of a wrong pair no more than that no port could be opened.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_password)
        pair = (key.read_bytes(), cert.read_bytes())
    except (ssl.SSLError, OSError) as error:
        raise ValueError(
            f"--tls-cert {cert}, --tls-key {key}: must be a certificate and its key in PEM, "
            f"without a password ({error}); correct them"
        ) from None
    return grpc.ssl_server_credentials([pair])


def _no_password() -> str:
    return ""
