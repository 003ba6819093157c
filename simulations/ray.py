"""The same apps under Flower's own simulation engine: `flwr run`, a SuperLink, and Ray.

A SuperLink of our own on a free port runs for just this run, with its home in a temporary folder,
so nothing of the user's Flower set-up is read, changed or left running.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from fedlite.registry import is_module
from fedlite.scenario import Scenario, own_code

_START_SECONDS = 90.0


def run_with_ray(scenario: Scenario, directory: Path, *, quiet: bool) -> None:
    """Run `scenario` into `directory` by `flwr run`.

    With RAY_ADDRESS in the environment, as Ray itself reads it, it is played on that cluster, whose
    machines must all see `directory`, this installation and the temporary folder: what sites
    remember, and the app, are read there.

    Raises RuntimeError when Ray is not installed or the run fails, with the end of its log.
    """
    if importlib.util.find_spec("ray") is None:
        raise RuntimeError(
            "--engine ray: needs Flower's simulation extra, which is not installed; "
            "pip install 'fedlite[ray]'"
        )
    app = Path(__file__).resolve().parent.parent
    tables = scenario.to_dict() | {"run": {"directory": str(directory), "quiet": quiet}}
    # Where sites keep their state: beside the server's checkpoint.
    state = directory / "checkpoint"
    # A module that this process finds is found by the others, too.
    found = sys.path if any(map(is_module, own_code(scenario).values())) else ()
    told = flwr_run(app, tables, scenario.federation.sites, state=state, path=found, quiet=quiet)
    # `flwr run` exits with 0 even when the run failed; only the summary proves it did not.
    if not (directory / "summary.json").exists():
        end = "\n".join(told[-25:])
        raise RuntimeError(f"flwr run: the run did not finish; the end of its log:\n{end}")


def flwr_run(
    app: Path,
    config: Mapping[str, Any],
    clients: int,
    *,
    state: Path,
    path: Sequence[str] = (),
    quiet: bool = True,
) -> list[str]:
    """Run the app in the folder `app` on Ray with this run config, and return the end of its log.

    state: what becomes XDG_STATE_HOME of all its processes. path: where they find modules, too.
    """
    with tempfile.TemporaryDirectory(prefix="fedlite-ray-") as folder:
        home = Path(folder)
        settings = home / "run.toml"
        settings.write_text(tomli_w.dumps(config), encoding="utf-8")
        environment = os.environ | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "XDG_STATE_HOME": str(state),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        if path:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        with _superlink(home, environment) as address:
            (home / "config.toml").write_text(
                tomli_w.dumps(
                    {
                        "superlink": {
                            "default": "here",
                            "here": {"address": address, "insecure": True},
                        }
                    }
                ),
                encoding="utf-8",
            )
            command = ["flwr", "run", str(app), "here", "--stream"]
            command += ["--run-config", str(settings)]
            resources = f"num-supernodes={clients} client-resources-num-cpus=1"
            resources += " client-resources-num-gpus=0.0"
            if not os.environ.get("RAY_ADDRESS"):
                # A cluster that is there has the processors that it has.
                resources += f" init-args-num-cpus={os.cpu_count() or 1}"
            command += ["--federation-config", resources]
            return _follow(command, environment, quiet)


def _follow(command: list[str], environment: dict[str, str], quiet: bool) -> list[str]:
    """Run the command to its end, pass on its progress lines, and return its last lines."""
    tail: deque[str] = deque(maxlen=300)
    if not quiet:
        print("starting a SuperLink and Ray", file=sys.stderr)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        for line in process.stdout or ():
            tail.append(line.rstrip())
            if not quiet and line.startswith("round "):
                print(line.rstrip(), file=sys.stderr)
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
    return list(tail)


@contextmanager
def _superlink(home: Path, environment: dict[str, str]) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = home / "superlink.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [
                "flower-superlink",
                "--insecure",
                "--simulation",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--disable-runtime-dependency-installation",
            ],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            _wait(process, port, log)
            yield f"127.0.0.1:{port}"
        finally:
            # The whole group: the SuperLink starts helpers, and Ray starts its own.
            os.killpg(process.pid, 15)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"flower-superlink did not start; its log: {log.read_text()[-1500:]}")
