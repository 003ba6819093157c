"""Two releases, each in an environment of its own: either side is upgraded while a run goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

import fedlite
from simulations.benchmarks.lab import FEDLITE, PROGRAMS

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parents[2]
NEXT = "0.9.0"
RUN = ["quickstart", "--rounds", 400]
for key in (
    "federation.name=long",
    "federation.sites=2",
    "federation.quorum=1",
    "federation.deadline_seconds=20",
    "privacy.unit=none",
    "training.learning_rate=1.0",
):
    RUN += ["--set", key]


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `fedlite` of a later release; its environment borrows the dependencies alone."""
    folder = tmp_path_factory.mktemp("upgraded")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")[:-1]  # fmt: skip
    for name in tracked:
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "source" / name)
    for name in ("fedlite/__init__.py", "pyproject.toml"):
        path = folder / "source" / name
        old = path.read_text(encoding="utf-8")
        path.write_text(old.replace(f'"{fedlite.__version__}"', f'"{NEXT}"', 1), encoding="utf-8")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    wheels = folder / "wheels"
    subprocess.run(
        [*build, "--wheel-dir", str(wheels), str(folder / "source")], check=True, timeout=120
    )
    home = folder / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    packages = next(home.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(f"{_dependencies()}\n")
    install = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install"]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run(
        [*install, "--quiet", "--no-deps", "--no-index", *map(str, wheels.glob("*.whl"))],
        check=True, timeout=120, env=environment,
    )  # fmt: skip
    # Flower's programs are those of an environment, too.
    for program in [*PROGRAMS.glob("flower-*"), *PROGRAMS.glob("flwr*")]:
        lines = program.read_text().splitlines(keepends=True)
        lines[0] = f"#!{home / 'bin' / 'python'}\n"
        (home / "bin" / program.name).write_text("".join(lines))
        (home / "bin" / program.name).chmod(0o755)
    return home / "bin" / "fedlite"


def _dependencies() -> str:
    """Return where Flower lies: there, no .pth file of this environment is read again."""
    import flwr

    return str(Path(flwr.__file__).parents[1]) or sysconfig.get_path("purelib")


def releases(lab: Any) -> dict[str, str]:
    return {row["name"]: row["release"] for row in lab.json("server", "sites")["sites"]}


def test_either_side_is_upgraded_while_a_run_goes_on(lab: Any, upgraded: Path, wait: Any) -> None:
    old = fedlite.__version__
    lab.start()
    one, two = (lab.add(name, data="digits") for name in ("a", "b"))
    bundle = lab.bundle(*RUN)
    for partner in (one, two):
        toml = partner.home / "site.toml"
        toml.write_text(toml.read_text().replace('units = ["record"]', 'units = ["none"]'))
        lab.fedlite("site", "approve", partner.home, bundle, "--yes")
        partner.start()
    for partner in (one, two):
        partner.wait_online()
    run = lab.detached(*RUN)
    lab.wait_round(run, 3)

    # One site.
    assert one.stop() == 0
    one.program = upgraded
    one.start()
    one.wait_online()
    assert (one.status()["release"], one.status()["coordinator_release"]) == (NEXT, old)
    after = len(lab.rounds(run))
    wait("rounds of both", lambda: [r["accepted"] for r in lab.rounds(run)[after:]].count(2) > 2)
    assert releases(lab) == {one.name: NEXT, two.name: old}

    # The coordinator; the site that is not upgraded goes on.
    lab.fedlite("server", "stop")
    lab.program = upgraded
    lab.start()
    after = len(lab.rounds(run))
    wait("rounds of both", lambda: [r["accepted"] for r in lab.rounds(run)[after:]].count(2) > 2)
    assert releases(lab) == {one.name: NEXT, two.name: old}
    lab.program = FEDLITE
    checks = lab.json("site", "doctor", two.home)["checks"]
    assert [check for check in checks if check["state"] == "fail"] == []
    assert f"fedlite {NEXT} there, {old} here" in [check["what"] for check in checks]

    # A site of the old release joins the new coordinator, by an invitation that says so.
    assert f'"fedlite": "{NEXT}"' in lab.invitation.read_text()
    three = lab.partner("c")
    lab.fedlite("site", "init", three.home, "--name", three.name, "--data", "digits")
    joined = lab.json(
        "site", "join", three.home, lab.invitation, "--fingerprint", lab.fingerprint
    )  # fmt: skip
    lab.program = upgraded
    request = three.home / "request.json"
    lab.fedlite("server", "approve", request, "--fingerprint", joined["node_key"])
    assert releases(lab)[three.name] == old

    lab.fedlite("server", "stop", "--run", run)
    job = lab.wait_end(run)
    assert job["state"] == "stopped"
    numbers = [row["round"] for row in lab.rounds(run)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert not list((two.home / "inflight").iterdir()), two.log
