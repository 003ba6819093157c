"""A local user of the coordinator's machine, who has everything but the coordinator's folder."""

from __future__ import annotations

import hashlib
import http.client
import multiprocessing
import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.fab import Fab

from server.coordinator import superlink
from server.coordinator.folder import Coordinator
from tests.server.coordinator.test_superlink import make

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


def as_nobody(port: int, ca: str, requests: list[tuple[str, dict[str, str], bytes]]) -> list[int]:
    """Return the statuses of POSTs to the SuperLink, made by another user of this machine."""

    def work(pipe) -> None:  # type: ignore[no-untyped-def]
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        context = ssl.create_default_context(cadata=ca)
        found = []
        for path, headers, body in requests:
            connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
            connection.request("POST", path, body, {"Content-Type": KIND} | headers)
            found.append(connection.getresponse().status)
        pipe.send(found)

    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(theirs,))
    process.start()
    theirs.close()
    found: list[int] = ours.recv()
    process.join()
    return found


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
    status = as_nobody(
        coordinator.settings.superlink_port,
        coordinator.ca_cert.read_text(),
        [("/v1/control/start-run", {}, request.SerializeToString())],
    )
    until = time.monotonic() + 90
    while not marker.exists() and time.monotonic() < until and status == [200]:
        time.sleep(0.2)
    assert not marker.exists()
    assert status == [403]
