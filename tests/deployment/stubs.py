"""Wheels that stand for those installed here: their names, versions and needs, and no code.

pip resolves, checks and installs them as it does the real ones, in no time and without a network.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from fedlite.commands.main import app


def stub_wheels(folder: Path) -> Path:
    """Write one wheel for each installed distribution but fedlite into `folder`; return it."""
    folder.mkdir()
    for one in distributions():
        if not one.name or one.name == "fedlite":
            continue
        name = re.sub(r"[-_.]+", "_", one.name)
        lines = ["Metadata-Version: 2.1", f"Name: {one.name}", f"Version: {one.version}"]
        lines += [
            f"Provides-Extra: {extra}" for extra in one.metadata.get_all("Provides-Extra", [])
        ]
        lines += [f"Requires-Dist: {text}" for text in one.requires or ()]
        info = f"{name}-{one.version}.dist-info"
        with zipfile.ZipFile(folder / f"{name}-{one.version}-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
    return folder


def call(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if code == 0 else result.stderr


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
