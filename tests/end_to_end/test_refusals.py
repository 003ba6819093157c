"""What a deployment refuses, and in which words: one coordinator, real sites and hostile ones."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.app import Message
from flwr.supernode import node_auth_http_interceptor

import fedlite
from clients.runtime import approval, doctor, setup
from clients.runtime.fleet import Fleet, Refused, RunOver, Unreachable, connection
from clients.runtime.node import Runtime
from fedlite import data, flower, scenario as config
from fedlite.deployment import bundle as bundles
from fedlite.guard.policy import DataSet
from fedlite.identity import nodekey
from fedlite.messages import Hello
from fedlite.models import build
from fedlite.parameters import Layout
from fedlite.rooms import app_root
from server.coordinator import authority, enrolment, jobs, submit as runs
from server.coordinator.control import Control
from server.coordinator.folder import Coordinator
from server.coordinator.setup import init
from simulations.run import check, scenario_path

ROUNDS = 2
CLEAR = ("privacy.unit=none", "training.learning_rate=1.0")


@cache
def scenario(name: str, sites: int, *overrides: str) -> config.Scenario:
    """Return the quickstart, short and settled as `fedlite server submit` settles it."""
    keys = [f"federation.name={name}", f"federation.sites={sites}", "federation.quorum=1"]
    keys += [f"federation.rounds={ROUNDS}", *overrides]
    return check(config.load(scenario_path("quickstart"), keys), deployed=True)


def enrol(lab: Any, name: str) -> Path:
    """Make a site of digits, let it join and approve it; return its folder."""
    home: Path = lab.partner(name).home
    setup.init(home, name, data=DataSet("digits", "digits"))
    setup.join(home, lab.invitation, fingerprint=lab.fingerprint)
    change(home, 'units = ["record"]', 'units = ["record", "none"]')
    let_in(lab, home / "request.json")
    return home


def let_in(lab: Any, request: Path) -> None:
    coordinator = Coordinator.open(lab.coordinator)
    control = Control(coordinator)
    try:
        enrolment.approve(coordinator, request, control, lambda question: True)
    finally:
        control.close()


def change(home: Path, old: str, new: str) -> None:
    path = home / "site.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def approve(home: Path, chosen: config.Scenario) -> None:
    bundle = bundles.read(runs.build(chosen, app_root()))
    approval.approve(home, approval.review(home, bundle, {}), "a test")


def submit(lab: Any, chosen: config.Scenario, root: Path | None = None) -> tuple[str, Path]:
    """Submit a run; return its name and its directory."""
    job = runs.submit(Coordinator.open(lab.coordinator), chosen, root or app_root())
    return job.name, lab.coordinator / job.directory


def text_of(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


@pytest.fixture(scope="module")
def lab(running_lab: Any) -> Any:
    """The coordinator, and two sites at work."""
    for name in ("a", "b"):
        enrol(running_lab, name)
        running_lab.partners[name].start()
    for partner in running_lab.partners.values():
        partner.wait_online()
    return running_lab


# Who may connect --------------------------------------------------------------------------------


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


# Whose code may run -----------------------------------------------------------------------------


def test_a_bundle_runs_only_where_it_was_approved(lab: Any, tmp_path: Path, wait: Any) -> None:
    homes = [lab.partners[name].home for name in ("a", "b")]
    chosen = scenario("altered", 2, *CLEAR)
    for home in homes:
        approve(home, chosen)
    root = tmp_path / "root"
    for room in ("clients", "server", "strategies"):
        shutil.copytree(app_root() / room, root / room)
    shutil.copy(app_root() / "pyproject.toml", root)
    with (root / "clients" / "app.py").open("a") as file:
        file.write("# One comment more.\n")
    name, directory = submit(lab, chosen, root)
    content = (lab.coordinator / lab.job(name)["bundle"]).read_bytes()
    digest = bundles.digest(content)
    assert digest != bundles.digest(runs.build(chosen, app_root()))

    gathering = directory / "gathering.txt"
    wait(
        "both refusals",
        lambda: "not approved there yet: a, b" in text_of(gathering) or lab.job(name)["reason"],
    )
    job = jobs.load(Coordinator.open(lab.coordinator), name)
    shown = runs._waiting(Coordinator.open(lab.coordinator), chosen, job)
    assert shown == (
        "waiting for sites: 2 online, 0 of 2 sites ready; not approved there yet: a, b"
    )
    for home in homes:
        assert (home / "bundles" / "waiting" / f"{digest}.fab").read_bytes() == content
        assert not (home / "bundles" / digest).exists()
        assert text_of(home / "logs" / "worker.log") == "" and not list((home / "state").iterdir())
        assert lab.journal(home)[-1]["why"] == f"bundle {digest[:16]} is not approved by this site"
    assert f"see it with `fedlite site approve {homes[0]}`" in lab.partners["a"].log

    done = lab.fedlite("site", "approve", homes[0], digest[:12], "--yes", code=1)
    assert "1 files differ from the code installed here" in done.stderr
    assert "clients/app.py" in done.stdout
    lab.fedlite("site", "approve", homes[0], digest[:12], "--yes", "--changed-code")
    wait("one site ready", lambda: "1 of 2 sites ready (a)" in text_of(gathering))
    approval.approve(homes[1], approval.review(homes[1], bundles.read(content), {}), "a test")
    assert lab.wait_end(name)["state"] == "finished", lab.logs()
    assert [r["accepted"] for r in lab.rounds(name)] == [2] * ROUNDS


def test_a_ceiling_holds_after_the_approval_too(lab: Any) -> None:
    a, b = (lab.partners[name].home for name in ("a", "b"))
    chosen = scenario("private", 2)
    for home in (a, b):
        approve(home, chosen)
    change(a, "epsilon = 3.0", "epsilon = 0.01")
    bundle = lab.root / "private.fab"
    bundle.write_bytes(runs.build(chosen, app_root()))
    done = lab.fedlite("site", "approve", a, bundle, "--yes", code=1)
    assert "budget.epsilon: 0.01 is below the plan's epsilon, 3" in done.stderr
    name, _ = submit(lab, chosen)
    assert lab.wait_end(name)["state"] == "finished", lab.logs()
    assert [r["accepted"] for r in lab.rounds(name)] == [1] * ROUNDS
    assert [r["dropped"] for r in lab.rounds(name)] == [{"a": "budget"}, {}]


# Hostile sites ----------------------------------------------------------------------------------


class Hostile:
    """Registered sites that answer as they like, all from one thread."""

    def __init__(self, sites: dict[Path, Callable[[Message], bytes]]) -> None:
        self._sites = {connection(home): says for home, says in sites.items()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> None:
        for fleet in self._sites:
            fleet.activate()
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        for fleet in self._sites:
            fleet.close()

    def _work(self) -> None:
        while not self._stop.wait(0.1):
            for fleet, says in self._sites.items():
                try:
                    incoming = fleet.receive()
                    if incoming is None:
                        continue
                    flower.identify(incoming.run, fleet.node_id)
                    message = fleet.content(incoming, 10**9)
                    fleet.confirm(incoming)
                    fleet.push(flower.answer(says(message), message))
                except RunOver:
                    continue


def test_a_hostile_site_is_dropped_and_named_and_the_round_goes_on(lab: Any) -> None:
    chosen = scenario("hostile", 3, *CLEAR)
    approve(lab.partners["a"].home, chosen)
    lab.partners["b"].stop()
    source = data.load(chosen.data.name)
    model = build(chosen.model.name, source.shape, source.classes, seed=chosen.federation.seed)

    def hello(name: str) -> bytes:
        return Hello(name, Layout.of(model).digest.hex(), fedlite.__version__).encode()

    def too_much(message: Message) -> bytes:
        query = message.metadata.message_type.startswith("query")
        return hello("mallory") if query else bytes(5_000_000)

    sites = {enrol(lab, "mallory"): too_much, enrol(lab, "eve"): lambda message: hello("b")}
    with Hostile(sites):
        name, directory = submit(lab, chosen)
        assert lab.wait_end(name)["state"] == "finished", lab.logs()
    assert [r["dropped"] for r in lab.rounds(name)] == [{"mallory": "bad-update"}] * ROUNDS
    assert [r["accepted"] for r in lab.rounds(name)] == [1] * ROUNDS
    assert max(r["bytes_up"] for r in lab.rounds(name)) < 100_000
    summary = json.loads((directory / "summary.json").read_bytes())
    assert "config" in str(summary), summary
    log = text_of(directory / "server.log")
    assert "a node says that it is b, and is not approved as that" in log
    assert "a reply was dropped: it is larger than" in log


def test_a_site_goes_over_to_its_next_key_while_it_runs(lab: Any, wait: Any) -> None:
    site, node = lab.partners["a"], lab.json("server", "sites")["sites"][0]["node_id"]
    let_in(lab, setup.rotate_key(site.home))
    wait("the next key", lambda: not (site.home / setup.NEXT).exists())
    wait("a on line", lambda: site.status().get("state") == "connected")
    assert "the coordinator has taken the new node key" in site.log
    (row,) = [row for row in lab.json("server", "sites")["sites"] if row["name"] == "a"]
    assert row["state"] == "online" and row["node_id"] != node


# `fedlite site start`, which gives up after 3 seconds of refusals instead of 60.
IMPATIENT = """
import sys
from fedlite.rooms import app_root
sys.path.insert(0, str(app_root()))
from clients.runtime.node import Runtime
Runtime.serve.__defaults__ = (3.0,)
from fedlite.cli import main
main()
"""


def test_a_site_that_was_revoked_is_out(lab: Any, wait: Any) -> None:
    site = lab.partners["b"]
    with (lab.root / "b.log").open("ab") as output:
        site.process = subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, "site", "start", site.home],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=lab.environment,
        )
    site.wait_online()
    lab.fedlite("server", "revoke", "b")
    wait("the end of b", lambda: site.process.poll() is not None)
    assert site.process.poll() == 1
    assert "the key was revoked" in site.log and "or was revoked" in site.log.splitlines()[-1]
    assert lab.journal(site.home)[-1]["action"] == "refused"
    rows = {row["name"]: row["state"] for row in lab.json("server", "sites")["sites"]}
    assert rows["b"] == "revoked"


# Folders that are not whole ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("site.toml", "write one with `fedlite site init`"),
        ("coordinator.json", "run `fedlite site join"),
        ("keys/node.pem", "restore it"),
    ],
)
def test_a_half_written_site_does_not_start(lab: Any, tmp_path: Path, name: str, text: str) -> None:
    home = tmp_path / "home"
    shutil.copytree(lab.partners["b"].home, home)
    (home / name).unlink()
    with pytest.raises((ValueError, OSError), match=text) as caught:
        Runtime(home)
    assert str(home / name) in str(caught.value)


def test_a_site_without_its_ledger_key_is_found_by_the_doctor(lab: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(lab.partners["b"].home, home)
    (home / setup.LEDGER).unlink()
    found = {check.name: check for check in doctor.examine(home)}
    assert found["keys"].state == "fail" and str(home / setup.LEDGER) in found["keys"].what


def test_a_half_written_coordinator_does_not_start(tmp_path: Path) -> None:
    mends = {
        "coordinator.toml": "restore it from a copy",
        "ca/ca.key": "restore it",
        "ca/ca.crt": "restore it from a copy",
        "tls/server.key": "restore it",
        "witness.pem": "restore it",
        "invitation.json": "run fedlite server init",
    }
    for number, (name, mend) in enumerate(mends.items()):
        made = init(tmp_path / str(number), "other", "localhost:9", superlink_port=10)
        (made.path / name).unlink()
        with pytest.raises((ValueError, OSError), match=mend) as caught:
            Coordinator.open(made.path)
        assert Path(name).name in str(caught.value)
