"""Which code trained: one digest over the library and the app that the site ran."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import fedlite


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return SHA-256, hex, over the names and contents of the code that trains at this site."""
    digest = hashlib.sha256()
    for name, content in sources():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def sources() -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of every module of the library and the app, in order."""
    for label, folder in (
        ("fedlite", Path(fedlite.__file__).parent),
        ("clients", Path(__file__).parent),
    ):
        for path in sorted(folder.rglob("*.py")):
            relative = path.relative_to(folder)
            # A wheel carries the app folders inside the package; they are counted once.
            if label == "clients" or relative.parts[0] != "app":
                yield f"{label}/{relative.as_posix()}", path.read_bytes()
