from __future__ import annotations

import configparser
import inspect
import re
import tomllib
from pathlib import Path

import pytest
import uvicorn

from server.coordinator import gateway
from server.coordinator.folder import Coordinator
from server.coordinator.setup import init


@pytest.fixture
def made(tmp_path: Path) -> Coordinator:
    return init(tmp_path / "a folder", "study", "fl.example.org:8443", superlink_port=9191)


def test_nginx_accepts_its_configuration(made: Coordinator) -> None:
    gateway.check(made)
    made.nginx_conf.write_text("nonsense;")
    with pytest.raises(ValueError, match=r"nginx refuses it .*nonsense"):
        gateway.check(made)


def test_ten_paths_pass_and_nothing_else(made: Coordinator) -> None:
    text = gateway.config(made)
    (pattern,) = re.findall(r"location ~ (\S+) \{", text)
    assert len(gateway.FLEET) == 10
    for name in gateway.FLEET:
        assert re.search(pattern, f"/v1/fleet/{name}")
    for path in ("/v1/control/start-run", "/v1/fleet/register-node", "/v1/fleet/pull-messages/x"):
        assert not re.search(pattern, path)
    assert "listen 0.0.0.0:8443 ssl;" in text and "server 127.0.0.1:9191;" in text
    assert "proxy_ssl_verify on;" in text and "limit_except POST" in text


def test_an_ipv6_address_is_written_in_brackets(tmp_path: Path) -> None:
    made = init(tmp_path / "c", "study", "[2001:db8::1]:8443", bind="::", port=1443)
    assert "listen [::]:1443 ssl;" in gateway.config(made)


def test_the_gateway_gives_up_an_idle_connection_before_the_superlink_does(
    tmp_path: Path,
) -> None:
    theirs = inspect.signature(uvicorn.Config).parameters["timeout_keep_alive"].default
    upstream = gateway.config(init(tmp_path / "c", "study", "h:8443")).partition("upstream")[2]
    ours = re.search(r"keepalive_timeout (\d+)s;", upstream.partition("server {")[0])
    assert ours is not None and 0 < int(ours[1]) < theirs


def test_without_nginx_the_mend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(ValueError, match="apt install nginx-light"):
        gateway.nginx()


@pytest.mark.parametrize(("port", "capability"), [(443, "CAP_NET_BIND_SERVICE"), (8443, "")])
def test_the_unit_is_hardened(tmp_path: Path, port: int, capability: str) -> None:
    made = init(tmp_path / "c", "study", f"h:{port}")
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read_string(made.unit.read_text())
    service = unit["Service"]
    assert service["ExecStart"].endswith(f'"--foreground" "--coordinator" "{made.path}"')
    assert service["Restart"] == "always" and service["RestartSec"] == "10"
    assert service["NoNewPrivileges"] == "yes" and service["ProtectSystem"] == "strict"
    assert service["ReadWritePaths"] == f'"{made.path}"'
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == capability


def test_the_container_runs_this_release(made: Coordinator) -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    text = made.compose.read_text()
    assert f"fedlite=={project['project']['version']}" in text
    assert 'ports: ["8443:8443"]' in text and "nginx-light" in text
