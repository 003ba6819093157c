"""What a kind of thing may be, by name: the one place where a name of a scenario is looked up.

A scenario names a model, a strategy, a compressor, a data source or a partition by

- `cosine`: what the house has;
- a name that an installed package offers by an entry point of the kind's group (`fedlite.models`,
  `fedlite.strategies`, `fedlite.compressors`, `fedlite.data`, `fedlite.partitions`);
- code of one's own (`fedlite.registry.names`), which is run: who names it wants that. What a
  deployment allows of it is decided before anything is looked up here.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from fedlite.registry import own
from fedlite.registry.names import file_of, held, is_held, is_own, split
from fedlite.registry.options import fitting
from fedlite.settings import nearest

T = TypeVar("T")
_NONE: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Registry(Generic[T]):
    """What a kind of thing may be, by name.

    key: the scenario's key, which an error names. group: the entry points' group. house: what
    fedlite has. options: the key of the table that holds its options. takes: the arguments that
    fedlite calls it with, for people.

    >>> shapes = Registry("shape", "fedlite.shapes", {"line": 1, "cube": 6})
    >>> shapes.get("cube"), shapes.names()
    (6, ('cube', 'line'))
    >>> shapes.get('cub')
    Traceback (most recent call last):
    ValueError: shape: must be one of cube, line, or file.py:function or package.module:function, \
got 'cub'; did you mean cube?
    """

    key: str
    group: str
    house: Mapping[str, T]
    options: str = "options"
    takes: str = ""

    def names(self) -> tuple[str, ...]:
        """The names that need no code of one's own, sorted; the house's come before others'."""
        return tuple(sorted({*self.house, *(point.name for point in self._offered())}))

    def check(self, name: str) -> None:
        """Raise ValueError, naming the key, for an unknown name; nothing is imported or run."""
        if is_own(name) or name in self.names():
            return
        meant = nearest(name, self.names())
        raise ValueError(
            f"{self.key}: must be one of {', '.join(self.names())}, or file.py:function or "
            f"package.module:function, got {name!r}" + (f"; did you mean {meant}?" if meant else "")
        )

    def get(self, name: str) -> T:
        """Return what `name` stands for.

        Raises ValueError, naming the key, for an unknown name, and for code of one's own that does
        not exist, fails, or has no such function.
        """
        found: T
        if name in self.house:
            return self.house[name]
        if is_own(name):
            found = self._own(name)
            return found
        self.check(name)
        (point, *_) = [point for point in self._offered() if point.name == name]
        found = self._loaded(f"{name} ({point.value})", point.load)
        return found

    def make(self, name: str, *given: Any, options: Mapping[str, Any] = _NONE, **named: Any) -> Any:
        """Return what the thing called `name` makes of the arguments and its options.

        Raises ValueError, naming the key, for options that it does not take, and, with the error
        and its line, for whatever code that is not of the house raises.
        """
        return self.call(name, self.get(name), *given, options=options, **named)

    def call(
        self,
        name: str,
        builder: Any,
        *given: Any,
        options: Mapping[str, Any] = _NONE,
        **named: Any,
    ) -> Any:
        """Return what `builder`, which is called `name`, makes; raises as `make` does."""
        if not callable(builder):
            raise ValueError(
                f"{self.key}: {name!r} must be a function, got {builder!r}; name one{self._called}"
            )
        whose = repr(name) if name in self.house else ""
        fitted = fitting(builder, len(given), options, self.options, named, whose) | named
        if name in self.house:
            return builder(*given, **fitted)
        self.check_arguments(name, builder, given, fitted)
        try:
            return builder(*given, **fitted)
        except Exception as error:  # whatever foreign code raises
            if isinstance(error, ValueError) and str(error).startswith(f"{self._section}."):
                raise  # what the house's own class says of keys is told as it is
            raise self._failed(name, "fails", error, builder) from error

    def wrong(self, name: str, builder: Any, rule: str) -> ValueError:
        """Return what to raise where what `builder` made is not what it must be."""
        at = own.line_of(builder)
        return ValueError(f"{self.key}: {name!r} {rule}{f'; mend {at}' if at else ''}")

    @property
    def _section(self) -> str:
        return self.key.partition(".")[0]

    @property
    def _called(self) -> str:
        return f" that takes {self.takes}" if self.takes else ""

    def check_arguments(
        self, name: str, builder: Any, given: tuple[Any, ...], fitted: Mapping[str, Any] = _NONE
    ) -> None:
        """Raise ValueError where `builder` cannot be called so, which nothing is needed for."""
        try:
            signature = inspect.signature(builder)
            signature.bind(*given, **fitted)
        except TypeError as error:
            at = own.line_of(builder)
            raise ValueError(
                f"{self.key}: {name!r} must be a function{self._called}, got "
                f"{builder.__name__}{signature} ({error}){f'; see {at}' if at else ''}"
            ) from None
        except ValueError:  # it does not tell what it takes
            return

    def _failed(self, name: str, how: str, error: BaseException, code: Any = None) -> ValueError:
        """Return what to raise: the key, the error, and the line of the user's file."""
        file = getattr(getattr(code, "__code__", None), "co_filename", "")
        at = own.place_of(error, file)
        return ValueError(
            f"{self.key}: {name!r} {how} ({type(error).__name__}: {error})"
            f"{f'; mend {at}' if at else '; mend it'}"
        )

    def _offered(self) -> Iterator[EntryPoint]:
        # A package may add to the house, and not replace what stands in it.
        yield from (p for p in entry_points(group=self.group) if p.name not in self.house)

    def _own(self, name: str) -> Any:
        place, inner = split(name)
        if is_held(name):
            try:
                return held(name)
            except KeyError:
                raise ValueError(
                    f"{self.key}: {name!r} must be something that this process was given (rule: "
                    "what has no file is known to the process that made it, and a run with it "
                    "needs the engine serial); put it into a file, and name file.py:function"
                ) from None
        file = file_of(name)
        if file is not None:
            if not file.is_file():
                raise ValueError(
                    f"{self.key}: {file}: no such file; name the file that has {inner!r}"
                )
            module = self._loaded(str(file), lambda: own.module_of(file))
        else:
            module = self._loaded(place, lambda: importlib.import_module(place))
        if not hasattr(module, inner):
            there = [n for n, v in vars(module).items() if callable(v) and n[:1] != "_"]
            meant = nearest(inner, there)
            raise ValueError(
                f"{self.key}: {file or module.__file__ or place}: has no {inner!r}; "
                + (f"did you mean {meant}?" if meant else "name a function that it has")
            )
        return getattr(module, inner)

    def _loaded(self, name: str, load: Callable[[], Any]) -> Any:
        try:
            return load()
        except (Exception, SystemExit) as error:  # whatever foreign code does when it is imported
            raise self._failed(name, "cannot be imported", error) from error
