"""Which code runs: this installation, and one digest over the library and the app that trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import fedlite
from fedlite.deployment import own
from fedlite.rooms import app_root


def installation() -> str:
    """Return which fedlite this process runs: its release and its folder."""
    return f"fedlite {fedlite.__version__} in {Path(fedlite.__file__).resolve().parent}"


@lru_cache(maxsize=4)
def code_digest(app: Path | None = None) -> str:
    """Return SHA-256, hex, over the names and contents of the code that trains at this site.

    app: the folder that holds the app's `clients/`: an unpacked bundle; None is the one that came
    with this library.
    """
    digest = hashlib.sha256()
    for name, content in sources(app):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def sources(app: Path | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of every module of the library and the app, in order."""
    for label, folder in (
        ("fedlite", Path(fedlite.__file__).parent),
        ("clients", (app or app_root()) / "clients"),
        *([(own.FOLDER, app / own.FOLDER)] if app else []),
    ):
        for path in sorted(folder.rglob("*.py")):
            relative = path.relative_to(folder)
            # A wheel carries the app folders inside the package; they are counted once.
            if label != "fedlite" or relative.parts[0] != "app":
                yield f"{label}/{relative.as_posix()}", path.read_bytes()
