"""A file of one's own as a module, with those beside it, which no other code can see.

Each version of a file is a package of its own, whose name nobody writes: so two users' files of one
name never meet, a changed file is another module, and nothing is added to `sys.path`. In such files
alone, `import helper` looks beside them first, also when it stands in a function.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from traceback import walk_tb
from types import CodeType, ModuleType
from typing import Any

from fedlite.registry.closure import beside, stamps
from fedlite.registry.names import OWN

# The folder of each such package by its name.
_FOLDERS: dict[str, Path] = {}
_LOADING: set[Path] = set()


def module_of(path: Path) -> ModuleType:
    """Return the module that a file is, run when it, or one that it imports, is new.

    path: absolute. Raises whatever the file raises.
    """
    return _module(path, stamps(path))


@lru_cache(maxsize=64)
def _module(path: Path, seen: tuple[object, ...]) -> ModuleType:
    if path in _LOADING:
        raise ImportError(
            f"{path} is run by what it runs itself; put what starts the run under "
            'if __name__ == "__main__"'
        )
    if "." in path.stem:
        raise ImportError(f"{path.name}: no file of Python's has a dot in its name; rename it")
    package = OWN + sha256(f"{path}\0{seen!r}".encode()).hexdigest()[:16]
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    _FOLDERS[package] = path.parent
    sys.modules[package] = top = ModuleType(package)
    top.__path__ = []
    _LOADING.add(path)
    try:
        return importlib.import_module(f"{package}.{path.stem}")
    except BaseException:
        # The next try begins anew.
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
        raise
    finally:
        _LOADING.remove(path)


class _Finder(MetaPathFinder):
    """Finds the modules of such packages, and no other."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module of one's own is; None for all others."""
        package, _, dotted = fullname.partition(".")
        folder = _FOLDERS.get(package)
        if folder is None or not dotted:
            return None
        file = beside(folder, dotted)
        # The named file may be called as it likes.
        if file is None and (named := folder / f"{dotted}.py").is_file():
            file = named
        if file is None:
            return None
        if file.is_dir():
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = []
            return spec
        inner: list[str] | None = [] if file.name == "__init__.py" else None
        loader = _Loader(fullname, str(file))
        return spec_from_file_location(
            fullname, file, loader=loader, submodule_search_locations=inner
        )


class _Loader(SourceFileLoader):
    """Runs a file as it stands now, and lets it import what lies beside it."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the file: what is kept beside it may be of an older one of the same second."""
        return compile(self.get_data(self.path), self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        """Run it with an `import` of its own."""
        package = module.__name__.partition(".")[0]
        own = vars(builtins) | {"__import__": _importer(package)}
        module.__dict__["__builtins__"] = own
        super().exec_module(module)


def _importer(package: str) -> Any:
    """Return the `__import__` of the files in a package: those beside them come first."""

    def load(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level or beside(_FOLDERS[package], top) is None:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        if fromlist:
            return builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
        importlib.import_module(f"{package}.{name}")
        return sys.modules[f"{package}.{top}"]

    return load


def place_of(error: BaseException, file: str = "") -> str:
    """Return the file and line of one's own code in which an error arose; "" where in none.

    file: counts as such code beside the files that were loaded here, if it is given.
    """
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}, line {error.lineno}"
    places = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).startswith(OWN)
        or frame.f_code.co_filename == file
    ]
    return places[-1] if places else ""


def explain(error: BaseException) -> str:
    """Return an error in words; with its place where it arose in code of one's own."""
    at = place_of(error)
    return f"{at}: {type(error).__name__}: {error}; mend it" if at else str(error)


def line_of(thing: Any) -> str:
    """Return the file and line where a function or class begins; "" where nobody knows."""
    try:
        return f"{inspect.getsourcefile(thing)}, line {inspect.getsourcelines(thing)[1]}"
    except (TypeError, OSError):
        return ""
