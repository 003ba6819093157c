"""A local user of the coordinator's machine, who has everything but the coordinator's folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.fab import Fab

from fedlite.rooms import app_root
from fedlite.scenario import from_dict
from server.coordinator import processes, submit, superlink
from server.coordinator.control import Control
from server.coordinator.folder import Coordinator
from server.coordinator.launcher import HEADER
from simulations.benchmarks.lab import wait_for
from tests.server.coordinator import front
from tests.server.coordinator.test_superlink import make, programs

pytestmark = pytest.mark.long

NOBODY = 65534
KIND = "application/protobuf"

SERVER_APP = """
from pathlib import Path
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    Path({marker!r}).write_text(Path({key!r}).read_text())
"""


def bundle(marker: Path, stolen: Path) -> bytes:
    """Return a bundle whose server side copies a file that is not its sender's."""
    app = {
        "publisher": "nobody",
        "fab-include": ["theirs/*.py"],
        "components": {"serverapp": "theirs.app:app", "clientapp": "theirs.app:app"},
    }
    project = {"name": "theirs", "version": "1.0.0", "description": "", "license": "MIT"}
    files: dict[str, bytes | Path] = {
        "pyproject.toml": tomli_w.dumps(
            {"project": project, "tool": {"flwr": {"app": app}}}
        ).encode(),
        "theirs/__init__.py": b"",
        "theirs/app.py": SERVER_APP.format(marker=str(marker), key=str(stolen)).encode(),
    }
    return build_fab_from_files(files)[0]


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    made = make(tmp_path_factory.mktemp("coordinator") / "c")
    superlink.start(made)
    try:
        yield made
    finally:
        superlink.stop(made)


def test_no_local_user_starts_a_run(coordinator: Coordinator, tmp_path: Path) -> None:
    marker = tmp_path / "stolen"
    fab = bundle(marker, coordinator.ca_key)
    request = StartRunRequest(fab=fab_to_proto(Fab(hashlib.sha256(fab).hexdigest(), fab, {})))
    status = front.as_nobody(
        coordinator.settings.superlink_port,
        coordinator.ca_cert.read_text(),
        [("/v1/control/start-run", {}, request.SerializeToString())],
    )
    until = time.monotonic() + 60
    while not marker.exists() and time.monotonic() < until and status == [200]:
        time.sleep(0.2)
    assert not marker.exists()
    assert status == [403]


SMUGGLED = {
    "plainly": "POST /v1/control/list-runs HTTP/1.1",
    "as HTTP/1.0": "POST /v1/control/list-runs HTTP/1.0",
    "by two slashes": "POST //v1/control/list-runs HTTP/1.1",
    "by an encoded dot": "POST /v1/fleet/%2e%2e/control/list-runs HTTP/1.1",
    "by an encoded slash": "POST /v1/fleet/get-fab%2f..%2f..%2fcontrol/list-runs HTTP/1.1",
    "by a whole address": "POST https://localhost/v1/control/list-runs HTTP/1.1",
    "by GET": "GET /v1/control/list-runs HTTP/1.1",
    "by HEAD": "HEAD /health HTTP/1.1",
    "as the documentation": "GET /openapi.json HTTP/1.1",
}
HEADERS = {
    "no more": "Content-Length: 0",
    "two lengths": "Content-Length: 0\r\nContent-Length: 5",
    "in chunks": "Transfer-Encoding: chunked",
    "in chunks and with a length": "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "as a websocket": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    "with a folded secret": f"{HEADER}:\r\n {{gateway}}\r\nContent-Length: 0",
    "with a secret of another case": f"{HEADER.upper()}: {{gateway}}\r\nContent-Length: 0",
    "with two secrets": f"{HEADER}: {{gateway}}\r\n{HEADER}: x\r\nContent-Length: 0",
    "with an underscored secret": f"{HEADER.replace('-', '_')}: {{gateway}}\r\nContent-Length: 0",
}


@pytest.mark.parametrize("to", ["superlink_port", "gateway_port"])
@pytest.mark.parametrize("how", HEADERS)
@pytest.mark.parametrize("line", SMUGGLED)
def test_nothing_is_smuggled_to_the_control_interface(
    coordinator: Coordinator, to: str, how: str, line: str
) -> None:
    """Even who has the gateway's secret, as whoever smuggled a request past it would."""
    headers = HEADERS[how].format(gateway=coordinator.sites_secret.read_text())
    request = f"{SMUGGLED[line]}\r\nHost: localhost\r\nContent-Type: application/protobuf\r\n"
    request += f"Connection: close\r\n{headers}\r\n\r\n"
    if "chunked" in headers:
        request += "0\r\n\r\n"
    answer = front.said(coordinator, getattr(coordinator.settings, to), request.encode())
    assert front.status(answer) in (400, 403, 404, 405, 501), answer[:200]


def test_a_second_request_in_one_body_is_none(coordinator: Coordinator) -> None:
    """The first is refused, and what follows it on the connection is not looked at."""
    inner = (
        f"POST /v1/control/list-runs HTTP/1.1\r\nHost: h\r\n"
        f"{HEADER}: {coordinator.control_secret.read_text()}\r\n"
        "Content-Type: application/protobuf\r\nContent-Length: 0\r\n\r\n"
    )
    outer = "POST /v1/fleet/get-run HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
    port = coordinator.settings.superlink_port
    answer = front.said(coordinator, port, (outer + inner).encode())
    assert front.status(answer) == 403 and answer.count(b"HTTP/1.1") == 1


def test_the_header_of_a_client_is_replaced_by_the_gateways(coordinator: Coordinator) -> None:
    """A site that has got hold of the coordinator's own secret reaches no further through nginx."""
    own = coordinator.control_secret.read_text()
    request = (
        "POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"{HEADER}: {own}\r\nContent-Type: application/protobuf\r\nContent-Length: 0\r\n\r\n"
    )
    answer = front.said(coordinator, coordinator.settings.gateway_port, request.encode())
    # With its own secret it would be answered by Flower, which wants a signature, too; and says so
    # in another way.
    assert front.status(answer) == 401 and b"refused: not signed" in answer


@pytest.fixture(scope="module")
def serverapp(coordinator: Coordinator) -> int:
    """Return the process of a run that waits for its sites."""
    scenario = from_dict({"federation": {"name": "demo", "rounds": 2, "sites": 2}})
    submit.submit(coordinator, scenario, app_root())
    (found,) = wait_for("the run", lambda: programs(coordinator, "flwr-serverapp"))
    return found


def token_of(pid: int) -> str:
    """Return the token that a process was handed; nothing while it has none."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if "memfd:token" in os.readlink(link):
                return link.read_text()
    return ""


def test_a_tasks_token_is_not_shown_and_opens_nothing(
    coordinator: Coordinator, serverapp: int
) -> None:
    token = wait_for("the token", lambda: token_of(serverapp))
    assert len(token) > 20
    for pid in processes.others():
        assert token.encode() not in processes.read(pid, "cmdline")
    port, ca = coordinator.settings.superlink_port, coordinator.ca_cert.read_text()
    asked = [
        (f"/v1/runtime/{path}", {"flwr-task-token": token}, b"")
        for path in ("get-nodes", "pull-task-input", "push-task-output", "pull-messages")
    ]
    assert front.as_nobody(port, ca, asked) == [403] * 4
    # The token is the right one: with the secret, it opens, once the run has begun.
    path, headers, body = asked[0]
    headers = headers | {HEADER: coordinator.control_secret.read_text()}
    wait_for("an answer", lambda: front.as_nobody(port, ca, [(path, headers, body)]) == [200])


def test_the_secrets_are_in_no_log_list_or_environment(
    coordinator: Coordinator, serverapp: int
) -> None:
    secrets = [path.read_bytes() for path in (coordinator.control_secret, coordinator.sites_secret)]
    pids = [*superlink.leftovers(coordinator), superlink.running(coordinator) or 0]
    assert len(pids) >= 6
    for pid in pids:
        for name in ("cmdline", "environ"):
            assert not any(secret in processes.read(pid, name) for secret in secrets)
    allowed = {coordinator.control_secret, coordinator.sites_secret, coordinator.nginx_conf}
    for path in coordinator.path.rglob("*"):
        if path.is_file() and path not in allowed:
            assert not any(secret in path.read_bytes() for secret in secrets), path
    for path in allowed:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_run_that_was_not_submitted_here_is_ended_and_shown(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    control = Control(coordinator)
    number = control.start_run(bundle(tmp_path / "x", coordinator.ca_cert), {})
    try:
        wait_for("its end", lambda: control.runs()[number].startswith("finished"))
    finally:
        control.close()
    (row,) = wait_for("the row", lambda: submit.overview(coordinator)["unknown_runs"])
    assert row["flower_run"] == number
