"""A witness file, verified line by line: its chain, its signatures, and what closes a run.

A line is signed by the server (its proof) and holds the hash of the line before; the head in it is
signed by the site. The closing line names the run's files by their SHA-256, and its sites.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlite.audit.rules import Issue
from fedlite.identity import keys
from fedlite.privacy.ledger.lines import CLOSED, RUN_FILES, line_hash, parse, proven
from fedlite.privacy.ledger.rows import NO_HASH, row_message, witness_message
from fedlite.privacy.ledger.rules import LedgerError

# An accusation with these words rests on a head that the site itself has signed.
SIGNED = ("regress", "fork", "new-ledger")
_MOST_ISSUES = 1000


@dataclass(frozen=True)
class Line:
    """One line about a head, without its chain and proof. Keys, hashes and signatures are hex.

    kind: "seen" or "refused" (then `why` says for what). run, payload: empty for a hello.
    """

    kind: str
    site: str
    ledger: str
    key: str
    seq: int
    hash: str
    signature: str
    payload: str
    run: str
    round: int
    time: str
    why: str
    witness: str
    countersignature: str

    @property
    def row(self) -> tuple[str, int]:
        """Of which ledger and row it speaks."""
        return self.ledger, self.seq


@dataclass(frozen=True)
class Closing:
    """A line that closes a run.

    run: its name. lines: hash of the line before it in the run's own file. files: SHA-256 by name.
    sites: the last head that was seen of each site, or None where none was.
    """

    run: str
    lines: str
    files: Mapping[str, str]
    sites: Mapping[str, Mapping[str, Any] | None]
    witness: str
    time: str


@dataclass(frozen=True)
class Witnessed:
    """A witness file: its genuine lines with their numbers, and the keys that signed them.

    run: the run directory's own name of the run ("" for a bare file, which may hold many runs).
    closings: as `lines`. count: of all lines, good or not, and what was begun of one more.
    unchained: how many lines of an older fedlite it begins with; none of these holds a hash of
    another.
    """

    path: Path
    lines: tuple[tuple[int, Line], ...]
    issues: tuple[Issue, ...]
    run: str = ""
    closings: tuple[tuple[int, Closing], ...] = ()
    count: int = 0
    unchained: int = 0

    @property
    def keys(self) -> set[str]:
        """The servers that signed lines."""
        found = {line.witness for _, line in self.lines}
        return found | {closing.witness for _, closing in self.closings}

    @property
    def last(self) -> tuple[Closing, ...]:
        """The closing lines with which the file ends, the last one first.

        A summary is written after its closing line, so that a crash may leave two.
        """
        found = []
        for back, (number, closing) in enumerate(reversed(self.closings), start=1):
            if number != self.count - back:
                break
            found.append(closing)
        return tuple(found)


def _hex(*digits: int) -> Callable[[Any], bool]:
    pattern = re.compile("|".join(f"[0-9a-f]{{{n}}}" for n in digits))
    return lambda value: isinstance(value, str) and bool(pattern.fullmatch(value))


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 200


def _number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**32


def _files(value: Any) -> bool:
    named = isinstance(value, dict) and set(value) == set(RUN_FILES)
    return named and all(map(_HASH, value.values()))


def _sites(value: Any) -> bool:
    def head(one: Any) -> bool:
        names = {"ledger", "seq", "hash"}
        return one is None or (
            isinstance(one, dict)
            and set(one) == names
            and _HASH(one["ledger"])
            and _HASH(one["hash"])
            and _number(one["seq"])
        )

    return isinstance(value, dict) and all(_text(k) and head(v) for k, v in value.items())


_HASH = _hex(64)
_BOTH: dict[str, Callable[[Any], bool]] = {
    "run": _hex(0, 16),
    "time": _text,
    "witness": _HASH,
    "proof": _hex(128),
}
_HEAD_FORM: dict[str, Callable[[Any], bool]] = _BOTH | {
    "kind": lambda value: value in ("seen", "refused"),
    "site": _text,
    "ledger": _hex(0, 64),
    "key": _hex(0, 64),
    "seq": _number,
    "hash": _hex(0, 64),
    "signature": _hex(0, 128),
    "payload": _hex(0, 64),
    "round": _number,
    "why": _text,
    "countersignature": _hex(0, 128),
}
_CLOSING_FORM: dict[str, Callable[[Any], bool]] = _BOTH | {
    "kind": lambda value: value == CLOSED,
    "lines": _HASH,
    "files": _files,
    "sites": _sites,
}


class _Wrong(Exception):
    def __init__(self, rule: str, text: str, site: str = "") -> None:
        super().__init__(text)
        self.rule, self.site = rule, site


def read(path: Path, data: bytes, run: str = "") -> Witnessed:
    """Verify every line of a witness file; lines that are not genuine are issues and left out.

    run: as in `Witnessed`. After 1,000 issues the rest is not judged.
    """
    *whole, torn = data.split(b"\n")
    found: list[tuple[int, Line]] = []
    closings: list[tuple[int, Closing]] = []
    issues: list[Issue] = []
    before: str | None = NO_HASH
    unchained = 0
    chained = False
    for number, text in enumerate(whole):
        if len(issues) == _MOST_ISSUES:
            issues.append(Issue("too-many", "the rest was not judged", str(path), "", number))
            break
        try:
            row = _row(text)
            line = _line(row)
        except _Wrong as wrong:
            issues.append(Issue(wrong.rule, str(wrong), str(path), wrong.site, number))
            # What follows it can not be held against it: it is a finding by itself.
            before = None
            continue
        # A line that was torn out of its place is still the server's word.
        broken = _broken(row, before, chained) or (run and _foreign(row))
        if broken:
            site = row.get("site", "")
            issues.append(Issue("witness-broken", broken, str(path), site, number))
        before, chained = line_hash(text), "prev" in row
        unchained += not chained
        if isinstance(line, Line):
            found.append((number, line))
        else:
            closings.append((number, line))
    if torn:
        said = f"{len(torn)} bytes without a line end: the server stopped while it wrote them"
        issues.append(Issue("torn-line", said, str(path), "", len(whole), "note"))
    count = len(whole) + bool(torn)
    return Witnessed(path, tuple(found), tuple(issues), run, tuple(closings), count, unchained)


def _row(text: bytes) -> dict[str, Any]:
    try:
        row = parse(text)
    except LedgerError as error:
        raise _Wrong("witness-damaged", error.text) from None
    form = _CLOSING_FORM if row.get("kind") == CLOSED else _HEAD_FORM
    if "prev" in row or row.get("kind") == CLOSED:
        form = form | {"prev": _HASH}
    wrong = sorted(
        name
        for name in row.keys() | form.keys()
        if name not in row or name not in form or not form[name](row[name])
    )
    if wrong:
        named = ", ".join(map(repr, wrong))[:200]
        raise _Wrong("witness-damaged", f"these keys are missing, unknown or ill-formed: {named}")
    if not proven(row):
        text_of = "the server that it names has not signed it"
        raise _Wrong("witness-forged", text_of, row.get("site", ""))
    return row


def _broken(row: Mapping[str, Any], before: str | None, chained: bool) -> str:
    """Return why a line does not follow the one before it, or nothing."""
    if "prev" not in row:
        return "names no line before it, as those before it do" if chained else ""
    if before in (None, row["prev"]):
        return ""
    return f"follows the line {row['prev'][:16]}, and the line before it is {str(before)[:16]}"


def _foreign(row: Mapping[str, Any]) -> str:
    """Return why a closing line is not of this run's own file, or nothing."""
    if row["kind"] != CLOSED or row["lines"] == row["prev"]:
        return ""
    return f"closes a file that ends with the line {row['lines'][:16]}, which is not this one"


def _line(row: dict[str, Any]) -> Line | Closing:
    said = {name: value for name, value in row.items() if name not in ("prev", "proof")}
    if said["kind"] == CLOSED:
        del said["kind"]
        return Closing(**said)
    line = Line(**said)
    _check_head(line)
    return line


def _check_head(line: Line) -> None:
    """Check that the site has signed the head, and the server what a seen line promises."""
    signed = line.hash and keys.verify(line.key, line.signature, row_message(line.hash))
    if line.kind == "seen":
        if not signed:
            raise _Wrong("witness-forged", f"the key {line.key[:16]} has not signed it", line.site)
        message = witness_message(line.ledger, line.seq, line.hash) if line.ledger else b""
        if not keys.verify(line.witness, line.countersignature, message):
            raise _Wrong("witness-forged", "the countersignature is not the server's", line.site)
    elif line.why in SIGNED and not signed and (line.hash or line.why != "new-ledger"):
        # Only a site that shows no ledger at all, where one is known, leaves nothing to sign.
        text = f"it accuses the site of {line.why!r} by a head that the site has not signed"
        raise _Wrong("witness-forged", text, line.site)
