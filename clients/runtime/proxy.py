"""The proxy on the way out: what HTTPS_PROXY and NO_PROXY say, in capitals or not.

Only the tunnel is asked of it (CONNECT). TLS goes through it from end to end, so it sees the
coordinator's name and how much is sent, and nothing else.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})[ \r]")
_HEAD = 16_384


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

    def tunnel(
        self,
        host: str,
        port: int,
        send: Callable[[bytes], object],
        receive: Callable[[int], bytes],
    ) -> int:
        """Ask for a tunnel on a connection to the proxy; return the HTTP status, 200 for yes.

        send, receive: of that connection. 0: what answers is no proxy.
        """
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        head = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self.login is not None:
            head.append(f"Proxy-Authorization: Basic {b64encode(b':'.join(self.login)).decode()}")
        send("\r\n".join([*head, "", ""]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            if len(answer) > _HEAD or not (part := receive(4096)):
                return 0
            answer += part
        found = _STATUS.match(answer)
        status = int(found[1]) if found else 0
        # Who is asked for TLS says nothing before.
        return status if status != http.client.OK or answer.endswith(b"\r\n\r\n") else 0


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


def refusal(status: int, host: str, port: int) -> str:
    """Return what a status other than 200 says of a proxy, with the mend."""
    if not status:
        return f"does not answer as one; correct HTTPS_PROXY, or name {host} in NO_PROXY"
    if status == http.client.PROXY_AUTHENTICATION_REQUIRED:
        return "wants a login; set HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"
    return (
        f"does not let this machine through to {host} port {port} (HTTP {status}); ask its "
        "operator to allow CONNECT there"
    )


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
