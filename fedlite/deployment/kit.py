"""A kit: one folder from which a site or a coordinator is installed where there is no network.

```
wheels/             fedlite, and all that it needs, for this machine's Python and processor
requirements.txt    each of them with its SHA-256, as `pip install --require-hashes` wants it
constraints.txt     the versions alone
Dockerfile, compose.yaml, fedlite-ROLE.service, README.txt
SHA256SUMS          of all files
```
The same fedlite and the same wheels give the same bytes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from fedlite.deployment import container
from fedlite.deployment.container import Role
from fedlite.deployment.kit_text import readme
from fedlite.deployment.wheel import own_wheel

WHEELS, SUMS = "wheels", "SHA256SUMS"
_WHEEL = re.compile(r"([A-Za-z0-9._]+)-([A-Za-z0-9._+!]+)(-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl")
_VERSION = re.compile(r"[A-Za-z0-9.!_-]+")


@dataclass(frozen=True)
class Kit:
    """A kit that was made. complete: whether all wheels are there. get: else how to get them."""

    path: Path
    complete: bool
    wheels: int
    sums: str
    get: str = ""


def make(
    out: Path, role: Role, unit: bytes, *, wheels: Path | None = None, download: bool = False
) -> Kit:
    """Make a kit in `out`, a new folder or an earlier kit, which is replaced.

    unit: the role's systemd unit. wheels: a folder of wheels that were downloaded before, of which
    those needed are taken. download: fetch them, by pip and as pip is set up here. Without either
    the kit holds fedlite's own wheel only, and says what is missing.

    Raises ValueError when `out` holds anything else, when a wheel is damaged, or when the wheels do
    not fit each other, this Python, or the versions installed here.
    """
    names = {WHEELS, SUMS, "README.txt", "requirements.txt", "constraints.txt"}
    names |= {"Dockerfile", "compose.yaml", unit_name(role)}
    if out.exists() and (strange := {entry.name for entry in out.iterdir()} - names):
        raise ValueError(
            f"{out}: must be a new folder or a kit, got one with {min(strange)!r}; name another"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        kit = _fill(building, out, role, unit, wheels, download)
        building.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return kit


def unit_name(role: Role) -> str:
    """Return what the role's systemd unit is called."""
    return f"fedlite-{role.name}.service"


def _fill(
    folder: Path, out: Path, role: Role, unit: bytes, wheels: Path | None, download: bool
) -> Kit:
    store = folder / WHEELS
    store.mkdir()
    name, content = own_wheel()
    (store / name).write_bytes(content)
    pins = folder / "constraints.txt"
    pins.write_text(_installed())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    whole = wheels is not None or download
    get = (
        f"{sys.executable} -m pip download --only-binary :all: --dest WHEELS --constraint "
        f"{out / pins.name} {out / WHEELS / name}"
    )
    if whole:
        _gather(store, name, pins, wheels)
        found = _listed(store)
        pins.write_text("".join(f"{name}=={version}\n" for name, version, _ in found))
        (folder / "requirements.txt").write_text(_requirements(found, python))
        (folder / "Dockerfile").write_text(container.dockerfile(role, python))
        text = container.compose(
            role, build=".", user="${FEDLITE_USER:-1000:1000}", volume=f"./{role.name}"
        )
        (folder / "compose.yaml").write_text(text)
        (folder / unit_name(role)).write_bytes(unit)
    (folder / "README.txt").write_text(readme(role, python, _machine(), get if not whole else ""))
    sums = "".join(
        f"{_sha256(path)}  {path.relative_to(folder)}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    (folder / SUMS).write_text(sums)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    digest = hashlib.sha256(sums.encode()).hexdigest()
    return Kit(out, whole, len(list(store.iterdir())), digest, "" if whole else get)


def _gather(store: Path, own: str, pins: Path, wheels: Path | None) -> None:
    """Let pip put what fedlite needs into `store`, from the network or from a folder alone."""
    if importlib.util.find_spec("pip") is None:
        raise ValueError("pip: must be installed beside fedlite to choose the wheels, got none")
    where = "--download" if wheels is None else f"--wheels {wheels}"
    mend = "make the kit without --wheels, which says how to get them"
    if wheels is not None and not any(wheels.glob("*.whl")):
        raise ValueError(f"{where}: must be a folder of wheels, got none; {mend}")
    words = ["--only-binary", ":all:", "--dest", str(store), "--constraint", str(pins)]
    environment = dict(os.environ)
    if wheels is not None:
        # Nothing that pip is told elsewhere may bring in a wheel that is not of the folder.
        words += ["--no-index", "--find-links", str(wheels)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
        environment["PIP_CONFIG_FILE"] = os.devnull
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, *words, str(store / own)], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise ValueError(
            f"{where}: must have all that fedlite needs, in the versions that are installed here, "
            f"got {_complaint(done.stdout + done.stderr)}; {mend}"
        )


def _complaint(told: str) -> str:
    """Return what pip says is wrong: its errors, and what it names below a conflict."""
    lines = told.splitlines()
    start = next((i for i, line in enumerate(lines) if "conflict is caused by" in line), len(lines))
    named = [line.strip() for line in lines[start + 1 :] if line.startswith(" ")]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return "; ".join(named or errors or lines[-3:])[:700]


def _listed(store: Path) -> list[tuple[str, str, str]]:
    """Return name, version and SHA-256 of each wheel, by name; raises ValueError for damage."""
    found = []
    for path in store.iterdir():
        parts = _WHEEL.fullmatch(path.name)
        if parts is None:
            raise ValueError(f"{path.name}: must be named as a wheel is; download it again")
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except (zipfile.BadZipFile, OSError) as error:
            damaged = str(error)
        if damaged is not None:
            raise ValueError(f"{path.name}: is damaged ({damaged}); download it again")
        name = re.sub(r"[-_.]+", "-", parts[1]).lower()
        found.append((name, parts[2], _sha256(path)))
    return sorted(found)


def _requirements(found: list[tuple[str, str, str]], python: str) -> str:
    head = f"# For Python {python} on {_machine()}, from this folder alone:\n"
    head += "#   pip install --no-index --find-links wheels --require-hashes -r requirements.txt\n"
    return head + "".join(
        f"{name}=={version} \\\n    --hash=sha256:{digest}\n" for name, version, digest in found
    )


def _installed() -> str:
    """Return what is installed here as constraints: the versions that are known to work together.

    A local part, such as +cpu, is another build of the same version, and left out.
    """
    pins = {
        re.sub(r"[-_.]+", "-", one.name).lower(): one.version.partition("+")[0]
        for one in distributions()
        if one.name and _VERSION.fullmatch(one.version.partition("+")[0])
    }
    return "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
