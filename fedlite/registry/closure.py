"""Which files a file of one's own needs: itself, and what it imports that lies beside it.

Found by reading alone: nothing is run. The same rule says what an `import` in such a file finds
(`fedlite.registry.own`), what a resumed run is held to, and what travels in a bundle.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from fedlite.storage import stamp

# What no file beside may stand for: the library's rooms, and what it is built of. Else two
# versions of one class would meet, or a reader take one for the other.
RESERVED = frozenset(
    {"fedlite", "clients", "server", "strategies", "simulations"}
    | {"flwr", "torch", "numpy", "scipy", "sklearn", "opacus", "safetensors", "cryptography"}
    | {"dp_accounting", "prv_accountant", "matplotlib", "typer", "rich", "jinja2", "tomli_w"}
    | sys.stdlib_module_names
)


def beside(folder: Path, dotted: str) -> Path | None:
    """Return the file, or the folder without `__init__.py`, that a module below `folder` is.

    None where there is none, or where the name is not one that files beside may have.
    """
    parts = dotted.split(".")
    if parts[0] in RESERVED:
        return None
    place = folder.joinpath(*parts)
    for found in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if found.is_file():
            return found
    return place if place.is_dir() and any(place.glob("*.py")) else None


def closure(path: Path) -> tuple[Path, ...]:
    """Return `path` and every file below its folder that it imports, however far away; sorted.

    path: absolute. What cannot be read or parsed imports nothing; running it says what is wrong.
    """
    folder = path.parent
    found, waiting = {path}, [path]
    while waiting:
        one = waiting.pop()
        for dotted in _imported(one, folder, stamp(one)):
            # Importing `a.b` runs `a`, too.
            parts = dotted.split(".")
            for end in range(1, len(parts) + 1):
                file = beside(folder, ".".join(parts[:end]))
                if file is not None and file.is_file() and file not in found:
                    found.add(file)
                    waiting.append(file)
    return tuple(sorted(found))


def digest_of(path: Path) -> str:
    """Return SHA-256, hex, over a file of one's own and those that it imports.

    Raises OSError when it cannot be read.
    """
    files = closure(path)
    if files == (path,):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    whole = hashlib.sha256()
    for file in files:
        name, content = file.relative_to(path.parent).as_posix(), file.read_bytes()
        whole.update(f"{name}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()


def stamps(path: Path) -> tuple[object, ...]:
    """Return what tells whether a file of one's own, and those that it imports, are what they were.

    path: absolute.
    """
    return tuple((file, stamp(file)) for file in closure(path))


@lru_cache(maxsize=256)
def _imported(path: Path, folder: Path, _seen: object) -> tuple[str, ...]:
    """Return the dotted names, seen from `folder`, that a file may import; read once a version."""
    return tuple(_names(path, folder))


def _names(path: Path, folder: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    package = path.relative_to(folder).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                kept = package[: max(0, len(package) - node.level + 1)]
                base = [*kept, *base]
            yield from (".".join([*base, alias.name]) for alias in node.names)
