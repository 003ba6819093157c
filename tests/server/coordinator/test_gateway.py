from __future__ import annotations

import base64
import configparser
import inspect
import os
import re
import signal
import socket
import stat
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from fedlite.identity import nodekey
from server.coordinator import enrolment, gateway
from server.coordinator.folder import Coordinator
from server.coordinator.launcher import HEADER
from server.coordinator.setup import init


@pytest.fixture
def made(tmp_path: Path) -> Coordinator:
    return init(tmp_path / "a folder", "study", "fl.example.org:8443", superlink_port=9191)


def test_nginx_accepts_its_configuration(made: Coordinator) -> None:
    gateway.check(made)
    made.nginx_conf.write_text("nonsense;")
    with pytest.raises(ValueError, match=r"nginx refuses it .*nonsense"):
        gateway.check(made)


def locations(text: str) -> dict[str, str]:
    """Return what stands in the exact locations, by path."""
    return dict(re.findall(r"location = (\S+) \{(.*?)\n    \}", text, re.DOTALL))


def test_twelve_paths_pass_and_nothing_else(made: Coordinator) -> None:
    text = gateway.config(made)
    found = locations(text)
    ours = {"/v1/fedlite/released", "/v1/fedlite/released-part"}
    assert len(found) == 12 and set(found) == {f"/v1/fleet/{n}" for n in gateway.FLEET} | ours
    for path, inside in found.items():
        assert f"proxy_pass https://superlink{path};" in inside and "limit_except POST" in inside
    assert re.findall(r"location [^=].*", text) == ["location / { return 403; }"]
    assert "listen [::]:8443 ssl ipv6only=off;" in text and "server 127.0.0.1:9191;" in text
    assert "proxy_ssl_verify on;" in text


def test_the_secret_of_sites_stands_on_the_twelve_paths_only(made: Coordinator) -> None:
    text, shown = gateway.config(made), made.sites_secret.read_text()
    assert text.count(shown) == 12
    assert all(f'proxy_set_header {HEADER} "{shown}";' in one for one in locations(text).values())
    assert made.control_secret.read_text() not in text
    assert stat.S_IMODE(made.nginx_conf.stat().st_mode) == 0o600


def test_an_approved_key_is_no_stranger_to_nginx(made: Coordinator) -> None:
    def site(number: int, revoked: bool) -> enrolment.Site:
        key = nodekey.public(ec.generate_private_key(ec.SECP384R1()))
        return enrolment.Site(number, key, "00" * 32, "", revoked)

    signalled: list[int] = []
    nginx: Any = SimpleNamespace(send_signal=signalled.append)
    gateway.reload(made, nginx)
    assert signalled == []  # nobody came
    sites = {"a": site(1, False), "b": site(2, True)}
    enrolment.save(made.path, sites)
    gateway.reload(made, nginx)
    gateway.reload(made, nginx)
    assert signalled == [signal.SIGHUP]
    (shown,) = re.findall(r'"(.+)" "";', made.known_keys.read_text())
    pem = base64.b64decode(shown)
    line = load_pem_public_key(pem).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    assert line.decode() == sites["a"].node_key
    gateway.check(made)


def test_an_ipv6_address_is_written_in_brackets(tmp_path: Path) -> None:
    made = init(tmp_path / "c", "study", "[2001:db8::1]:8443", bind="2001:db8::1", port=1443)
    assert "listen [2001:db8::1]:1443 ssl;" in gateway.config(made)


def test_a_machine_without_ipv6_listens_on_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = init(tmp_path / "c", "study", "h:8443")
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    assert "listen 0.0.0.0:8443 ssl;" in gateway.config(made)


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
    assert service["MemoryMax"] == "75%" and service["OOMPolicy"] == "continue"
    assert service["CPUQuota"] == "400%" and service["TasksMax"] == "512"
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == capability


def test_the_container_is_built_from_a_kit_of_this_release(made: Coordinator) -> None:
    """An image that installs fedlite from an index cannot be built: no index has it."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    service = yaml.safe_load(made.compose.read_text())["services"]["coordinator"]
    assert service["image"] == f"fedlite-coordinator:{project['project']['version']}"
    assert service["build"].startswith("${FEDLITE_KIT:?") and "pip" not in str(service)
    assert service["ports"] == ["8443:8443"] and service["volumes"] == [".:/coordinator"]
    assert service["user"] == f"{os.getuid()}:{os.getgid()}"
