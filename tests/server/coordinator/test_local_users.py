"""A local user of the coordinator's machine, who has everything but the coordinator's folder."""

from __future__ import annotations

import hashlib
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
from tests.server.coordinator import front
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
    until = time.monotonic() + 90
    while not marker.exists() and time.monotonic() < until and status == [200]:
        time.sleep(0.2)
    assert not marker.exists()
    assert status == [403]
