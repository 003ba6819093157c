"""How code of one's own is named: in a file, in a module that is installed, or in this process.

- `mine.py:make`: what the file calls `make`; the file is run, with those that it imports beside it;
- `package.module:make`: the same of a module that Python finds;
- `python:make`: something that this process was given, which no other process can find.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path
from typing import Any

_FILE = re.compile(r"(?P<place>.+\.py):(?P<name>[A-Za-z_]\w*)")
_MODULE = re.compile(r"(?P<place>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")
_HERE = "python:"

# Where the relative names of files begin; see `begin_at`.
_ROOT: list[Path] = []
# By name what only this process knows.
_HELD: dict[str, Any] = {}


def is_own(name: str) -> bool:
    """Return whether a name is of code that neither the house nor an entry point offers.

    >>> [is_own(name) for name in ("mine.py:make", "package.mine:make", "python:make", "cosine")]
    [True, True, True, False]
    """
    return is_file(name) or is_module(name) or is_held(name)


def is_file(name: str) -> bool:
    """Return whether a name says `file.py:function`.

    >>> is_file("models/mine.py:make"), is_file("mine:make"), is_file("cosine")
    (True, False, False)
    """
    return _FILE.fullmatch(name) is not None


def is_module(name: str) -> bool:
    """Return whether a name says `package.module:function`.

    >>> is_module("package.mine:make"), is_module("mine.py:make"), is_module("python:make")
    (True, False, False)
    """
    return _MODULE.fullmatch(name) is not None and not is_file(name) and not is_held(name)


def is_held(name: str) -> bool:
    """Return whether a name is of something that only the process knows which was given it."""
    return name.startswith(_HERE)


def split(name: str) -> tuple[str, str]:
    """Return the file or module of such a name, and what is meant in it.

    >>> split("models/mine.py:make"), split("package.mine:make")
    (('models/mine.py', 'make'), ('package.mine', 'make'))
    """
    place, _, inner = name.rpartition(":")
    return place, inner


def resolve(name: str, folder: Path) -> str:
    """Return the name with its file's path absolute, a relative one starting at `folder`."""
    if not is_file(name):
        return name
    place, inner = split(name)
    path = Path(place).expanduser()
    return f"{path if path.is_absolute() else (folder / path).absolute()}:{inner}"


def begin_at(folder: Path | None) -> Path | None:
    """Let the relative names of files begin at `folder`, and return where they began before.

    For a process that serves one bundle, whose settings name its files as they lie in it. None: at
    the working directory.
    """
    before = _ROOT[0] if _ROOT else None
    _ROOT[:] = [] if folder is None else [folder]
    return before


def file_of(name: str) -> Path | None:
    """Return the file that a name says, absolute; None where it says none."""
    if not is_file(name):
        return None
    return Path(split(resolve(name, _ROOT[0] if _ROOT else Path()))[0])


def label(name: str) -> str:
    """Return a name as records show it, and as a file may be called: without folders.

    >>> label("/home/jane/mine.py:make"), label("package.mine:make"), label("digits")
    ('mine.make', 'mine.make', 'digits')
    """
    if not is_own(name):
        return name
    place, inner = split(name)
    stem = Path(place).stem if is_file(name) else place.rpartition(".")[2]
    return f"{stem}.{inner}"


def name_of(thing: Any) -> str:
    """Return the name under which a scenario finds a function, class or object of Python's.

    What another process can import is named by its module where that is installed or in a package,
    and else by its file. A lambda, a function that was made in another one, and what was typed into
    a notebook can be found in this process only: they are held here under `python:NAME`, and a run
    that names them needs the engine `serial` and ends with the process.

    >>> from fedlite.models import tinyml
    >>> name_of(tinyml.mlp), is_held(name_of(lambda shape, classes: None))
    ('fedlite.models.tinyml:mlp', True)
    """
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    inner = str(getattr(thing, "__qualname__", ""))
    if module is not None and inner.isidentifier() and getattr(module, inner, None) is thing:
        file = getattr(module, "__file__", None)
        if file is None or not file.endswith(".py"):
            return _hold(thing)
        own = module.__name__ == "__main__" or module.__name__.startswith(OWN)
        if not own and ("." in module.__name__ or _installed(Path(file))):
            return f"{module.__name__}:{inner}"
        return f"{Path(file).absolute()}:{inner}"
    return _hold(thing)


OWN = "fedlite_own_"
"""What the names of modules begin with that were loaded from a file of one's own."""


def held(name: str) -> Any:
    """Return what this process was given under a name; raises KeyError where it was not."""
    return _HELD[name]


def _hold(thing: Any) -> str:
    inner = str(getattr(thing, "__name__", "") or type(thing).__name__)
    stem = _HERE + (inner if inner.isidentifier() else "function")
    name, number = stem, 1
    # Two things of one name are two: what was computed for one must not serve for the other.
    while _HELD.setdefault(name, thing) is not thing:
        number += 1
        name = f"{stem}_{number}"
    return name


def _installed(file: Path) -> bool:
    places = {sysconfig.get_path(key) for key in ("purelib", "platlib", "stdlib", "platstdlib")}
    return any(file.resolve().is_relative_to(Path(place).resolve()) for place in places if place)
