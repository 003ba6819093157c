"""The gateway: the one door to the coordinator, and what keeps its processes running.

Flower's Control API has no authentication of its own and shares a port with the Fleet API. So the
SuperLink listens on this machine only, and nginx lets twelve paths through to it: those that a site
needs, by POST, over TLS. It encrypts anew to the SuperLink, shows it a secret that opens these
paths only, and leaves it to `warden` there whom it knows.
"""

from __future__ import annotations

import grp
import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from fedlite.deployment import container, protocol, systemd as units
from fedlite.deployment.container import COORDINATOR
from fedlite.storage import write_atomic
from server.coordinator import known, released, secret
from server.coordinator.folder import Coordinator
from server.coordinator.launcher import HEADER

log = logging.getLogger("fedlite.coordinator")

FLEET = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "pull-object",
    "push-object",
    "confirm-message-received",
)
# All that a site may ask, by its path: Flower's, and ours.
SITES = {f"/v1/fleet/{name}": name for name in FLEET} | {
    f"/v1/fedlite/{name}": name for name in released.PATHS
}
# Of the unit's [Service].
_SETTINGS = """\
RestartSec=10
KillMode=mixed
LimitNOFILE=16384
RestrictNamespaces=yes
SystemCallFilter=@system-service
"""
_STRANGERS = 32
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def nginx() -> str:
    """Return nginx's path; raises ValueError with the mend when it is not installed."""
    # Debian has it where only root's PATH leads.
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which("nginx", path=places)
    if found is None:
        raise ValueError(
            "nginx: must be installed on the coordinator's machine, got none; for example sudo "
            "apt install nginx-light"
        )
    return found


def command(coordinator: Coordinator) -> list[str]:
    """Return how nginx is started in the foreground."""
    conf, error_log = coordinator.nginx_conf, coordinator.logs / "gateway.log"
    return [nginx(), "-p", str(coordinator.gateway), "-e", str(error_log), "-c", str(conf)]


def write(coordinator: Coordinator) -> None:
    """Write nginx's configuration, and make the folders that it names."""
    folder = coordinator.gateway / "temporary"
    folder.mkdir(mode=0o700, exist_ok=True)
    _write_known(coordinator)
    # Its secret is for nobody else; the folder is closed to others, too.
    write_atomic(coordinator.nginx_conf, config(coordinator).encode())
    coordinator.nginx_conf.chmod(0o600)


def reload(coordinator: Coordinator, nginx: subprocess.Popen[bytes] | None) -> None:
    """Let the gateway know the approved sites' keys, after they have changed."""
    try:
        changed = _write_known(coordinator)
    except ValueError as error:
        log.error("%s", error)
        return
    if changed and nginx is not None:
        nginx.send_signal(signal.SIGHUP)


def _write_known(coordinator: Coordinator) -> bool:
    """Write the approved keys as nginx reads them; tell whether they have changed."""
    approved = [shown for shown, one in known.keys(coordinator.path).items() if not one.revoked]
    text = "".join(f'"{shown}" "";\n' for shown in sorted(approved)).encode()
    path = coordinator.known_keys
    if path.exists() and path.read_bytes() == text:
        return False
    write_atomic(path, text)
    return True


def check(coordinator: Coordinator) -> None:
    """Raise ValueError when nginx refuses the configuration."""
    done = subprocess.run([*command(coordinator), "-t"], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(
            f"{coordinator.nginx_conf}: nginx refuses it ({done.stderr.strip()[-500:]}); mend "
            "coordinator.toml"
        )


def config(coordinator: Coordinator) -> str:
    """Return nginx's configuration."""
    settings, gateway, logs = coordinator.settings, coordinator.gateway, coordinator.logs
    host, also = settings.listens, ""
    if ":" in host:
        host, also = f"[{host}]", " ipv6only=off" if host == "::" else ""
    temporary = "\n".join(
        f'  {name}_temp_path "{gateway}/temporary/{name}";' for name in _TEMPORARY
    )
    return f"""\
# Written anew at every start from coordinator.toml; change it there.
{_user()}daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid "{gateway}/nginx.pid";
error_log "{logs}/gateway.log" warn;
events {{ worker_connections 8192; }}
http {{
  server_tokens off;
{temporary}
  # A key is 288 characters long.
  map_hash_bucket_size 1024;
  map_hash_max_size 65536;
  # Every site asks several times a second: only what went wrong is logged.
  map $status $wrong {{ ~^[23] 0; default 1; }}
  log_format short '$time_iso8601 $remote_addr $request_method $uri $status $request_length';
  access_log "{logs}/gateway-refused.log" short if=$wrong;
  # An address has few connections for all requests that show no approved site's key.
  map $http_flwr_public_key $stranger {{
    default $binary_remote_addr;
    include "{coordinator.known_keys}";
  }}
  limit_conn_zone $stranger zone=strangers:10m;
  limit_conn_zone $binary_remote_addr zone=connections:10m;
  limit_req_zone $binary_remote_addr zone=requests:10m rate={settings.requests}r/s;
  upstream superlink {{
    server 127.0.0.1:{settings.superlink_port};
    keepalive 64;
    # The SuperLink closes a connection that was idle for 5 s: a question that is on its way at that
    # moment would be answered with 502.
    keepalive_timeout 3s;
  }}
  server {{
    listen {host}:{settings.gateway_port} ssl{also};
    server_name _;
    ssl_certificate "{coordinator.server_cert}";
    ssl_certificate_key "{coordinator.server_key}";
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:10m;
    keepalive_timeout 75s;
    keepalive_requests 100000;
    client_header_timeout 15s;
    client_body_timeout 60s;
    send_timeout 60s;
    # What a site may send on which path, the warden says, which knows whose name to write down.
    client_max_body_size {settings.message_bytes};
    limit_conn connections {settings.connections};
    limit_conn strangers {_STRANGERS};
    limit_conn_status 429;
    limit_req zone=requests burst={2 * settings.requests} nodelay;
    limit_req_status 429;
    add_header {protocol.HEADER} "{protocol.header()}" always;
    # Nothing that a site sends is written to a disk here.
    proxy_request_buffering off;
    proxy_max_temp_file_size 0;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_set_header {HEADER} "";
    proxy_connect_timeout 5s;
    proxy_read_timeout 60s;
    proxy_send_timeout 60s;
    proxy_ssl_verify on;
    proxy_ssl_name localhost;
    proxy_ssl_server_name on;
    proxy_ssl_protocols TLSv1.2 TLSv1.3;
    proxy_ssl_trusted_certificate "{coordinator.ca_cert}";
{_locations(coordinator)}
    location / {{ return 403; }}
  }}
}}
"""


def _locations(coordinator: Coordinator) -> str:
    """Return the paths of sites. A path's own headers replace all that are set above it."""
    shown = secret.read(coordinator.sites_secret)
    return "\n".join(
        f"""\
    location = {path} {{
      limit_except POST {{ deny all; }}
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header {HEADER} "{shown}";
      proxy_pass https://superlink{path};
    }}"""
        for path in SITES
    )


def _user() -> str:
    """Return the line by which nginx's workers give up root, or nothing where it is not root."""
    if os.geteuid() != 0:
        return ""
    for name in ("www-data", "nginx", "nobody"):
        try:
            group = grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name
        except KeyError:
            continue
        return f"user {name} {group};\n"
    return ""


def write_services(coordinator: Coordinator) -> None:
    """Write what keeps the coordinator running: a systemd unit, and a container's description."""
    coordinator.unit.parent.mkdir(mode=0o700, exist_ok=True)
    write_atomic(coordinator.unit, unit(coordinator))
    write_atomic(coordinator.compose, compose(coordinator).encode())


def unit(coordinator: Coordinator) -> bytes:
    """Return a hardened systemd unit that runs the coordinator as the user who made it."""
    program = str(Path(sys.executable).parent / "fedlite")
    user, port = pwd.getpwuid(os.getuid()).pw_name, coordinator.settings.gateway_port
    return systemd_unit(coordinator.unit, program, coordinator.path, user, port)


def systemd_unit(path: Path, program: str, home: Path, user: str, port: int) -> bytes:
    """Return a coordinator's unit, to stand at `path`: `program` serves `home` as `user`.

    port: the gateway's; one below 1024 needs a capability.
    """
    words = [program, "server", "start", "--foreground", "--coordinator", str(home)]
    return units.text(
        path,
        "fedlite coordinator",
        words,
        home,
        user,
        _SETTINGS,
        cores=COORDINATOR.cores,
        tasks=COORDINATOR.tasks,
        capability="CAP_NET_BIND_SERVICE" if port < 1024 else "",
    )


def compose(coordinator: Coordinator) -> str:
    """Return a compose file that runs the coordinator in a container, its folder as a volume."""
    mend = "set FEDLITE_KIT to a kit, made by fedlite server kit FOLDER --download"
    return container.compose(
        COORDINATOR,
        build=f"${{FEDLITE_KIT:?{mend}}}",
        user=f"{os.getuid()}:{os.getgid()}",
        volume=".",
        port=coordinator.settings.gateway_port,
    )
