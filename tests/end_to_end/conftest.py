"""A coordinator, its gateway and its sites, as real processes on loopback, driven as people do."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from simulations.benchmarks.lab import FEDLITE, free_port, wait_for

HOSPITALS = ("cleveland", "hungary", "switzerland", "va-long-beach")


class Partner:
    """A site: its folder, and its process when it runs."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name, self.home = lab, name, lab.root / name
        self.process: subprocess.Popen[bytes] | None = None
        # Of the release that it has installed.
        self.program = FEDLITE
        # What its machine has set otherwise than the coordinator's.
        self.environment: dict[str, str] = {}

    @property
    def log(self) -> str:
        path = self.lab.root / f"{self.name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        with (self.lab.root / f"{self.name}.log").open("ab") as output:
            self.process = subprocess.Popen(
                [self.program, "site", "start", self.home],
                stdout=output,
                stderr=subprocess.STDOUT,
                # Each partner stands for a machine of its own, which knows nothing of the others'.
                env=self.lab.environment
                | {"FEDLITE_REGISTER": str(self.lab.root / f"register-{self.name}")}
                | self.environment,
                start_new_session=True,
            )

    def wait_online(self, seconds: float = 90.0) -> None:
        def online() -> bool:
            assert self.process is not None and self.process.poll() is None, self.log
            return self.status().get("state") == "connected"

        wait_for(f"{self.name} on line", online, seconds)

    def status(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.home / "status.json").read_bytes())
        except (OSError, ValueError):
            return {}
        running = self.process is not None and found["pid"] == self.process.pid
        return found if running else {}

    def kill(self) -> None:
        """End it as a power cut would: at once, its workers too."""
        assert self.process is not None
        children = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True
        ).stdout.split()
        self.process.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def ledger(self) -> list[dict[str, Any]]:
        path = self.home / "ledgers" / "heart-disease.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]


class Lab:
    """One coordinator and its partners below `root`."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        self.coordinator = root / "coordinator"
        self.partners: dict[str, Partner] = {}
        # Of the coordinator's release, and of what its machine does.
        self.program = FEDLITE
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("FLWR_")}
        self.environment |= {"FEDLITE_COORDINATOR_DIR": str(self.coordinator), "COLUMNS": "200"}
        self.environment["FEDLITE_REGISTER"] = str(root / "register")

    def fedlite(
        self, *words: object, code: int = 0, seconds: float = 120.0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(self.program), *map(str, words)],
            capture_output=True,
            text=True,
            env=self.environment | environment,
            cwd=self.root,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: object, seconds: float = 120.0, **environment: str) -> Any:
        return json.loads(self.fedlite(*words, "--json", seconds=seconds, **environment).stdout)

    def init(self, name: str = "lab") -> None:
        made = self.json(
            "server", "init", "--name", name, "--address", f"localhost:{self.port}",
            "--superlink-port", free_port(),
        )  # fmt: skip
        self.fingerprint = made["fingerprint"]
        self.invitation = self.coordinator / "invitation.json"

    def start(self) -> None:
        self.fedlite("server", "start")

    def add(
        self, name: str, *words: object, part: str = "", data: str = "heart-disease"
    ) -> Partner:
        """Enrol a site, as both operators would."""
        partner = self.partners[name] = Partner(self, name)
        chosen = (*words, *(("--part", part) if part else ()))
        self.fedlite(
            "site", "init", partner.home, "--name", name, "--data", data, "--epsilon", 20, *chosen
        )
        joined = self.json(
            "site", "join", partner.home, self.invitation, "--fingerprint", self.fingerprint
        )
        request = partner.home / "request.json"
        self.fedlite("server", "approve", request, "--fingerprint", joined["node_key"])
        return partner

    def partner(self, name: str) -> Partner:
        """Return a site whose folder somebody else makes."""
        return self.partners.setdefault(name, Partner(self, name))

    def bundle(self, scenario: str, *words: object) -> Path:
        path = self.root / f"{Path(scenario).stem}.fab"
        path.unlink(missing_ok=True)
        self.fedlite("server", "bundle", scenario, *words, "--out", path, seconds=600)
        return path

    def enrol(self, names: Sequence[str]) -> None:
        """Enrol several sites, each the part of its name, at the same time as people would."""
        with ThreadPoolExecutor(len(names)) as threads:
            list(threads.map(lambda name: self.add(name, part=name), names))

    def approve(self, bundle: Path, *words: object) -> None:
        def one(partner: Partner) -> None:
            self.fedlite("site", "approve", partner.home, bundle, "--yes", *words)

        with ThreadPoolExecutor(len(self.partners)) as threads:
            list(threads.map(one, self.partners.values()))

    def submit(self, scenario: str, *words: object, seconds: float = 240.0) -> dict[str, Any]:
        """Run to the end; return the summary."""
        found: dict[str, Any] = self.json("server", "submit", scenario, *words, seconds=seconds)
        return found

    def detached(self, scenario: str, *words: object) -> str:
        given = ("server", "submit", scenario, *words, "--detach")
        return str(self.json(*given, seconds=600)["name"])

    def job(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.coordinator / "jobs" / f"{name}.json").read_bytes()))

    def rounds(self, name: str) -> list[dict[str, Any]]:
        path = self.coordinator / "runs" / name / "rounds.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def wait_round(self, name: str, number: int, seconds: float = 120.0) -> None:
        wait_for(f"round {number} of {name}", lambda: len(self.rounds(name)) >= number, seconds)

    def wait_end(self, name: str, seconds: float = 240.0) -> dict[str, Any]:
        job = wait_for(
            f"the end of {name}",
            lambda: j if (j := self.job(name))["state"] != "running" else None,
            seconds,
        )
        return dict(job)

    def journal(self, folder: Path) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for path in sorted((folder / "audit").glob("*.jsonl"))
            for line in path.read_text().splitlines()
        ]

    def logs(self) -> str:
        paths = [*(self.coordinator / "logs").glob("*"), *self.root.glob("*.log")]
        return "\n".join(f"== {p}\n{p.read_text(errors='replace')[-3000:]}" for p in paths)

    def close(self) -> None:
        for partner in self.partners.values():
            if partner.process is not None and partner.process.poll() is None:
                partner.process.terminate()
        for partner in self.partners.values():
            if partner.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    partner.process.wait(20)
                    continue
                partner.kill()
        if (self.coordinator / "coordinator.toml").exists():
            self.fedlite("server", "stop")


@pytest.fixture(scope="session")
def needs_nginx() -> None:
    if shutil.which("nginx") is None and not Path("/usr/sbin/nginx").exists():
        if os.environ.get("FEDLITE_REQUIRE_DATA") == "1":
            pytest.fail("nginx is needed: apt-get install nginx-light")
        pytest.skip("nginx is not installed")


@pytest.fixture
def lab(tmp_path: Path, needs_nginx: None) -> Iterator[Lab]:
    made = Lab(tmp_path)
    try:
        made.init()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def running_lab(tmp_path_factory: pytest.TempPathFactory, needs_nginx: None) -> Iterator[Lab]:
    """A coordinator that runs, for all tests of a module; its sites are up to them."""
    made = Lab(tmp_path_factory.mktemp("lab"))
    try:
        made.init()
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def hospitals() -> Sequence[str]:
    return HOSPITALS


@pytest.fixture(scope="session")
def wait() -> Callable[..., Any]:
    """Return what waits for a condition, for as long as a busy machine may need."""
    return functools.partial(wait_for, seconds=240.0)
