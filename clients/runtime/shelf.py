"""What a site keeps of the bundles of models that a coordinator releases: its seat's `releases/`.

| | |
|---|---|
| `announced.json` | the newest announcement that was accepted, as it was signed |
| `SHA256/` | a bundle that came whole, by the SHA-256 of its manifest |
| `.SHA256/` | one that is coming |
| `state.json` | which is in use and which was before, and what people decided |
| `current` | a link to the one in use, for `fedlite serve` and others |
| `.lock` | held by whoever decides, or removes |

In use is what `current` leads to, whatever `state.json` says: a crash may have come between.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from clients.runtime import seats
from fedlite.inference.announcement import DIGEST, MAX_BYTES, Announcement
from fedlite.storage import write_atomic

FOLDER, ANNOUNCED, STATE, CURRENT = "releases", "announced.json", "state.json", "current"
_LOCK, _KEPT = ".lock", 100
_FIELDS = frozenset(("current", "previous", "number", "history"))
_MINE = re.compile(r"\.?[0-9a-f]{64}")


class Busy(Exception):
    """Another process decides, or removes, at this moment."""


class Stale(ValueError):
    """An announcement that is older than one that was seen, or another under the same number."""


@dataclass(frozen=True)
class State:
    """What people decided. current, previous: SHA-256 of manifests, "" for none.

    number: of the newest release that was ever put in use. history: a row for each decision.
    """

    current: str = ""
    previous: str = ""
    number: int = 0
    history: tuple[Mapping[str, Any], ...] = ()


class Shelf:
    """The releases of one coordinator at a site; `seat` is what the site has with it."""

    def __init__(self, seat: Path) -> None:
        """Name the folder; nothing is read yet."""
        self.folder = seat / FOLDER
        self._seat = seat

    @cached_property
    def public(self) -> str:
        """Whose key has to have signed; raises ValueError where nothing was joined."""
        return seats.joined(self._seat).witness

    @contextlib.contextmanager
    def alone(self, *, wait: bool) -> Iterator[None]:
        """Hold the folder, so that nothing of it is removed or put in use by another process.

        wait: until another has ended; else raise Busy at once. Not to be held twice.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with (self.folder / _LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise Busy(f"{self.folder}: another process decides there") from None
            yield

    def announced(self) -> Announcement | None:
        """Return the newest announcement; raises ValueError where the file was changed."""
        data = self._read(ANNOUNCED)
        return Announcement.decode(data, self.public) if data else None

    def accept(self, data: bytes) -> Announcement | None:
        """Take what a coordinator says that it has released; None where it is known already.

        Raises ValueError where its key has not signed it, and Stale where a newer one was seen:
        whoever holds the line, but not the key, could else bring an old model back.
        """
        if data == self._read(ANNOUNCED):
            return None
        made = Announcement.decode(data, self.public)
        known = self.announced()
        seen = max(known.number if known else 0, self.state().number)
        if known is not None and made == known:
            return None
        if made.number <= seen:
            raise Stale(
                f"release {made.sha256[:12]}: must be newer than number {seen}, which was seen "
                f"here, has number {made.number}; an old one is not taken again"
            )
        self.folder.mkdir(mode=0o700, exist_ok=True)
        write_atomic(self.folder / ANNOUNCED, data)
        return made

    def path(self, sha256: str) -> Path:
        """Return where a bundle lies, or will."""
        return self.folder / sha256

    def part(self, sha256: str) -> Path:
        """Return where a bundle lies while it comes."""
        return self.folder / f".{sha256}"

    def whole(self, announced: Announcement) -> bool:
        """Return whether the bundle has come: all files that were announced, by their sizes."""
        try:
            sizes = {
                path.name: path.lstat().st_size
                for path in self.path(announced.sha256).iterdir()
                if not path.is_symlink()
            }
        except (FileNotFoundError, NotADirectoryError):
            return False
        return sizes == {name: told.size for name, told in announced.files.items()}

    def tidy(self, *, keep: str = "") -> None:
        """Remove bundles that are neither in use, nor were before, nor are `keep`; be `alone`."""
        state = self.state()
        kept = {state.current, state.previous, keep}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if _MINE.fullmatch(path.name) and path.name.removeprefix(".") not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def state(self) -> State:
        """Return what people decided; raises ValueError where the file is damaged."""
        data, leads = self._read(STATE), self._leads()
        try:
            found = _state(json.loads(data)) if data else State()
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{self.folder / STATE}: must hold what is in use ({error!s:.80}); restore it from "
                "a copy, or remove it, and decide anew"
            ) from None
        if leads == found.current:
            return found
        # Between the link and the file the power went, or the files were lost.
        return replace(found, current=leads, previous=found.current or found.previous)

    def _leads(self) -> str:
        """Return which bundle the link leads to; "" where none does."""
        try:
            to = os.readlink(self.folder / CURRENT)
        except OSError:
            return ""
        return to if DIGEST.fullmatch(to) else ""

    def use(self, sha256: str, *, number: int, by: str, action: str) -> State:
        """Put a bundle in use, and keep the one before for a way back; be `alone`.

        Raises OSError where that cannot be written: then the one before is in use still.
        """
        was = self.state()
        row = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "action": action,
            "sha256": sha256,
            "by": by,
        }
        now = replace(
            was,
            current=sha256,
            previous=was.current if was.current != sha256 else was.previous,
            number=max(was.number, number),
            history=(*was.history, row)[-_KEPT:],
        )
        # The link first: it alone says what is in use, and `state` derives the rest.
        self._link(sha256)
        try:
            write_atomic(self.folder / STATE, json.dumps(asdict(now), indent=1).encode() + b"\n")
        except OSError:
            self._link(was.current)
            raise
        return now

    def _link(self, sha256: str) -> None:
        part, link = self.folder / f".{CURRENT}", self.folder / CURRENT
        if not sha256:
            link.unlink(missing_ok=True)
            return
        part.unlink(missing_ok=True)
        part.symlink_to(sha256)
        os.replace(part, link)

    def _read(self, name: str) -> bytes:
        try:
            with (self.folder / name).open("rb") as file:
                return file.read(16 * MAX_BYTES)
        except FileNotFoundError:
            return b""


def _state(told: Any) -> State:
    """Return what a file says; raises ValueError, TypeError or KeyError for any other form."""
    if not isinstance(told, dict) or told.keys() != _FIELDS:
        raise ValueError("other fields")
    if not all(told[one] == "" or DIGEST.fullmatch(told[one]) for one in ("current", "previous")):
        raise ValueError("no SHA-256")
    if type(told["number"]) is not int or not 0 <= told["number"] < 1 << 40:
        raise ValueError("no number")
    history = told["history"]
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise ValueError("no rows of decisions")
    return State(**told | {"history": tuple(history)})


def check(folder: Path, announced: Announcement) -> None:
    """Raise ValueError unless a folder holds the files that were announced, and nothing else."""
    names = {path.name for path in folder.iterdir()}
    if names != announced.files.keys():
        odd = min(names ^ announced.files.keys())
        raise ValueError(f"{folder / odd}: is missing, or was not announced; remove the folder")
    for name, told in announced.files.items():
        path = folder / name
        if path.is_symlink() or path.stat().st_size != told.size or _digest(path) != told.sha256:
            raise ValueError(
                f"{path}: must be what the coordinator has announced, {told.size} bytes of SHA-256 "
                f"{told.sha256[:16]}…, is not; remove {folder}, and it is fetched again"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
