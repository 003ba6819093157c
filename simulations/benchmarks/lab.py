"""A coordinator on loopback, driven by its commands, and what its processes cost by `/proc`."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAMS = Path(sys.executable).parent
FEDLITE = PROGRAMS / "fedlite"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# What is in a process's command line, and what it is called in a table.
_ROLES = {
    "serverapp": "serverapp",
    "superexec": "superexec",
    "superlink": "superlink",
    "nginx": "nginx",
    "fedlite": "supervisor",
}


@dataclass(frozen=True)
class Process:
    """One process. cpu: seconds, with those of children that have ended. rss: bytes."""

    pid: int
    parent: int
    cpu: float
    rss: int
    role: str


def parse(pid: int, stat: str, command: str) -> Process:
    """Return the process that `/proc/PID/stat` and `cmdline` describe.

    >>> parse(7, "7 (a) b) S 3 " + "0 " * 9 + "100 50 0 50 " + "0 " * 6 + "2 0", "x").parent
    3
    """
    # The name in brackets may hold anything, the fields after it do not.
    fields = stat.rpartition(")")[2].split()
    cpu = sum(map(int, fields[11:15])) / _TICKS
    role = next((told for part, told in _ROLES.items() if part in command), "other")
    return Process(pid, int(fields[1]), cpu, int(fields[21]) * _PAGE, role)


def family(pids: Iterable[int]) -> list[Process]:
    """Return these processes and all that descend from them."""
    found: dict[int, Process] = {}
    for path in Path("/proc").glob("[0-9]*"):
        # A process may end while it is looked at.
        with contextlib.suppress(OSError, IndexError):
            command = (
                (path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            )
            pid = int(path.name)
            found[pid] = parse(pid, (path / "stat").read_text(errors="replace"), command)
    wanted = set(pids)
    while more := {p.pid for p in found.values() if p.parent in wanted} - wanted:
        wanted |= more
    return [found[pid] for pid in sorted(wanted & found.keys())]


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the processor seconds that these processes and their descendants have used."""
    return sum(process.cpu for process in family(pids))


def rss_by_role(pids: Iterable[int]) -> dict[str, int]:
    """Return the resident bytes of these processes and their descendants, by what they are."""
    found: dict[str, int] = {}
    for process in family(pids):
        found[process.role] = found.get(process.role, 0) + process.rss
    return found


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return what the condition gives once it holds; raises TimeoutError after `seconds`."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)
    return found


def lines(path: Path) -> int:
    """Return how many lines a file has; none when it is not there yet."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


class Lab:
    """A coordinator below `root`; leaving the context ends everything that was started."""

    def __init__(self, root: Path) -> None:
        """Choose ports; nothing is made yet."""
        self.root, self.coordinator = root, root / "coordinator"
        self.address = f"localhost:{free_port()}"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("FLWR_")}
        self.environment |= {"FEDLITE_COORDINATOR_DIR": str(self.coordinator), "COLUMNS": "200"}
        self.pid, self.fingerprint = 0, ""
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Lab:
        """Make the coordinator's folder and start it."""
        try:
            made = self.json(
                *("server", "init", "--name", "lab", "--address", self.address),
                *("--superlink-port", free_port()),
            )
            self.fingerprint = made["fingerprint"]
            self.pid = int(self.json("server", "start")["pid"])
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End everything."""
        self.close()

    def close(self) -> None:
        """End what `start` has started, then the coordinator."""
        end(self._started)
        if (self.coordinator / "coordinator.toml").exists():
            self.fedlite("server", "stop")

    def fedlite(self, *words: object, seconds: float = 300.0) -> str:
        """Run one command to its end and return what it printed; raises RuntimeError."""
        command = [str(FEDLITE), *map(str, words)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.root,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def json(self, *words: object) -> Any:
        """Run one command and return the JSON object that it prints."""
        return json.loads(self.fedlite(*words, "--json"))

    def start(self, *words: object) -> subprocess.Popen[bytes]:
        """Start one command that goes on until the context is left."""
        process = start([FEDLITE, *words], self.environment, self.root)
        self._started.append(process)
        return process

    def rounds(self, name: str) -> Path:
        """Return the file in which a run writes down its rounds."""
        return self.coordinator / "runs" / name / "rounds.jsonl"


def start(
    words: Iterable[object], environment: dict[str, str], root: Path
) -> subprocess.Popen[bytes]:
    """Start a program, whose output goes to `root/output.log`."""
    with (root / "output.log").open("ab") as output:
        return subprocess.Popen(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=root,
            start_new_session=True,
        )


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End processes, first with time to do so."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tail(root: Path) -> str:
    """Return the end of what was printed, for an error."""
    path = root / "output.log"
    return path.read_text(errors="replace")[-2000:] if path.exists() else ""
