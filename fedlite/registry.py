"""Things by name: in the house, from an installed package, or from a file of one's own.

A scenario names a model, a strategy, a compressor or a data source in one of three ways:

- `cosine`: what the house has;
- a name that an installed package offers by an entry point of the kind's group (`fedlite.models`,
  `fedlite.strategies`, `fedlite.compressors`, `fedlite.data`);
- `mine.py:make`: the function `make` in the file `mine.py`, which is run. Only who starts a
  simulation may name a file: at a site it would be the coordinator's code, unseen.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any, Generic, TypeVar

from fedlite.storage import stamp

T = TypeVar("T")

_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")


def is_file(name: str) -> bool:
    """Return whether a name says `file.py:function`.

    >>> is_file("models/mine.py:make"), is_file("cosine")
    (True, False)
    """
    return _FILE.fullmatch(name) is not None


def resolve(name: str, folder: Path) -> str:
    """Return the name with its file's path absolute, a relative one starting at `folder`."""
    found = _FILE.fullmatch(name)
    if found is None:
        return name
    path = Path(found["file"]).expanduser()
    return f"{path if path.is_absolute() else (folder / path).absolute()}:{found['name']}"


def file_of(name: str) -> Path | None:
    """Return the file that a name says; None where it says none."""
    found = _FILE.fullmatch(name)
    return Path(found["file"]) if found else None


@dataclass(frozen=True)
class Registry(Generic[T]):
    """What a kind of thing may be, by name.

    key: the scenario's key, which an error names. group: the entry points' group. house: what
    fedlite has. files: whether a name may be one of a file; a data source's may not, as it names
    ledgers, too.

    >>> shapes = Registry("shape", "fedlite.shapes", {"line": 1, "cube": 6})
    >>> shapes.get("cube"), shapes.names()
    (6, ('cube', 'line'))
    >>> shapes.get('cub')
    Traceback (most recent call last):
    ValueError: shape: must be one of cube, line, or file.py:function, got 'cub'; did you mean cube?
    """

    key: str
    group: str
    house: Mapping[str, T]
    files: bool = True

    def names(self) -> tuple[str, ...]:
        """The names that need no file, sorted; those of the house come before others' own."""
        return tuple(sorted({*self.house, *(point.name for point in self._offered())}))

    def get(self, name: str) -> T:
        """Return what `name` stands for.

        Raises ValueError, naming the key, for an unknown name, and for a file that does not exist,
        fails, or has no such function.
        """
        if name in self.house:
            return self.house[name]
        found = _FILE.fullmatch(name)
        if found is not None and self.files:
            return self._of_file(Path(found["file"]), found["name"])
        for point in self._offered():
            if point.name == name:
                found_there: T = self._loaded(name, point.load)
                return found_there
        begun = [known for known in self.names() if name and known.startswith(name)]
        close = begun or get_close_matches(name, self.names(), n=1)
        raise ValueError(
            f"{self.key}: must be one of {', '.join(self.names())}"
            f"{', or file.py:function' if self.files else ''}, got {name!r}"
            + (f"; did you mean {close[0]}?" if close else "")
        )

    def make(self, name: str, *given: Any, **options: Any) -> Any:
        """Return what the thing called `name` makes of the arguments.

        Raises ValueError, naming the key, the error and its line, for whatever code that is not of
        the house raises.
        """
        builder: Any = self.get(name)
        if name in self.house:
            return builder(*given, **options)
        try:
            return builder(*given, **options)
        except Exception as error:  # whatever foreign code raises
            own = [f for f in extract_tb(error.__traceback__) if f.filename == str(file_of(name))]
            line = f", line {own[-1].lineno}" if own else ""
            raise ValueError(
                f"{self.key}: {name!r} fails ({type(error).__name__}: {error}{line}); mend it"
            ) from error

    def _offered(self) -> Iterator[EntryPoint]:
        # A package may add to the house, and not replace what stands in it.
        yield from (p for p in entry_points(group=self.group) if p.name not in self.house)

    def _of_file(self, path: Path, name: str) -> T:
        if not path.is_file():
            raise ValueError(f"{self.key}: {path}: no such file; name the file that has {name!r}")
        module = self._loaded(str(path), lambda: _module(path.absolute(), stamp(path)))
        if not hasattr(module, name):
            raise ValueError(f"{self.key}: {path}: has no {name!r}; name a function of that file")
        found: T = getattr(module, name)
        return found

    def _loaded(self, name: str, load: Callable[[], Any]) -> Any:
        try:
            return load()
        except Exception as error:  # whatever foreign code raises when it is imported
            raise ValueError(
                f"{self.key}: {name}: cannot be imported ({type(error).__name__}: {error}); mend it"
            ) from error


@lru_cache(maxsize=32)
def _module(path: Path, _seen: tuple[int, int, int] | None) -> ModuleType:
    """Import a file under a name of its own, so that two files of one name are two modules."""
    name = f"fedlite_own_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a class's module up by its name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
