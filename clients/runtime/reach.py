"""Whether the coordinator's gateway can be reached, and why not: name, port, TLS, clock."""

from __future__ import annotations

import http.client
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from clients.runtime import proxy
from clients.runtime.proxy import Proxy
from fedlite.deployment.protocol import HEADER, Release, of_header

SECONDS = 5.0


@dataclass(frozen=True)
class Reach:
    """How far a connection came; `why` not further, with the mend.

    failed: "", "name", "tcp", "proxy", "tls" or "http".

    skew: this machine's clock less the gateway's, in seconds; None when it did not tell.
    expires: when the gateway's certificate ends, UTC. release: what it says that it runs.
    """

    failed: str
    why: str
    skew: float | None = None
    expires: datetime | None = None
    release: Release | None = None


def resolves(host: str, seconds: float = SECONDS) -> str:
    """Return why a host name has no address within `seconds`, or nothing when it has one."""
    answers: queue.Queue[str] = queue.Queue()

    def ask() -> None:
        try:
            socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            answers.put("")
        except OSError as error:
            answers.put(f"the name does not resolve ({error.strerror or error}); check it and DNS")

    # The system's resolver takes no deadline of ours.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return f"the name did not resolve within {seconds:g} s; check this machine's DNS"


def reach(host: str, port: int, ca: Path, seconds: float = SECONDS) -> Reach:
    """Connect as the site would, trusting `ca` only, and tell how far that came."""
    try:
        way = proxy.find(host, port)
    except ValueError as error:
        return Reach("proxy", str(error))
    first = (way.host, way.port) if way else (host, port)
    if why := resolves(first[0], seconds):
        return Reach("name", f"the proxy {way.shown}: {why}" if way else why)
    context = ssl.create_default_context(cafile=str(ca))
    try:
        plain = socket.create_connection(first, timeout=seconds)
    except OSError as error:
        return Reach("tcp", _tcp(port, error, way))
    # Each step has a timeout; a gateway that sends byte by byte must not make steps without end.
    with plain, plain.dup() as same, _ended(same, 3 * seconds):
        if way and (status := _tunnel(plain, way, host, port)) != http.client.OK:
            return Reach("proxy", f"the proxy {way.shown} {proxy.refusal(status, host, port)}")
        try:
            secure = context.wrap_socket(plain, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            return Reach("tls", _certificate(host, error, way))
        except (ssl.SSLError, OSError) as error:
            return Reach("tls", _no_tls(port, error))
        with secure:
            return _ask(secure, host)


@contextmanager
def _ended(connection: socket.socket, seconds: float) -> Iterator[None]:
    """End a connection after so many seconds, if it is still used then."""

    def end() -> None:
        with suppress(OSError):  # it may have ended by itself
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tunnel(plain: socket.socket, way: Proxy, host: str, port: int) -> int:
    try:
        return way.tunnel(host, port, plain.sendall, plain.recv)
    except OSError:
        return 0


def _ask(secure: ssl.SSLSocket, host: str) -> Reach:
    certificate = secure.getpeercert() or {}
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    expires = datetime.fromtimestamp(ends, UTC)
    name = f"[{host}]" if ":" in host else host
    try:
        secure.sendall(f"HEAD / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(secure, method="HEAD")
        answer.begin()
        now = time.time()
        told = answer.getheader("Date")
        skew = now - parsedate_to_datetime(told).timestamp() if told else None
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = f"TLS is good, but nobody speaks HTTP there ({error}); is the port the gateway's?"
        return Reach("http", why, expires=expires)
    return Reach("", "", skew, expires, of_header(answer.getheader(HEADER)))


def _tcp(port: int, error: OSError, way: Proxy | None) -> str:
    if way is not None:
        return (
            f"the proxy {way.shown} cannot be reached ({error.strerror or error}); correct "
            "HTTPS_PROXY, or name the coordinator's host in NO_PROXY"
        )
    if isinstance(error, ConnectionRefusedError):
        return f"port {port} refuses; the coordinator is stopped, or the port is wrong"
    if isinstance(error, TimeoutError):
        return f"port {port} does not answer; a firewall may drop outgoing connections to it"
    return f"port {port}: {error.strerror or error}; check this machine's network"


# X509_V_ERR_*, see openssl-verification-options(1).
_NOT_YET, _EXPIRED, _WRONG_HOST, _WRONG_ADDRESS = 9, 10, 62, 64


def _certificate(host: str, error: ssl.SSLCertVerificationError, way: Proxy | None) -> str:
    if error.verify_code == _EXPIRED:
        return "the gateway's certificate has expired; its operator must renew it"
    if error.verify_code == _NOT_YET:
        return "the gateway's certificate is not valid yet; compare this machine's clock"
    if error.verify_code in (_WRONG_HOST, _WRONG_ADDRESS):
        return (
            f"the gateway's certificate is not for {host!r}; its operator must add that name, or "
            "send an invitation with the right address"
        )
    if way is not None:
        return (
            f"the certificate is not of the coordinator that you joined ({error.verify_message}): "
            f"the proxy {way.shown} may open TLS; ask its operator to let {host} through unopened"
        )
    return (
        f"the certificate is not of the coordinator that you joined ({error.verify_message}); "
        "somebody may be in between, or the coordinator was made anew: ask its operator"
    )


def _no_tls(port: int, error: OSError) -> str:
    if getattr(error, "reason", "") in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return f"port {port} speaks plain text, not TLS; the address must be the gateway's"
    if isinstance(error, TimeoutError):
        return f"port {port} accepts, but does not speak TLS; the address must be the gateway's"
    return f"TLS failed ({error}); a proxy on the way may interfere, or the port is wrong"
