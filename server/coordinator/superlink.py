"""The coordinator's processes: Flower's SuperLink and the gateway, started, watched and ended.

One process supervises both and keeps the runs going (`jobs`). It holds a lock on
`coordinator.pid`, which ends with it, so there is never a second one.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from typing import IO

from fedlite.deployment.signals import signals
from server.coordinator import authority, gateway, jobs, known, launcher, processes, secret, setup
from server.coordinator.control import Control
from server.coordinator.folder import Coordinator
from server.coordinator.service import Service, open_log
from server.deployment import VARIABLE

log = logging.getLogger("fedlite.coordinator")

# By which what the SuperLink has started is found again; nobody sets it by hand.
_MARKER = "FEDLITE_SUPERVISED"
START_SECONDS = 120.0
_HOUR = 3600.0
# A renewed certificate waits so long for a pause between runs; the old one has 30 days left.
_PATIENCE = 20 * 24 * _HOUR


def environment(coordinator: Coordinator) -> dict[str, str]:
    """Return what the SuperLink and all that it starts find in their environment."""
    # Flower starts its own programs by name, and must find ours, which show the secret.
    return os.environ | {
        "PATH": str(coordinator.programs) + os.pathsep + os.environ.get("PATH", os.defpath),
        VARIABLE: str(coordinator.path),
        _MARKER: str(coordinator.path),
        "FLWR_HOME": str(coordinator.flwr_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        # At INFO it logs every request, and every site asks several times a second.
        "FLWR_LOG_LEVEL": "WARNING",
        "PYTHONUNBUFFERED": "1",
    }


def command(coordinator: Coordinator) -> list[str]:
    """Return how the SuperLink is started, with its warden."""
    program = (
        "from fedlite.rooms import open_rooms; open_rooms(); "
        "from server.coordinator.warden import main; main()"
    )
    options = {
        "--ssl-ca-certfile": coordinator.ca_cert,
        "--ssl-certfile": coordinator.server_cert,
        "--ssl-keyfile": coordinator.server_key,
        "--database": coordinator.database,
        "--host": "127.0.0.1",
        "--port": coordinator.settings.superlink_port,
        "--isolation": "subprocess",
    }
    return [
        *(sys.executable, "-P", "-c", program, "flower-superlink"),
        *(str(part) for pair in options.items() for part in pair),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]


# Is it running? ---------------------------------------------------------------------------------


def running(coordinator: Coordinator) -> int | None:
    """Return the number of the process that supervises this coordinator, or None."""
    try:
        with coordinator.pid_file.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        text = coordinator.pid_file.read_text(encoding="ascii").strip()
        return int(text) if text.isdigit() else 0
    return None


def answers(coordinator: Coordinator) -> bool:
    """Tell whether a site would reach the SuperLink: through the gateway, its TLS and its paths."""
    settings = coordinator.settings
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.listens, settings.listens)  # noqa: S104
    context = ssl.create_default_context(cafile=str(coordinator.ca_cert))
    try:
        with socket.create_connection((here, settings.gateway_port), timeout=5) as plain:
            connection = http.client.HTTPSConnection("localhost", timeout=5)
            connection.sock = context.wrap_socket(plain, server_hostname="localhost")
            kind = {"Content-Type": "application/protobuf"}
            connection.request("POST", "/v1/fleet/pull-messages", body=b"", headers=kind)
            # 502 and 504 are the gateway's own words when nobody is behind it.
            return connection.getresponse().status not in (502, 503, 504)
    except (OSError, http.client.HTTPException):
        return False


def _lock(coordinator: Coordinator) -> IO[bytes]:
    """Return the locked pid file; raises ValueError when another process holds the lock."""
    file = os.fdopen(os.open(coordinator.pid_file, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    # Whoever only asks holds a shared lock for an instant.
    for _ in range(20):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            time.sleep(0.05)
    file.close()
    raise ValueError(
        f"{coordinator.path}: the coordinator is running already (process "
        f"{running(coordinator)}); stop it with fedlite server stop"
    )


# Starting and ending ----------------------------------------------------------------------------


def start(coordinator: Coordinator) -> int:
    """Start the coordinator in the background, wait until it answers, return its process number.

    Raises ValueError or OSError when it cannot start, before anything else has, and RuntimeError,
    with the end of its log, when it dies or does not answer.
    """
    with _lock(coordinator):
        prepare(coordinator)
    path = coordinator.logs / "coordinator.log"
    program = "from fedlite.cli import main; main()"
    words = ["server", "start", "--foreground", "--coordinator", str(coordinator.path)]
    with open_log(path) as output:
        begin = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=coordinator.path,
            start_new_session=True,
        )
    until = time.monotonic() + START_SECONDS
    while process.poll() is None:
        if answers(coordinator) and running(coordinator) == process.pid:
            return process.pid
        if time.monotonic() > until:
            stop(coordinator)
            break
        time.sleep(0.2)
    with path.open("rb") as file:
        file.seek(begin)
        told = file.read().decode("utf-8", "replace").strip()[-1000:]
    raise RuntimeError(
        f"the coordinator did not start: {told or 'it did not answer'}; see {coordinator.logs}"
    )


def stop(coordinator: Coordinator) -> bool:
    """End the coordinator and everything it has started; returns whether anything ran."""
    pid = running(coordinator)
    if pid:
        processes.end(pid)
    left = leftovers(coordinator)
    processes.kill(left)
    return bool(pid or left)


def prepare(coordinator: Coordinator) -> None:
    """Do all that can fail before anything is started, after what an earlier start has left ended.

    Raises ValueError with the mend.
    """
    settings = coordinator.settings
    authority.ensure(coordinator)
    setup.renew_invitation(coordinator)
    gateway.nginx()
    processes.kill(leftovers(coordinator))
    _check_port("bind, port", settings.listens, settings.gateway_port)
    _check_port("superlink_port", "127.0.0.1", settings.superlink_port)
    secret.renew(coordinator)
    launcher.install(coordinator.programs, coordinator.control_secret)
    gateway.write(coordinator)
    gateway.check(coordinator)


def _check_port(keys: str, host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            # A program that uses the port on IPv4 alone is in the way as well.
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            mend = {
                errno.EADDRINUSE: "another program uses it; stop that, or choose another port",
                errno.EADDRNOTAVAIL: "no address of this machine; choose one of them",
                errno.EACCES: "ports below 1024 need root or systemd; choose a higher one",
            }.get(error.errno or 0, str(error.strerror))
            at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            raise ValueError(
                f"coordinator.toml: {keys}: must be free to listen on, got {at}: {mend}"
            ) from None


def leftovers(coordinator: Coordinator) -> list[int]:
    """Return the processes of an earlier start that have outlived their supervisor."""
    log_files = str(coordinator.logs / "gateway")
    return descendants(coordinator) + [
        pid
        for pid in processes.others()
        if processes.read(pid, "cmdline").startswith(b"nginx:")
        and any(target.startswith(log_files) for target in processes.open_files(pid))
    ]


def descendants(coordinator: Coordinator) -> list[int]:
    """Return the SuperLink and all that it has started, in whatever session and under whatever
    parent: they inherit its environment.
    """
    marker = f"{_MARKER}={coordinator.path}".encode()
    return [
        pid for pid in processes.others() if marker in processes.read(pid, "environ").split(b"\0")
    ]


# Supervising ------------------------------------------------------------------------------------


def supervise(coordinator: Coordinator) -> None:
    """Run the coordinator in this process until SIGTERM or SIGINT.

    Raises ValueError when it cannot start.
    """
    with _lock(coordinator) as pid_file:
        prepare(coordinator)
        pid_file.truncate(0)
        pid_file.write(f"{os.getpid()}\n".encode())
        pid_file.flush()
        with signals() as stopping:
            _run(coordinator, stopping)


def _run(coordinator: Coordinator, stopping: threading.Event) -> None:
    logs = coordinator.logs
    superlink = Service(
        "superlink", command(coordinator), logs / "superlink.log", environment(coordinator)
    )
    # It waits for connections that nobody closes; its database stands a kill.
    superlink.patience = 2.0
    # Not the SuperLink's environment: what ends with that one must not end the gateway.
    plain = {"PATH": os.environ.get("PATH", os.defpath)}
    nginx = Service("gateway", gateway.command(coordinator), logs / "gateway.log", plain)
    keeper = jobs.Keeper(coordinator, Control(coordinator))
    threading.Thread(target=_keep, args=(keeper, stopping), daemon=True).start()
    coordinator.journal.write("start", address=coordinator.settings.address)
    next_look, renewed = time.monotonic() + _HOUR, 0.0
    stamp = known.stamp(coordinator.path)
    try:
        while not stopping.wait(0.1):
            if superlink.dead:
                # Its runs must be gone before another SuperLink can start them again.
                processes.kill(descendants(coordinator))
                keeper.superlink_died()
            try:
                superlink.watch()
                # Not before somebody is behind it: every question until then would be an error in
                # its log, that of `start` included.
                if nginx.process is not None or _listens(coordinator.settings.superlink_port):
                    nginx.watch()
            except OSError as error:
                # No room for a log, no memory: what passes must not end the one that watches.
                log.error("a program could not be started: %s", error)
                stopping.wait(1.0)
            if stamp != (stamp := known.stamp(coordinator.path)):
                gateway.reload(coordinator, nginx.process)
            now = time.monotonic()
            if now < next_look:
                continue
            next_look = now + _HOUR
            if authority.ensure(coordinator):
                renewed = now
            if renewed and (_idle(coordinator) or now - renewed > _PATIENCE):
                # Both read the certificate only when they start.
                renewed = 0.0
                nginx.end()
                superlink.end()
                processes.kill(descendants(coordinator))
                keeper.superlink_died()
    finally:
        stopping.set()
        nginx.end()
        superlink.end()
        processes.kill(leftovers(coordinator))
        coordinator.journal.write("stop")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _idle(coordinator: Coordinator) -> bool:
    return all(job.state != jobs.RUNNING for job in jobs.load_all(coordinator))


def _keep(keeper: jobs.Keeper, stopping: threading.Event) -> None:
    while not stopping.wait(1.0):
        try:
            keeper.tick()
        except ConnectionError as error:
            log.info("%s", error)
        except Exception:
            # Whatever is wrong with one run now, the others must be kept going.
            log.exception("the runs could not be looked after")
