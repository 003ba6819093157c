"""The doctor against real gateways on loopback: each trouble has its own message and mend.

Covers clients/runtime/reach.py.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

import fedlite
from clients.runtime import doctor, reach, setup
from clients.runtime.doctor import Check, examine
from fedlite.commands.main import app
from fedlite.data import shelf
from fedlite.deployment import sandbox
from fedlite.deployment.invitation import Invitation
from fedlite.guard.policy import DataSet
from tests.data.test_weights import written
from tests.data.text.wordy import wordy

NOW = datetime.now(UTC)
ALL = {"ok", "warning", "fail"}


class Authority:
    """A CA, and certificates of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP384R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.pem = (
            self._builder(self.name, self.key, 300)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA384())
            .public_bytes(Encoding.PEM)
            .decode()
        )

    def _builder(self, name: x509.Name, key: Any, days: int) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder(self.name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=10))
            .not_valid_after(NOW + timedelta(days=days))
        )

    def server(self, days: int = 90, address: str = "127.0.0.1") -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP384R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway")])
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        made = self._builder(subject, key, days).add_extension(names, critical=False)
        path = self.folder / "server.pem"
        path.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + made.sign(self.key, hashes.SHA384()).public_bytes(Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


@contextmanager
def gateway(
    context: ssl.SSLContext | None, seconds: float = 0.0, *, date: bool = True, runs: str = ""
) -> Iterator[int]:
    """Serve on loopback with a clock that is `seconds` off; yield the port."""

    class Forbidden(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(403)

        def end_headers(self) -> None:
            if runs:
                self.send_header("Fedlite", runs)
            super().end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(time.time() + seconds) if date else ""

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    class Server(HTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that does not trust us hangs up; that is what is tested."""

        def get_request(self) -> tuple[Any, Any]:
            connection, address = super().get_request()
            connection.settimeout(5)
            return (
                context.wrap_socket(connection, server_side=True) if context else connection
            ), address

    server = Server(("127.0.0.1", 0), Forbidden)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    setup.init(tmp_path / "home", "site-01", data=DataSet("digits", "digits"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the node key is accepted is asked by the runtime, which has tests of its own."""
    monkeypatch.setattr(doctor, "_activation", lambda home: iter(()))


def join(home: Path, authority: Authority, port: int, host: str = "127.0.0.1") -> None:
    one = Invitation(
        "c", f"{host}:{port}", authority.pem, "ab" * 32, fedlite.__version__, "default"
    )
    path = home.parent / "invitation.json"
    path.write_bytes(one.encode())
    setup.join(home, path, fingerprint=one.fingerprint)


def checks(home: Path) -> dict[str, Check]:
    found = list(examine(home))
    assert all(check.state in ALL for check in found)
    assert all(check.mend for check in found if check.state != "ok")
    return {check.name: check for check in found}


def failed(home: Path) -> dict[str, Check]:
    return {name: check for name, check in checks(home).items() if check.state == "fail"}


def test_a_good_site(home: Path, authority: Authority) -> None:
    with gateway(authority.server()) as port:
        join(home, authority, port)
        found = checks(home)
    wrong = {name for name, check in found.items() if check.state != "ok"}
    assert wrong <= ({"disk"} if sandbox.available() else {"disk", "sandbox"})
    assert found["data digits"].what == "digits loads, 10 classes"
    # How many records there are is nobody's business.
    assert "1797" not in str(found) and "1,797" not in str(found)
    assert "0 s" in found["clock"].what or "1 s" in found["clock"].what


@pytest.mark.parametrize(
    ("seconds", "state"), [(30, "ok"), (120, "warning"), (-120, "warning"), (400, "fail")]
)
def test_the_clock(home: Path, authority: Authority, seconds: float, state: str) -> None:
    with gateway(authority.server(), seconds) as port:
        join(home, authority, port)
        clock = checks(home)["clock"]
    assert clock.state == state
    assert ("behind" if seconds > 0 else "ahead") in clock.what


@pytest.mark.parametrize(
    ("runs", "state", "text"),
    [
        ("", "ok", "does not tell"),
        ("0.2.0 1-2", "ok", "fedlite 0.2.0 there"),
        ("0.9.0 2-3", "fail", "fedlite 0.9.0 there speaks 2-3"),
    ],
)
def test_what_the_coordinator_runs_now_counts(
    home: Path, authority: Authority, runs: str, state: str, text: str
) -> None:
    """Not what it ran when it wrote the invitation, which stays with the site."""
    with gateway(authority.server(), runs=runs) as port:
        join(home, authority, port)
        path = home / "coordinator.json"
        path.write_bytes(replace(setup.joined(home), fedlite="7.0.0", protocol="7").encode())
        found = checks(home)
    assert (found["releases"].state, found["coordinator"].state) == (state, "ok")
    assert text in found["releases"].what
    assert ("upgrade fedlite here" in found["releases"].mend) == (state == "fail")


def test_a_gateway_without_a_clock_and_a_certificate_that_ends_soon(
    home: Path, authority: Authority
) -> None:
    with gateway(authority.server(days=5), date=False) as port:
        join(home, authority, port)
        found = checks(home)
    assert found["clock"].state == "warning"
    assert found["certificate"].state == "warning" and "renew" in found["certificate"].mend


def test_certificates_that_are_not_trusted(
    home: Path, authority: Authority, tmp_path: Path
) -> None:
    cases = {
        "has expired": authority.server(days=-1),
        "is not for '127.0.0.1'": authority.server(address="127.0.0.2"),
        "not of the coordinator that you joined": Authority(tmp_path, "ca").server(),
    }
    for text, context in cases.items():
        with gateway(context) as port:
            join(home, authority, port)
            connection = checks(home)["connection"]
        assert connection.state == "fail" and text in connection.what, connection


def test_ports_that_are_no_gateway(
    home: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gateway(None) as port:
        join(home, authority, port)
        assert "plain text, not TLS" in checks(home)["connection"].what
    # The gateway above is gone.
    assert "refuses" in checks(home)["connection"].what
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        found = reach.reach("127.0.0.1", port, home / "ca.crt", seconds=0.3)
        assert found.failed == "tls" and "does not speak TLS" in found.why
    found = reach.reach("no-such-host.invalid", 443, home / "ca.crt")
    assert found.failed == "name" and "DNS" in found.why

    def slow(*words: object, **more: object) -> list[Any]:
        time.sleep(2)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    started = time.monotonic()
    assert "within 0.1 s" in reach.resolves("fl.example.org", 0.1)
    assert time.monotonic() - started < 1


def test_troubles_at_home(home: Path) -> None:
    text = (home / "site.toml").read_text()
    (home / "keys").chmod(0o755)
    (home / "keys" / "node.pem").chmod(0o644)
    (home / "ledgers" / "digits.jsonl").write_text("{}\n")
    (home / "site.toml").write_text(
        text.replace(
            "[data.digits]", '[data.x]\nsource = "csv"\npath = "x.csv"\ntarget = "y"\n[data.digits]'
        ).replace('part = ""\npath = ""\ntarget = ""\nepsilon = 0.0', 'part = "nobody"')
    )
    found = failed(home)
    assert found[f"permissions of {home / 'keys'}"].mend == f"chmod 700 {home / 'keys'}"
    assert "chmod 600" in found["node key"].what
    assert "site recover" in found["ledger digits"].mend
    assert "readable CSV file" in found["data x"].what
    assert "no part 'nobody'" in found["data digits"].what
    (home / "site.toml").write_text(text.replace("records_at_most = 0", "records_at_most = 9"))
    assert "more than records_at_most = 9" in failed(home)["data digits"].what
    (home / "site.toml").write_text("[sight]\n")
    assert "no such table" in failed(home)["site.toml"].what


def test_a_table_is_looked_at_without_a_scenario(home: Path) -> None:
    """Which of its columns are features is for a scenario to say."""
    text = (home / "site.toml").read_text()
    own = '[data.x]\nsource = "csv"\npath = "x.csv"\ntarget = "y"\n[data.digits]'
    (home / "site.toml").write_text(text.replace("[data.digits]", own))
    (home / "x.csv").write_text("name,sex,site,y\nA B,f,n,no\nC D,m,n,yes\n")
    found = checks(home)["data x"]
    assert found.state == "ok" and found.what == "csv loads, 2 classes"


@pytest.mark.long
def test_a_base_that_an_approved_bundle_needs(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Found before a round, by name and digest: catalog, put there by the operator, another one."""
    monkeypatch.setenv("FEDLITE_CACHE", str(tmp_path / "cache"))
    text = (home / "site.toml").read_text()

    def approved(tokenizer: str, pin: str = "") -> None:
        settings = f'"data.tokenizer" = "{tokenizer}"\n"data.base_sha256" = "{pin}"\n'
        head = f'\n[bundles.{"ab" * 32}]\nname = "x"\napproved = "2026-11-29T00:00:00Z"\n'
        tail = f'by = "jo"\n[bundles.{"ab" * 32}.settings]\n{settings}'
        (home / "site.toml").write_text(text + head + tail)

    approved("")
    assert not [name for name in checks(home) if name.startswith("base ")]
    approved("minilm")
    assert failed(home)["base minilm"].mend == "run `fedlite data fetch minilm`"
    approved("clinical", "cd" * 32)
    assert "fedlite data add clinical FOLDER" in failed(home)["base clinical"].mend
    wordy(written(tmp_path / "mine"))
    base = shelf.put("clinical", tmp_path / "mine")
    missed = failed(home)["base clinical"]
    assert base.identity in missed.what and missed.mend == "put the federation's there"
    approved("clinical", base.identity)
    assert checks(home)["base clinical"].state == "ok"
    (base.folder() / "tokenizer.json").write_text("{}")
    assert "corrupt" in failed(home)["base clinical"].mend


def test_disk_sandbox_and_device(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    usage = shutil.disk_usage(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5 * 10**8))
    monkeypatch.setattr(sandbox, "available", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = (home / "site.toml").read_text()
    (home / "site.toml").write_text(text.replace('device = "auto"', 'device = "cuda"'))
    found = checks(home)
    assert found["disk"].state == "warning" and "0.5 GB" in found["disk"].what
    assert found["sandbox"].state == "fail" and "Landlock" in found["sandbox"].what
    assert found["device"].state == "fail"
    (home / "site.toml").write_text(text.replace("sandbox = true", "sandbox = false"))
    found = checks(home)
    assert found["sandbox"].state == "warning"


@pytest.mark.parametrize(
    ("asked", "there", "state", "what"),
    [
        ("cpu", True, "ok", "the CPU alone, as"),
        ("auto", False, "ok", "the CPU: torch sees no GPU"),
        ("auto", True, "ok", "Card, where a plan"),
        ("cuda", True, "ok", "Card, where a plan"),
        ("cuda", False, "fail", "torch sees no GPU"),
    ],
)
def test_what_trains_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, asked: str, there: bool, state: str, what: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Card")
    text = (home / "site.toml").read_text()
    (home / "site.toml").write_text(text.replace('device = "auto"', f'device = "{asked}"'))
    found = checks(home)["device"]
    assert found.state == state and found.what.startswith(what)


def test_the_witness_key_must_be_listed(home: Path, authority: Authority) -> None:
    join(home, authority, 9)
    text = (home / "site.toml").read_text()
    (home / "site.toml").write_text(text.replace("ab" * 32, "cd" * 32))
    (home / "ca.crt").write_text(Authority(home.parent, "other").pem)
    found = failed(home)
    assert "ab" * 32 in found["witness key"].mend and "join" in found["ca.crt"].mend


def test_the_command(home: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["site", "doctor", str(home), "--json"])
    found = json.loads(result.output)["checks"]
    assert {check["name"] for check in found} >= {"python", "flwr", "site.toml", "coordinator"}
    expected = any(check["state"] == "fail" for check in found)
    assert result.exit_code == int(expected)
    result = CliRunner().invoke(app, ["site", "doctor", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "fedlite site init" in result.output
    assert [line for line in result.output.splitlines() if line.startswith("ok ")]
