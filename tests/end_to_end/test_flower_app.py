"""The app in examples/flower_app: two lines from plain Flower, on Ray and on real SuperNodes."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from simulations.benchmarks.lab import PROGRAMS, end, free_port, start, wait_for
from simulations.ray import flwr_run

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "flower_app"
LINES = {
    "client_app.py": ("ClientApp(mods=[fedlite.flower.compress()])", "ClientApp()"),
    "server_app.py": (
        'fedlite.flower.Compressed(FedAvg(fraction_train=config["fraction-train"]))',
        'FedAvg(fraction_train=config["fraction-train"])',
    ),
}
IMPORT = "import fedlite.flower\n"
CONFIG = {"data": "digits", "num-server-rounds": 2, "batch-norm": True, "fraction-train": 1.0}


def plain(text: str, name: str) -> str:
    """Return a file of the app as it was before."""
    small, before = LINES[name]
    assert text.count(small) == 1 and text.count(IMPORT) == 1
    return text.replace(small, before).replace(IMPORT, "")


def app(folder: Path, *, compressed: bool) -> Path:
    made = folder / "flower_app"
    shutil.copytree(EXAMPLE, made, ignore=shutil.ignore_patterns("__pycache__"))
    for name in LINES if not compressed else ():
        file = made / "flower_app" / name
        file.write_text(plain(file.read_text(encoding="utf-8"), name), encoding="utf-8")
    return made


@pytest.mark.parametrize("name", LINES)
def test_one_line_a_side_and_its_import_are_all_that_differs(name: str) -> None:
    after = (EXAMPLE / "flower_app" / name).read_text(encoding="utf-8")
    before = plain(after, name)
    assert "fedlite" not in before
    diff = [*difflib.unified_diff(before.splitlines(), after.splitlines(), n=0)][2:]
    changed = [line for line in diff if line[0] in "+-"]
    assert [line for line in changed if line.startswith("-")] == [
        line for line in changed if line.startswith("-") and LINES[name][1] in line
    ]
    added = sorted(line[1:].strip() for line in changed if line.startswith("+"))
    assert (len(added) == 2 and added[1] == IMPORT.strip()) or added[0] == IMPORT.strip()
    assert len(changed) == 3


def accuracy(told: str) -> float:
    (found,) = re.findall(r"accuracy: ([0-9.]+)$", told, re.M)
    return float(found)


@pytest.mark.ray
@pytest.mark.long
def test_it_runs_on_flower_s_simulation_engine(tmp_path: Path) -> None:
    """Ray's processes serialise messages and states as a network would."""
    folder = app(tmp_path, compressed=True)
    server, (line, _) = folder / "flower_app" / "server_app.py", LINES["server_app.py"]
    text = server.read_text(encoding="utf-8")
    server.write_text(text.replace(line, f"{line[:-1]}, downlink=True)"), encoding="utf-8")
    told = "\n".join(flwr_run(folder, CONFIG, 3, state=tmp_path / "state"))
    assert accuracy(told) > 0.15, told
    assert "fedlite: up recommended, down differences" in told
    assert "which they lost" not in told
    assert told.count("aggregate_train: Received 3 results and 0 failures") == 2, told
    assert "came as Flower's own" not in told


class Deployed:
    """A SuperLink and SuperNodes of Flower's own, without TLS, as processes on loopback."""

    def __init__(self, root: Path, clients: int) -> None:
        self.root, self.clients = root, clients
        self.address = f"127.0.0.1:{free_port()}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("FLWR_")} | {
            "FLWR_HOME": str(root / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }

    def __enter__(self) -> Deployed:
        (self.root / "home").mkdir()
        (self.root / "home" / "config.toml").write_text(
            f'[superlink]\ndefault = "lab"\n[superlink.lab]\naddress = "{self.address}"\n'
            "insecure = true\n"
        )
        host, _, port = self.address.partition(":")
        self._begin("flower-superlink", "--insecure", "--host", host, "--port", port)
        wait_for("SuperLink", lambda: self._listens(host, int(port)), 120)
        for number in range(self.clients):
            self._begin(
                *("flower-supernode", "--insecure", "--superlink", self.address),
                *("--host", host, "--port", free_port()),
                *("--node-config", f"partition-id={number} num-partitions={self.clients}"),
            )
        return self

    def __exit__(self, *_: object) -> None:
        end(self.processes)

    def _begin(self, program: str, *words: object) -> None:
        self.processes.append(start([PROGRAMS / program, *words], self.environment, self.root))

    @staticmethod
    def _listens(host: str, port: int) -> bool:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            return False
        return True

    def flwr(self, *words: object) -> str:
        done = subprocess.run(
            [str(PROGRAMS / "flwr"), *map(str, words)],
            env=self.environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=500,
            check=True,
        )
        return done.stdout

    def run(self, folder: Path, config: str) -> tuple[str, dict[str, Any]]:
        """Return a run's log, and what Flower says of the run."""
        told = self.flwr("run", folder, "lab", "--run-config", config, "--stream")
        (run,) = json.loads(self.flwr("ls", "lab", "--format", "json"))["runs"]
        return told, run


@pytest.mark.faults
def test_it_runs_on_a_real_superlink_and_its_bytes_are_flower_s_own(tmp_path: Path) -> None:
    """Minutes: Flower starts a process for each message, and asks every three seconds."""
    config = 'data="digits" num-server-rounds=3 batch-norm=true fraction-train=1.0'
    found = {}
    for compressed in (False, True):
        root = tmp_path / str(compressed)
        root.mkdir()
        with Deployed(root, 2) as lab:
            found[compressed] = lab.run(app(root, compressed=compressed), config)
    for told, _ in found.values():
        assert told.count("aggregate_train: Received 2 results and 0 failures") == 3, told
        assert accuracy(told) > 0.15
    sent = {key: run["network-traffic"]["inbound-bytes"] for key, (_, run) in found.items()}
    # Evaluation, registration and Flower's own heads are in it, too.
    print(sent, {key: run["network-traffic"]["outbound-bytes"] for key, (_, run) in found.items()})
    assert sent[True] < sent[False] / 10
