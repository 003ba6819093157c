"""The coordinator's real processes; one coordinator serves all tests that need it running.

Covers server/coordinator/processes.py, server/coordinator/service.py.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import fedlite
from clients.runtime.fleet import Fleet, Refused
from clients.runtime.reach import reach
from fedlite.deployment import journal
from fedlite.identity import nodekey
from fedlite.rooms import app_root
from fedlite.scenario import from_dict
from server.coordinator import gateway, jobs, processes, submit, superlink
from server.coordinator.control import Control
from server.coordinator.folder import Coordinator
from server.coordinator.service import Service
from server.coordinator.setup import init
from simulations.benchmarks.lab import free_port, wait_for

pytestmark = pytest.mark.long


def make(path: Path, **settings: object) -> Coordinator:
    given = {"bind": "127.0.0.1", "superlink_port": free_port(), **settings}
    return init(path, "study", f"localhost:{free_port()}", **given)


def programs(coordinator: Coordinator, name: str) -> list[int]:
    found = superlink.descendants(coordinator)
    return [pid for pid in found if name.encode() in processes.read(pid, "cmdline")]


def asked(coordinator: Coordinator, path: str, method: str = "POST") -> int:
    context = ssl.create_default_context(cafile=str(coordinator.ca_cert))
    port = coordinator.settings.gateway_port
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=10)
    connection.request(method, path, body=b"")
    return connection.getresponse().status


# What is found before anything starts -----------------------------------------------------------


@pytest.mark.parametrize("which", ["gateway_port", "superlink_port"])
def test_a_port_in_use_is_told_before_anything_starts(tmp_path: Path, which: str) -> None:
    made = make(tmp_path / "c")
    with (
        socket.create_server(("127.0.0.1", getattr(made.settings, which))),
        pytest.raises(ValueError, match=r"port: must be free .*choose another port"),
    ):
        superlink.start(made)
    assert not superlink.leftovers(made) and superlink.running(made) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_in_use_is_told_whichever_ip_uses_it(tmp_path: Path, host: str) -> None:
    made = make(tmp_path / "c", bind="::")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        taken = socket.create_server((host, made.settings.gateway_port), family=family)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with taken, pytest.raises(ValueError, match=r"port: must be free .*choose another port"):
        superlink.start(made)


def test_an_address_of_another_machine_is_told(tmp_path: Path) -> None:
    made = make(tmp_path / "c", bind="192.0.2.1")
    with pytest.raises(ValueError, match=r"192\.0\.2\.1:\d+: no address of this machine"):
        superlink.start(made)


def test_without_nginx_nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path / "c")
    monkeypatch.setattr(gateway.shutil, "which", lambda *_, **__: None)
    with pytest.raises(ValueError, match="nginx: must be installed"):
        superlink.start(made)


def test_stopping_what_does_not_run_is_no_error(tmp_path: Path) -> None:
    assert superlink.stop(make(tmp_path / "c")) is False


def test_a_program_that_dies_at_once_is_started_less_and_less_often(tmp_path: Path) -> None:
    service = Service("x", ["false"], tmp_path / "log", dict(os.environ))
    starts, end = 0, time.monotonic() + 2.0
    while time.monotonic() < end:
        before = service.process
        service.watch()
        starts += service.process is not None and service.process is not before
        time.sleep(0.01)
    service.end()
    assert 2 <= starts <= 3  # at 0, 0.5 and 1.5 seconds


def test_what_a_dead_supervisor_has_left_is_found_and_ended(tmp_path: Path) -> None:
    made = make(tmp_path / "c")
    script = "import subprocess,sys; subprocess.Popen(['sleep','600'],start_new_session=True)"
    environment = superlink.environment(made)
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    other = subprocess.Popen(["sleep", "600"])
    try:
        assert len(superlink.leftovers(made)) == 1
        assert superlink.stop(made) is True
        assert superlink.leftovers(made) == [] and other.poll() is None
    finally:
        other.kill()
        other.wait()


# The processes ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    made = make(tmp_path_factory.mktemp("coordinator") / "c")
    superlink.start(made)
    try:
        yield made
    finally:
        superlink.stop(made)
        assert superlink.leftovers(made) == []


def test_sites_come_by_ipv6_and_by_ipv4(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    port = free_port()
    made = init(tmp_path / "c", "study", f"[::1]:{port}", superlink_port=free_port())
    superlink.start(made)
    try:
        for host in ("::1", "127.0.0.1"):
            found = reach(host, port, made.ca_cert)
            assert (found.failed, found.why) == ("", "")
            assert found.release is not None and found.release.version == fedlite.__version__
            key = nodekey.load_or_generate(tmp_path / "node.pem")
            shown = f"[{host}]" if ":" in host else host
            site = Fleet(f"{shown}:{port}", made.ca_cert.read_bytes(), key)
            # It is heard: nobody has approved its key.
            with pytest.raises(Refused, match="does not accept this site's key"):
                site.activate()
            site.close()
    finally:
        superlink.stop(made)


@pytest.fixture
def control(coordinator: Coordinator) -> Iterator[Control]:
    made = Control(coordinator)
    yield made
    made.close()


def test_a_normal_start_leaves_no_error_in_the_gateways_log(coordinator: Coordinator) -> None:
    # The first test of the running coordinator: nothing has been done to it yet.
    assert (coordinator.logs / "gateway.log").read_text() == ""


def test_sites_reach_the_fleet_paths_and_nothing_else(coordinator: Coordinator) -> None:
    assert asked(coordinator, "/v1/fleet/pull-messages") not in (403, 502)
    for path in (
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/v1/fleet/register-node",
        "/v1/fleet/%2e%2e/control/list-runs",
        "//v1/control/list-runs",
        "/",
    ):
        assert asked(coordinator, path) == 403, path
    assert asked(coordinator, "/v1/fleet/pull-messages", "GET") == 403


def test_only_tls_by_the_own_authority_is_spoken(coordinator: Coordinator, tmp_path: Path) -> None:
    other = make(tmp_path / "other")
    port = coordinator.settings.gateway_port
    for trusted in (None, str(other.ca_cert)):
        context = ssl.create_default_context(cafile=trusted)
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            context.wrap_socket(plain, server_hostname="localhost")
    old = ssl.create_default_context(cafile=str(coordinator.ca_cert))
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain, server_hostname="localhost")


def test_the_superlink_listens_on_this_machine_only(coordinator: Coordinator) -> None:
    port = f":{coordinator.settings.superlink_port:04X}"
    lines = [
        line for f in ("tcp", "tcp6") for line in Path(f"/proc/net/{f}").read_text().splitlines()
    ]
    listening = [line.split()[1] for line in lines if line.split()[3] == "0A"]
    assert [at for at in listening if at.endswith(port)] == [f"0100007F{port}"]


def test_a_hundred_connections_from_one_address_are_let_through(coordinator: Coordinator) -> None:
    context = ssl.create_default_context(cafile=str(coordinator.ca_cert))
    port = coordinator.settings.gateway_port
    held = [
        http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
        for _ in range(100)
    ]
    answers = set()
    for connection in held:
        connection.request("POST", "/v1/fleet/pull-messages", body=b"")
        response = connection.getresponse()
        response.read()
        answers.add(response.status)
    assert answers == {401}  # the warden's word, and not once the gateway's 429


def test_flower_knows_the_sites_that_were_registered(control: Control) -> None:
    line = nodekey.public(ec.generate_private_key(ec.SECP384R1()))
    number = control.register(line, "site")
    (node,) = [one for one in control.nodes() if one["node_id"] == number]
    assert node["name"] == "site" and node["status"] != "online"
    assert node["public_key"].startswith(b"-----BEGIN PUBLIC KEY")
    with pytest.raises(RuntimeError, match="Flower refuses"):
        control.register(line, "again")
    control.unregister(number)
    found = {one["node_id"]: one["status"] for one in control.nodes()}
    assert found.get(number, "unregistered") == "unregistered"


def test_there_is_never_a_second_one(coordinator: Coordinator) -> None:
    pid = superlink.running(coordinator)
    with pytest.raises(ValueError, match=f"running already .process {pid}"):
        superlink.start(coordinator)


def test_a_killed_superlink_comes_back_and_its_run_goes_on(
    coordinator: Coordinator, control: Control
) -> None:
    scenario = from_dict({"federation": {"name": "demo", "rounds": 2, "sites": 2}})
    submit.submit(coordinator, scenario, app_root())
    wait_for("the run", lambda: programs(coordinator, "flwr-serverapp"))
    before = jobs.load(coordinator, "demo")
    (old,) = programs(coordinator, "flower-superlink")
    rest = superlink.descendants(coordinator)
    os.kill(old, signal.SIGKILL)
    wait_for(
        "its next start",
        lambda: (jobs.load(coordinator, "demo").flower_run or 0) != before.flower_run,
    )
    after = jobs.load(coordinator, "demo")
    assert not any(processes.alive(pid) for pid in rest)
    assert after.run_id == before.run_id and after.restarts == 1 and after.state == "running"
    status = control.runs()
    assert status[int(before.flower_run or 0)].startswith("finished")
    assert not status[int(after.flower_run or 0)].startswith("finished")
    assert superlink.answers(coordinator)
    assert journal.read(coordinator.audit)[-1]["action"] == "resume"
    submit.stop_run(coordinator, "demo")
    assert control.runs()[int(after.flower_run or 0)].startswith("finished")


def test_a_killed_gateway_comes_back(coordinator: Coordinator) -> None:
    master = int((coordinator.gateway / "nginx.pid").read_text())
    os.kill(master, signal.SIGKILL)
    wait_for(
        "it",
        lambda: (coordinator.gateway / "nginx.pid").read_text().strip() not in ("", str(master)),
    )
    wait_for("the gateway", lambda: superlink.answers(coordinator))


def test_stopping_leaves_nothing_behind(coordinator: Coordinator) -> None:
    pid = superlink.running(coordinator)
    assert pid and superlink.stop(coordinator) is True
    assert not processes.alive(pid) and superlink.leftovers(coordinator) == []
    for port in (coordinator.settings.gateway_port, coordinator.settings.superlink_port):
        socket.create_server(("127.0.0.1", port)).close()
    assert journal.read(coordinator.audit)[-1]["action"] == "stop"
