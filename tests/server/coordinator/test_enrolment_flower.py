"""Enrolment against Flower's own SuperLink: what it takes, remembers and refuses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.runtime import setup
from fedlite.identity import nodekey
from server.coordinator import enrolment
from server.coordinator.control import Control
from server.coordinator.folder import Coordinator
from server.coordinator.setup import init

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
}


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """Yield a coordinator whose SuperLink runs, without a gateway before it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = init(tmp_path / "coord", "c", "localhost:1", superlink_port=port)
    words = ["flower-superlink", "--enable-supernode-auth", "--host", "127.0.0.1"]
    words += ["--port", str(port), "--database", str(made.database)]
    words += ["--ssl-ca-certfile", str(made.ca_cert), "--ssl-certfile", str(made.server_cert)]
    words += ["--ssl-keyfile", str(made.server_key), "--disable-runtime-dependency-installation"]
    environment = os.environ | QUIET | {"FLWR_HOME": str(made.flwr_home)}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(words, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            for _ in range(600):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.1)
            yield made
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.long
def test_a_site_comes_changes_its_key_leaves_and_returns(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    home, control = tmp_path / "home", Control(coordinator)

    def state() -> list[str]:
        return [row["state"] for row in enrolment.sites(coordinator, control)]

    def approve(**more: bool) -> enrolment.Site:
        path = home / "request.json"
        site = enrolment.approve(coordinator, path, control, lambda q: True, **more)[1]
        # Again, nothing changes.
        again = enrolment.approve(
            coordinator, path, control, lambda q: pytest.fail("asked"), **more
        )[1]
        assert again == site
        return site

    try:
        setup.init(home, "site-01")
        setup.join(home, coordinator.invitation, confirm=lambda invitation: True)
        first = approve()
        assert state() == ["offline"]
        setup.rotate_key(home)
        second = approve()
        assert second.node_key == nodekey.public(nodekey.load(home / "keys" / "node.next.pem"))
        assert setup.finish_rotation(home) == second.node_key != first.node_key
        enrolment.revoke(coordinator, "site-01", control)
        assert state() == ["revoked"]
        # Flower never takes a key back, which is why a site returns with a new one.
        with pytest.raises(RuntimeError):
            control.register(second.node_key, "site-01")
        setup.rotate_key(home)
        third = approve(again=True)
        assert state() == ["offline"]
        known = {node["node_id"]: node["status"] for node in control.nodes()}
        assert known == {
            first.node_id: "unregistered",
            second.node_id: "unregistered",
            third.node_id: "registered",
        }
    finally:
        control.close()
