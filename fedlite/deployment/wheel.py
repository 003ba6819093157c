"""A wheel of the fedlite that runs here: the same files give the same bytes, on any machine.

From a checkout it holds what the project file says of a wheel; from an installed wheel the files
that its RECORD lists, each compared with it. No build tool is needed.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import tomllib
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import fedlite
from fedlite.rooms import app_root

_WHEEL = b"Wheel-Version: 1.0\nGenerator: fedlite\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# Of a dist-info folder: what the installer wrote there, and what is written anew here.
_LOCAL = ("INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "RECORD", "WHEEL")
_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")
_BEFORE_ALL = (1980, 1, 1, 0, 0, 0)


def own_wheel() -> tuple[str, bytes]:
    """Return the file name and the bytes of a wheel of this fedlite.

    Raises ValueError with the mend when the installation is not whole or not of this checkout.
    """
    try:
        installed = distribution("fedlite")
    except PackageNotFoundError:
        raise ValueError(
            "fedlite: must be installed to be packed, got only its files; run make setup in the "
            "checkout"
        ) from None
    info = f"fedlite-{fedlite.__version__}.dist-info"
    root = app_root()
    of_wheel = _recorded(installed)
    meta = {
        f"{info}/{name.partition('.dist-info/')[2]}": content
        for name, content in of_wheel.items()
        if ".dist-info/" in name
    }
    if root.name == "app":
        files = {name: content for name, content in of_wheel.items() if ".dist-info/" not in name}
    else:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        _refuse_stale(installed, project)
        files = _checkout(root, project["tool"]["hatch"]["build"]["targets"]["wheel"])
    return f"fedlite-{fedlite.__version__}-py3-none-any.whl", _zip(files, meta, info)


def _recorded(installed: Distribution) -> dict[str, bytes]:
    """Return the files of an installation that are its wheel's, each as RECORD says it is."""
    mend = "install fedlite again"
    if installed.files is None:
        raise ValueError(f"fedlite: its installation must have a RECORD, got none; {mend}")
    found = {}
    for path in installed.files:
        name = path.as_posix()
        outside = name.startswith(("..", "/")) or name.endswith((".pth", ".pyc"))
        if outside or (".dist-info/" in name and path.name in _LOCAL):
            continue
        try:
            content = Path(str(path.locate())).read_bytes()
        except OSError as error:
            raise ValueError(f"{path.locate()}: {error.strerror}; {mend}") from None
        if path.hash is None or path.hash.value != _digest(content):
            raise ValueError(
                f"{path.locate()}: must be as it was installed, got other bytes; {mend}"
            )
        found[name] = content
    if not any(name.endswith("/METADATA") for name in found):
        raise ValueError(f"fedlite: its installation must have METADATA, got none; {mend}")
    return found


def _refuse_stale(installed: Distribution, project: dict[str, Any]) -> None:
    """Raise ValueError when the checkout says another release or needs others than was installed.

    A wheel's METADATA is made when it is built; here it is that of the editable installation.
    """
    table = project["project"]
    wanted = {_name(text) for text in table["dependencies"]}
    told = {_name(text) for text in installed.requires or () if "extra ==" not in text}
    if (table["version"], wanted) != (installed.version, told):
        raise ValueError(
            f"fedlite: the checkout must be the one that was installed, got release "
            f"{table['version']} and an installation of {installed.version}, or other "
            "dependencies; run make setup"
        )


def _name(requirement: str) -> str:
    found = _REQUIREMENT.match(requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else requirement


def _checkout(root: Path, target: dict[str, Any]) -> dict[str, bytes]:
    """Return a checkout's files by their names in a wheel, as the project file places them."""
    found = {}
    for folder in target["only-include"]:
        inside = target["sources"].get(folder, folder)
        for path in sorted((root / folder).rglob("*")):
            parts = path.relative_to(root / folder).parts
            hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
            if path.is_file() and not hidden and path.suffix != ".pyc":
                found["/".join((inside, *parts))] = path.read_bytes()
    for source, inside in target["force-include"].items():
        found[inside] = (root / source).read_bytes()
    return found


def _zip(files: dict[str, bytes], meta: dict[str, bytes], info: str) -> bytes:
    entries = dict(sorted(files.items())) | dict(sorted(meta.items())) | {f"{info}/WHEEL": _WHEEL}
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in entries.items()]
    entries[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    buffer = io.BytesIO()
    # Stored, as two versions of zlib may deflate the same bytes differently.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            entry = zipfile.ZipInfo(name, _BEFORE_ALL)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    raw = hashlib.sha256(content).digest()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
