"""What lies under the paths that an auditor was given: runs, site directories, bare ledgers.

Everything is told by content, not by its name's promise, and nothing is passed over in silence: a
path that cannot be read, or in which there is nothing to audit, becomes a finding.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlite.audit.rules import Issue
from fedlite.privacy.ledger.lines import MAX_LINE, RUN_FILES
from fedlite.privacy.ledger.rows import decode
from fedlite.privacy.ledger.rules import LedgerError
from fedlite.reporting.record import ROUNDS, SUMMARY

WITNESS = "witness.jsonl"
LEDGERS = "ledgers"
SCENARIO = "scenario.toml"
_SITE = "site.toml"
_MOST_BYTES = 2**28
# Each line becomes an object: lines without anything in them must not fill the memory.
_MOST_LINES = 2**20
_DEEPEST = 8
# Where the audit itself writes its page.
PAGE = "audit.html"
_DRAWN = "is not signed, and was not looked at: `fedlite report` draws it anew from what is"
_UNSIGNED = {
    "report.html": _DRAWN,
    "figures": _DRAWN,
    "checkpoint": "was not looked at: it is for going on with the run, and in a simulation holds "
    "the private keys of the server and the sites, with which anything can be signed",
}
# Where a coordinator keeps its journal; a site's folder is not searched beyond its ledgers.
_JOURNALS = "audit"
_JOURNAL = (
    "is a journal of what people decided, which nobody signs, and was not looked at beyond its "
    "first line"
)
# What a ledger's writer keeps beside it.
_LOCK, _POISONED = ".lock", ".poisoned"


@dataclass(frozen=True)
class LedgerFile:
    """The bytes of a file that should be a ledger. `home` is "run", "site" or "" (given bare)."""

    path: Path
    data: bytes
    home: str = ""

    @property
    def name(self) -> str:
        """The file's name without its ending: a site in a run, a data set in a site directory."""
        return self.path.name.removesuffix(".jsonl")


@dataclass(frozen=True)
class Run:
    """A run directory; what is None is not there (or could not be read, and is then an issue)."""

    path: Path
    ledgers: tuple[LedgerFile, ...]
    witness: bytes | None
    summary: bytes | None
    rounds: bytes | None
    scenario: bytes | None = None

    @property
    def name(self) -> str:
        """The directory, for a person."""
        return str(self.path)


@dataclass
class Sources:
    """All that was found, each thing once, in the order of the paths."""

    runs: list[Run] = field(default_factory=list)
    ledgers: list[LedgerFile] = field(default_factory=list)
    witnesses: list[tuple[Path, bytes]] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    given_runs: list[Path] = field(default_factory=list)
    hits: int = 0
    _seen: set[Path] = field(default_factory=set)

    def all_ledgers(self) -> list[LedgerFile]:
        """Every ledger, those of the runs first."""
        return [ledger for run in self.runs for ledger in run.ledgers] + self.ledgers

    def read(self, path: Path) -> bytes | None:
        """Return a regular file's bytes; None, and an issue, where that cannot be done."""
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise OSError("not a regular file")
            if status.st_size > _MOST_BYTES:
                raise OSError(f"{status.st_size:,} bytes are more than an audit reads")
            data = path.read_bytes()
            if data.count(b"\n") > _MOST_LINES:
                raise OSError(f"more than the {_MOST_LINES:,} lines that an audit reads")
            return data
        except (OSError, ValueError) as error:
            self.unreadable(path, error)
            return None

    def unreadable(self, path: Path, error: Exception) -> None:
        """Note that a path could not be looked at."""
        why = getattr(error, "strerror", None) or str(error)
        self.issues.append(Issue("unreadable", f"cannot be read: {why}", str(path)))

    def passed_over(self, path: Path, why: str) -> None:
        """Note what lies there and was not looked at."""
        self.issues.append(Issue("not-audited", why, str(path)).as_note())

    def first_time(self, path: Path) -> bool:
        """Tell whether `path`, which can be audited, has not been visited before."""
        self.hits += 1
        real = Path(os.path.realpath(path))
        new = real not in self._seen
        self._seen.add(real)
        return new


def find(paths: Sequence[Path]) -> Sources:
    """Return everything that can be audited under `paths`; never raises on what it finds."""
    sources = Sources()
    for path in paths:
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError) as error:
            sources.unreadable(path, error)
            continue
        if not stat.S_ISDIR(mode):
            _file(sources, path)
            continue
        before = sources.hits, len(sources.issues)
        _folder(sources, path, 0)
        found = [issue for issue in sources.issues[before[1] :] if issue.severity == "finding"]
        if sources.hits == before[0] and not found:
            sources.issues.append(Issue("no-ledger", "there is no ledger here", str(path)))
        real = path.resolve()
        sources.given_runs += [run.path for run in sources.runs if run.path.resolve() == real]
    sources.given_runs = list(dict.fromkeys(sources.given_runs))
    return sources


def _folder(sources: Sources, path: Path, depth: int) -> None:
    names = _names(sources, path)
    if names is None:
        return
    held = set(names)
    if held & {SUMMARY, ROUNDS, SCENARIO} or (LEDGERS in held and held & {WITNESS, *RUN_FILES}):
        _run(sources, path, held)
    elif _SITE in held or {"keys", LEDGERS} <= held:
        _site(sources, path, held)
    elif depth == _DEEPEST:
        sources.unreadable(path, OSError(f"folders nested deeper than {_DEEPEST} are not searched"))
    else:
        for name in names:
            inner = path / name
            if inner.is_dir() and inner.is_symlink():
                # It could lead round in a circle; what it leads to can be given by itself.
                sources.passed_over(inner, "is a link to a folder, and was not followed")
            elif inner.is_dir():
                _folder(sources, inner, depth + 1)
            elif name.endswith(".jsonl") and path.name == _JOURNALS and _is_journal(inner):
                sources.passed_over(inner, _JOURNAL)
            elif name.endswith(".jsonl"):
                _file(sources, inner)


def _names(sources: Sources, path: Path) -> list[str] | None:
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        sources.unreadable(path, error)
        return None


def _run(sources: Sources, path: Path, held: set[str]) -> None:
    if not sources.first_time(path):
        return
    ledgers = _ledgers(sources, path / LEDGERS, "run") if LEDGERS in held else []
    witness, summary, rounds, scenario = (
        sources.read(path / name) if name in held else None
        for name in (WITNESS, SUMMARY, ROUNDS, SCENARIO)
    )
    sources.runs.append(Run(path, tuple(ledgers), witness, summary, rounds, scenario))
    for name in sorted(held - {LEDGERS, WITNESS, PAGE, *RUN_FILES}):
        if name in _UNSIGNED:
            why = _UNSIGNED[name]
        elif (path / name).is_dir():
            why = "is no part of a run directory, and was not searched"
        else:
            why = "is not among what the server signs, and was not looked at"
        sources.passed_over(path / name, why)


def _site(sources: Sources, path: Path, held: set[str]) -> None:
    if not sources.first_time(path):
        return
    found = _ledgers(sources, path / LEDGERS, "site") if LEDGERS in held else []
    sources.ledgers += found
    if not found:
        text = "a site directory without any ledger: no private run yet, or its ledger is gone"
        sources.issues.append(Issue("no-ledger", text, str(path)))


def _ledgers(sources: Sources, folder: Path, home: str) -> list[LedgerFile]:
    found = []
    for name in _names(sources, folder) or []:
        path = folder / name
        if name.endswith(_LOCK):
            continue
        if name.endswith(_POISONED):
            _poisoned(sources, folder / name.removesuffix(_POISONED))
        elif not name.endswith(".jsonl") or name.startswith("."):
            sources.passed_over(path, "is no ledger by its name, and was not read")
        elif sources.first_time(path):
            data = sources.read(path)
            if data is not None:
                found.append(LedgerFile(path, data, home))
    return found


def _file(sources: Sources, path: Path) -> None:
    if not sources.first_time(path):
        return
    data = sources.read(path)
    if data is None:
        return
    if _is_witness(data):
        sources.witnesses.append((path, data))
    else:
        # Whatever it is, the verification of ledgers says what is wrong with it.
        sources.ledgers.append(LedgerFile(path, data))
        if Path(f"{path}{_POISONED}").exists():
            _poisoned(sources, path)


def _poisoned(sources: Sources, path: Path) -> None:
    text = "has not been recovered after a failed write"
    sources.issues.append(Issue("poisoned", text, str(path)))


def _is_witness(data: bytes) -> bool:
    for line in data.split(b"\n", 3)[:3]:
        row = as_object(line) if len(line) <= MAX_LINE else None
        if row is not None and {"proof", "witness"} <= row.keys():
            return True
    return False


def _is_journal(path: Path) -> bool:
    """Tell by its first line whether a file is a journal; what cannot be read is none."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            first = file.readline(MAX_LINE)
    except OSError:
        return False
    # A torn first line is a finding: whoever looks finds out what the file is.
    row = as_object(first) if first.endswith(b"\n") else None
    return row is not None and {"time", "action"} <= row.keys() and "kind" not in row


def as_object(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object in `data`, read strictly, or None when it is not one."""
    try:
        return decode(data)
    except LedgerError:
        return None


def why_not(data: bytes) -> str:
    """Return why `as_object` has none, or that what it has lacks something."""
    try:
        decode(data)
    except LedgerError as error:
        return f"{error.rule}: {error.text}"
    return "a key is missing or of another type"
