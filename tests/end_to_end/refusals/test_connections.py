"""Who may connect to a coordinator, and to whom a site speaks.

Covers clients/runtime/fleet.py.
"""

from __future__ import annotations

import http.client
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.supernode import node_auth_http_interceptor

from clients.runtime import setup
from clients.runtime.fleet import Fleet, Refused, Unreachable, connection
from fedlite.identity import nodekey
from server.coordinator import authority
from server.coordinator.folder import Coordinator

pytestmark = pytest.mark.long


def ask(fleet: Fleet) -> None:
    try:
        fleet.activate()
    finally:
        fleet.close()


def test_a_key_that_nobody_approved_is_refused(lab: Any) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    address, ca = f"localhost:{lab.port}", (lab.coordinator / "ca" / "ca.crt").read_bytes()
    with pytest.raises(Refused, match=r"does not accept this site's key: it is not approved"):
        ask(Fleet(address, ca, key))


def test_without_a_key_nothing_is_answered(lab: Any, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(lab.coordinator / "ca" / "ca.crt"))
    for path in ("pull-messages", "get-fab", "push-messages", "send-node-heartbeat"):
        gateway = http.client.HTTPSConnection("localhost", lab.port, context=context, timeout=20)
        kind = {"Content-Type": "application/protobuf"}
        gateway.request("POST", f"/v1/fleet/{path}", body=b"", headers=kind)
        assert gateway.getresponse().status == http.client.UNAUTHORIZED, path
        gateway.close()
    home = tmp_path / "a"
    shutil.copytree(lab.partners["a"].home, home)
    (home / "keys" / "node.pem").unlink()
    done = lab.fedlite("site", "start", home, code=2)
    assert f"{home / 'keys' / 'node.pem'}: cannot be read" in done.stderr
    assert "restore it or its permissions" in done.stderr


def test_another_authority_is_not_the_coordinator(lab: Any, tmp_path: Path) -> None:
    ca = nodekey.load_or_generate(tmp_path / "ca.key")
    other = authority._authority(ca, "other").public_bytes(Encoding.PEM)
    with pytest.raises(Refused, match=r"signed by another authority.* ask for a new invitation"):
        ask(
            Fleet(f"localhost:{lab.port}", other, nodekey.load(lab.partners["a"].home / setup.NODE))
        )


def test_nothing_is_said_in_the_clear(lab: Any) -> None:
    gateway = http.client.HTTPConnection("localhost", lab.port, timeout=20)
    gateway.request("POST", "/v1/fleet/pull-messages", body=b"")
    answer = gateway.getresponse()
    assert answer.status == 400 and b"plain HTTP request was sent to HTTPS" in answer.read()
    gateway.close()
    with served(None) as port, pytest.raises(Refused, match=r"answers without TLS"):
        ask(fleet_at(lab, port))


def test_an_expired_certificate_is_named(lab: Any, tmp_path: Path) -> None:
    with (
        served(expired(Coordinator.open(lab.coordinator), tmp_path)) as port,
        pytest.raises(Refused, match=r"certificate has expired; the coordinator must renew it"),
    ):
        ask(fleet_at(lab, port))


def test_an_address_where_nobody_is_can_be_tried_again(lab: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match="nobody listens there"):
        ask(fleet_at(lab, port))
    key, ca = nodekey.load(lab.partners["a"].home / setup.NODE), lab.coordinator / "ca" / "ca.crt"
    with pytest.raises(Unreachable, match="the name does not resolve"):
        ask(Fleet("no-such-host.invalid:443", ca.read_bytes(), key))


def test_a_clock_that_is_off_is_named(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    late = datetime.now(UTC) - timedelta(minutes=10)
    monkeypatch.setattr(node_auth_http_interceptor, "now", lambda: late)
    with pytest.raises(Refused, match=r"clock is off by more than five minutes; .*doctor"):
        ask(connection(lab.partners["a"].home))


def test_one_key_works_in_one_place(lab: Any, tmp_path: Path) -> None:
    site = lab.partners["a"]
    done = lab.fedlite("site", "start", site.home, code=1)
    assert "another process works from this folder already" in done.stderr
    copy = tmp_path / "copy"
    shutil.copytree(site.home, copy)
    with pytest.raises(Refused, match="another process uses it at this moment"):
        ask(connection(copy))
    # The one that was there is not disturbed.
    assert site.status()["state"] == "connected" and site.process.poll() is None


def fleet_at(lab: Any, port: int) -> Fleet:
    ca = (lab.coordinator / "ca" / "ca.crt").read_bytes()
    return Fleet(f"localhost:{port}", ca, nodekey.load(lab.partners["a"].home / setup.NODE))


def expired(coordinator: Coordinator, folder: Path) -> ssl.SSLContext:
    """Return a server of the coordinator's own name and authority, whose time is over."""
    good, now = authority.load(coordinator.server_cert), datetime.now(UTC)
    old = x509.CertificateBuilder(
        good.issuer,
        good.subject,
        good.public_key(),
        good.serial_number,
        extensions=[*good.extensions],
    )
    old = old.not_valid_before(now - timedelta(days=2)).not_valid_after(now - timedelta(days=1))
    signed = old.sign(nodekey.load(coordinator.ca_key), SHA384())
    (folder / "old.crt").write_bytes(signed.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "old.crt", coordinator.server_key)
    return context


@contextmanager
def served(tls: ssl.SSLContext | None) -> Iterator[int]:
    """Answer one connection: with a handshake, or in the clear."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def one() -> None:
        plain, _ = listener.accept()
        with plain:
            try:
                if tls is None:
                    plain.recv(4096)
                    plain.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                else:
                    tls.wrap_socket(plain, server_side=True).close()
            except OSError:
                pass  # the site hangs up, as it should

    thread = threading.Thread(target=one)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join()
        listener.close()
