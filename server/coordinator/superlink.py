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
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from server.coordinator import authority, gateway, jobs
from server.coordinator.control import Control
from server.coordinator.folder import Coordinator

log = logging.getLogger("fedlite.coordinator")

VARIABLE = "FEDLITE_COORDINATOR"
# By which what the SuperLink has started is found again; nobody sets it by hand.
_MARKER = "FEDLITE_SUPERVISED"
START_SECONDS = 120.0
_TERM_SECONDS = 10.0
_LONGEST_PAUSE = 60.0
_LOG_BYTES = 50_000_000
_HOUR = 3600.0
# A renewed certificate waits so long for a pause between runs; the old one has 30 days left.
_PATIENCE = 20 * 24 * _HOUR


def environment(coordinator: Coordinator) -> dict[str, str]:
    """Return what the SuperLink and all that it starts find in their environment."""
    # Flower starts its own programs by name, and must find those of this installation.
    programs = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": programs + os.pathsep + os.environ.get("PATH", os.defpath),
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
    """Return how the SuperLink is started; raises ValueError when it is not installed."""
    programs = str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", os.defpath)
    program = shutil.which("flower-superlink", path=programs)
    if program is None:
        raise ValueError("flower-superlink: must be installed; install fedlite again")
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
        program,
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
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.bind, settings.bind)  # noqa: S104
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
    with _log(path) as output:
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
        _end(pid)
    left = leftovers(coordinator)
    _kill(left)
    return bool(pid or left)


def prepare(coordinator: Coordinator) -> None:
    """Do all that can fail before anything is started, after what an earlier start has left ended.

    Raises ValueError with the mend.
    """
    settings = coordinator.settings
    authority.ensure(coordinator)
    gateway.nginx()
    command(coordinator)
    _kill(leftovers(coordinator))
    _check_port("bind, port", settings.bind, settings.gateway_port)
    _check_port("superlink_port", "127.0.0.1", settings.superlink_port)
    gateway.write(coordinator)
    gateway.check(coordinator)


def _check_port(keys: str, host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            mend = {
                errno.EADDRINUSE: "another program uses it; stop that, or choose another port",
                errno.EADDRNOTAVAIL: "no address of this machine; choose one of them",
                errno.EACCES: "ports below 1024 need root or systemd; choose a higher one",
            }.get(error.errno or 0, str(error.strerror))
            raise ValueError(
                f"coordinator.toml: {keys}: must be free to listen on, got {host}:{port}: {mend}"
            ) from None


def leftovers(coordinator: Coordinator) -> list[int]:
    """Return the processes of an earlier start that have outlived their supervisor."""
    log_files = str(coordinator.logs / "gateway")
    return descendants(coordinator) + [
        pid
        for pid in _processes()
        if _read(pid, "cmdline").startswith(b"nginx:")
        and any(target.startswith(log_files) for target in _open_files(pid))
    ]


def descendants(coordinator: Coordinator) -> list[int]:
    """Return the SuperLink and all that it has started, in whatever session and under whatever
    parent: they inherit its environment.
    """
    marker = f"{_MARKER}={coordinator.path}".encode()
    return [pid for pid in _processes() if marker in _read(pid, "environ").split(b"\0")]


def _processes() -> list[int]:
    found = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [pid for pid in found if pid != os.getpid() and _alive(pid)]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""  # it has ended meanwhile, or is another user's


def _open_files(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            found.append(os.readlink(link))
        except OSError:
            continue  # closed meanwhile
    return found


def _kill(pids: list[int]) -> None:
    for pid in pids:
        _signal(pid, signal.SIGKILL)
    until = time.monotonic() + _TERM_SECONDS
    while any(_alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)


def _end(pid: int) -> None:
    """End a process with its children's time to end, then without."""
    _signal(pid, signal.SIGTERM)
    until = time.monotonic() + 3 * _TERM_SECONDS
    while _alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    if _alive(pid):
        _kill([pid])


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        log.debug("process %d has ended already", pid)


def _alive(pid: int) -> bool:
    # The name in brackets may hold anything, the fields after it do not.
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return bool(fields) and fields[0] != b"Z"


# Supervising ------------------------------------------------------------------------------------


@dataclass
class Service:
    """A program that must always run; it pauses the longer, the more often it dies young."""

    name: str
    command: list[str]
    log: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    failures: int = 0
    patience: float = _TERM_SECONDS

    @property
    def dead(self) -> bool:
        """Whether it was started and has ended by itself."""
        return self.process is not None and self.process.poll() is not None

    def watch(self) -> None:
        """Start the program where it does not run and is due."""
        now = time.monotonic()
        if self.process is not None and self.dead:
            self.failures = 0 if now - self.started > _LONGEST_PAUSE else self.failures + 1
            pause = min(_LONGEST_PAUSE, 0.25 * 2**self.failures)
            code = self.process.returncode
            log.warning("%s ended (%s); it starts again in %.1f s", self.name, code, pause)
            self.end()
            self.due = now + pause
        if self.process is not None or now < self.due:
            return
        with _log(self.log) as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(self.environment),
                start_new_session=True,
                umask=0o077,
            )
        self.started = now

    def end(self) -> None:
        """End the program and what is left of its process group."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(self.patience)
        except subprocess.TimeoutExpired:
            log.warning("%s does not end; it is killed", self.name)
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            log.debug("nothing is left of %s", self.name)
        self.process.wait()
        self.process = None


def supervise(coordinator: Coordinator) -> None:
    """Run the coordinator in this process until SIGTERM or SIGINT.

    Raises ValueError when it cannot start.
    """
    with _lock(coordinator) as pid_file:
        prepare(coordinator)
        pid_file.truncate(0)
        pid_file.write(f"{os.getpid()}\n".encode())
        pid_file.flush()
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
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
    try:
        while not stopping.wait(0.1):
            if superlink.dead:
                # Its runs must be gone before another SuperLink can start them again.
                _kill(descendants(coordinator))
                keeper.superlink_died()
            try:
                superlink.watch()
                nginx.watch()
            except OSError as error:
                # No room for a log, no memory: what passes must not end the one that watches.
                log.error("a program could not be started: %s", error)
                stopping.wait(1.0)
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
                _kill(descendants(coordinator))
                keeper.superlink_died()
    finally:
        stopping.set()
        nginx.end()
        superlink.end()
        _kill(leftovers(coordinator))
        coordinator.journal.write("stop")


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


def _log(path: Path) -> IO[bytes]:
    """Open a log to append to; one that has grown long is put aside first."""
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
