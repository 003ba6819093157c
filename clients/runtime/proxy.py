"""The proxy on the way out: what HTTPS_PROXY and NO_PROXY say, in capitals or not.

Only the tunnel is asked of it (CONNECT). TLS goes through it from end to end, so it sees the
coordinator's name and how much is sent, and nothing else.
"""

from __future__ import annotations

import ipaddress
import os
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Proxy:
    """Where the proxy listens. login: user and password, which stand in no text."""

    host: str
    port: int
    login: tuple[bytes, bytes] | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """HOST:PORT, for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Its address, without the login."""
        return f"http://{self.shown}"

    @property
    def header(self) -> str:
        """The line of a request that shows the login; "" where there is none."""
        if self.login is None:
            return ""
        return f"Proxy-Authorization: Basic {b64encode(b':'.join(self.login)).decode()}\r\n"


def find(host: str, port: int) -> Proxy | None:
    """Return the proxy for connections to a host, None where there is none.

    NO_PROXY: names, their domains, addresses and networks (10.0.0.0/8), with commas; * for all.
    Raises ValueError, without the login, for a proxy that is no http://HOST:PORT.
    """
    told = getproxies_environment()
    text = told.get("https") or told.get("all")
    if not text or _bypassed(host, port):
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError
        found, default = parts.port, 80
    except ValueError:
        raise ValueError(
            f"HTTPS_PROXY: must be http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT, got "
            f"{_public(text)!r}; correct the environment, or name {host} in NO_PROXY"
        ) from None
    login = None
    if parts.username is not None:
        login = (unquote(parts.username).encode(), unquote(parts.password or "").encode())
    return Proxy(parts.hostname, found or default, login)


def _bypassed(host: str, port: int) -> bool:
    if proxy_bypass_environment(f"{host}:{port}"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(","):
        try:
            network = ipaddress.ip_network(entry.strip().strip("[]"), strict=False)
        except ValueError:
            continue
        if address in network:
            return True
    return False


def _public(text: str) -> str:
    """Return an address without what stands before its @."""
    scheme, mark, rest = text.partition("://")
    return (scheme + mark if rest else "") + (rest or scheme).rpartition("@")[2][:100]
