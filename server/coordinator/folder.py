"""The coordinator's folder: what is where in it, and its settings.

```toml
[coordinator]
name = "study"
address = "fl.example.org:8443"   # where sites reach the gateway
federation = "default"
bind = "::"                       # the address of this machine that the gateway listens on
port = 0                          # its port here; 0: that of the address
superlink_port = 9091             # of Flower's SuperLink, on 127.0.0.1 only
message_bytes = 256000000         # the longest reply of a site, in all its parts
connections = 2000                # at a time from one address
requests = 2000                   # a second from one address
```
Only name and address have no default.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedlite.deployment.invitation import split_address
from fedlite.deployment.journal import Journal
from fedlite.identity import keys, nodekey
from fedlite.identity.names import site_problem
from fedlite.settings import between, section, setting

# The path stands in the configurations of nginx, systemd and compose, which all escape differently.
_PATH = re.compile(r"[\w./+@=,~ -]+")


def _is_address(text: str) -> bool:
    try:
        split_address(text)
    except ValueError:
        return False
    return True


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Settings:
    """What `coordinator.toml` says. Sizes are in bytes; see the top of this module."""

    name: str = setting(
        "coordinator",
        "1 to 64 printable characters without '/' and no dot at the start",
        lambda v: not site_problem(v),
    )
    address: str = setting("localhost:8443", "HOST:PORT", _is_address)
    federation: str = setting(
        "default", "1 to 64 printable characters", lambda v: 0 < len(v) <= 64 and v.isprintable()
    )
    bind: str = setting("::", "an IP address of this machine, :: for all", _is_ip)
    port: int = between(0, 0, 65535)
    superlink_port: int = between(9091, 1, 65535)
    message_bytes: int = between(256_000_000, 1_000_000, 10**11)
    connections: int = between(2000, 1, 10**6)
    requests: int = between(2000, 1, 10**6)

    @property
    def host(self) -> str:
        """The host part of the public address."""
        return split_address(self.address)[0]

    @property
    def listens(self) -> str:
        """The address that the gateway listens on; "::" is every one, those of IPv4 too."""
        if self.bind == "::" and not socket.has_dualstack_ipv6():
            return "0.0.0.0"  # noqa: S104
        return self.bind

    @property
    def gateway_port(self) -> int:
        """The port that the gateway listens on."""
        return self.port or split_address(self.address)[1]


@dataclass(frozen=True)
class Coordinator:
    """A coordinator's folder, by its absolute path."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> Coordinator:
        """Return the coordinator in `path`, with its settings and keys checked.

        Raises ValueError when there is none, when a setting is wrong, or when others may read a
        private key.
        """
        coordinator = cls(absolute(path))
        if not coordinator.invitation.is_file():
            raise ValueError(
                f"{coordinator.path}: must be a coordinator's folder, but has no "
                f"{coordinator.invitation.name}; run fedlite server init {path}"
            )
        # Init is complete, so nothing of it may be made anew: every site trusts this authority.
        for needed in (coordinator.toml, coordinator.ca_cert):
            if not needed.is_file():
                raise ValueError(f"{needed}: no such file; restore it from a copy")
        _ = coordinator.settings
        _check_folder(coordinator.path)
        nodekey.load(coordinator.ca_key)
        nodekey.load(coordinator.server_key)
        keys.load(coordinator.witness_key)
        return coordinator

    @cached_property
    def settings(self) -> Settings:
        """What `coordinator.toml` says; raises ValueError with one line for each wrong key."""
        try:
            tables = tomllib.loads(self.toml.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise ValueError(f"{self.toml}: cannot be read as TOML ({error}); mend it") from None
        errors = [f"[{name}]: no such section" for name in tables if name != "coordinator"]
        table = tables.get("coordinator", {})
        if not isinstance(table, dict):
            errors.append("coordinator: must be a table; write [coordinator] above its keys")
            table = {}
        errors += [
            f"coordinator.{key}: must be set, got nothing; for example {key} = {example}"
            for key, example in {"name": '"study"', "address": '"fl.example.org:8443"'}.items()
            if key not in table
        ]
        settings: Settings = section("coordinator", Settings, table, errors)
        if settings.gateway_port == settings.superlink_port:
            errors.append(
                "coordinator.superlink_port: must differ from the gateway's port, got "
                f"{settings.superlink_port} for both; choose another"
            )
        if ":" in settings.host and settings.bind == "0.0.0.0":  # noqa: S104
            errors.append(
                f"coordinator.bind: must be an address of IPv6, as that of the sites is "
                f'({settings.address}), got {settings.bind}; bind = "::" listens on all'
            )
        if errors:
            raise ValueError("\n".join(f"{self.toml}: {error}" for error in errors))
        return settings

    @property
    def toml(self) -> Path:
        """The settings."""
        return self.path / "coordinator.toml"

    @property
    def ca_key(self) -> Path:
        """The private key of the coordinator's own certificate authority."""
        return self.path / "ca" / "ca.key"

    @property
    def ca_cert(self) -> Path:
        """Its certificate, which every site gets."""
        return self.path / "ca" / "ca.crt"

    @property
    def server_key(self) -> Path:
        """The private key of gateway and SuperLink."""
        return self.path / "tls" / "server.key"

    @property
    def server_cert(self) -> Path:
        """Their certificate."""
        return self.path / "tls" / "server.crt"

    @property
    def witness_key(self) -> Path:
        """The key that signs the ledger heads seen."""
        return self.path / "witness.pem"

    @property
    def sites(self) -> Path:
        """The approved sites."""
        return self.path / "sites.json"

    @property
    def invitation(self) -> Path:
        """What partners get."""
        return self.path / "invitation.json"

    @property
    def database(self) -> Path:
        """The SuperLink's state."""
        return self.path / "superlink.db"

    @property
    def gateway(self) -> Path:
        """The gateway's own folder."""
        return self.path / "gateway"

    @property
    def nginx_conf(self) -> Path:
        """The gateway's configuration, written anew at every start."""
        return self.gateway / "nginx.conf"

    @property
    def sites_secret(self) -> Path:
        """What the gateway shows to the SuperLink; made anew at every start."""
        return self.gateway / "sites.secret"

    @property
    def control_secret(self) -> Path:
        """What the coordinator's own processes show to the SuperLink; made anew at every start."""
        return self.gateway / "control.secret"

    @property
    def programs(self) -> Path:
        """The programs that the SuperLink finds first; written anew at every start."""
        return self.gateway / "programs"

    @property
    def known_keys(self) -> Path:
        """The approved sites' keys as nginx reads them."""
        return self.gateway / "known-keys.map"

    @property
    def refusals(self) -> Path:
        """What the SuperLink has refused to approved sites."""
        return self.logs / "refusals.jsonl"

    @property
    def logs(self) -> Path:
        """The processes' logs."""
        return self.path / "logs"

    @property
    def flwr_home(self) -> Path:
        """Flower's home."""
        return self.path / "flwr"

    @property
    def pid_file(self) -> Path:
        """Locked by the process that supervises the others, and holding its number."""
        return self.path / "coordinator.pid"

    @property
    def jobs(self) -> Path:
        """One file a submitted run."""
        return self.path / "jobs"

    @property
    def bundles(self) -> Path:
        """The bundles of the submitted runs."""
        return self.path / "bundles"

    @property
    def releases(self) -> Path:
        """The bundles of models that are released to the sites."""
        return self.path / "releases"

    @property
    def runs(self) -> Path:
        """The run directories."""
        return self.path / "runs"

    @property
    def audit(self) -> Path:
        """The journal's folder."""
        return self.path / "audit"

    @property
    def unit(self) -> Path:
        """The systemd unit."""
        return self.path / "systemd" / "fedlite-coordinator.service"

    @property
    def compose(self) -> Path:
        """The container's description."""
        return self.path / "compose.yaml"

    @property
    def journal(self) -> Journal:
        """Who did what."""
        return Journal(self.audit)


def absolute(path: Path) -> Path:
    """Return the folder's absolute path; raises ValueError for what no configuration can hold."""
    found = Path(os.path.abspath(path.expanduser()))
    if not _PATH.fullmatch(str(found)):
        raise ValueError(
            f"{found}: must have letters, digits, spaces and . _ / + @ = , ~ - only, as it "
            "stands in configuration files; name another folder"
        )
    return found


def _check_folder(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ValueError(
            f"{path}: only its owner may enter (mode 0700), got mode {mode:04o}; run "
            f"chmod 700 {path}"
        )
