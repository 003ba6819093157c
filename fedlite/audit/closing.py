"""Whether a run was closed: does the server's last line vouch for the files as they are here?

Without that line nothing shows that the run's files, its ledgers among them, are whole: it may be
running, have crashed, or have been cut.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from fedlite.audit.book import Book
from fedlite.audit.claims import Claims
from fedlite.audit.lines import Closing, Witnessed
from fedlite.audit.rules import Issue

MISSING = ""


def check(
    claims: Claims,
    books: Mapping[str, Book],
    witnessed: Witnessed | None,
    others: Iterable[Witnessed] = (),
) -> tuple[bool, list[Issue]]:
    """Return whether a run was closed as it is here, and what speaks against it.

    books: the run's ledgers by site. witnessed: its `witness.jsonl`, None where there is none.
    others: files that servers keep for all their runs, in which the same closing may stand.
    """
    directory = claims.source.path
    last = witnessed.last if witnessed else ()
    if witnessed is None or not last:
        later = bool(witnessed and witnessed.closings)
        text = (
            "not closed: the server went on after it had closed the run, and did not close it again"
            if later
            else "not closed: the server has not signed that this run is over"
        )
        return False, [Issue("not-closed", text, str(directory), severity="unchecked")]
    if witnessed.unchained:
        text = (
            f"not closed: {witnessed.unchained:,} lines of an older fedlite hold no hash of the "
            "line before, so any but the last may have been taken out"
        )
        return False, [Issue("not-closed", text, str(directory), severity="unchecked")]
    found = {name: _sha256(directory / name) for name in last[0].files}
    closing = next((one for one in last if one.files == found), last[0])
    issues = []
    for name, hash in sorted(closing.files.items()):
        if found[name] != hash:
            said = "is missing" if found[name] == MISSING else "is not what the server signed"
            text = f"{said}; it closed the run with the SHA-256 {hash[:16]}"
            issues.append(Issue("closed-otherwise", text, str(directory / name)))
    issues += _keys(claims, closing, witnessed)
    if claims.unit:
        issues += _sites(claims, closing, witnessed, books)
    issues += _elsewhere(closing, others, witnessed)
    whole = not any(issue.severity == "finding" for issue in witnessed.issues)
    return whole and not issues, issues


def _sha256(path: Path) -> str:
    """Return a file's SHA-256 in hex, or "" where there is none that can be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return MISSING
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return MISSING


def _keys(claims: Claims, closing: Closing, witnessed: Witnessed) -> list[Issue]:
    issues, path = [], str(witnessed.path)
    strange = sorted(witnessed.keys - {closing.witness})
    if strange:
        text = f"was closed by {closing.witness[:16]}, and holds lines of {strange[0][:16]}"
        issues.append(Issue("closed-otherwise", text, path))
    if closing.run != claims.run:
        text = f"closes run {closing.run}, and this is run {claims.run[:64]!r}"
        issues.append(Issue("closed-otherwise", text, path))
    return issues


def _sites(
    claims: Claims, closing: Closing, witnessed: Witnessed, books: Mapping[str, Book]
) -> list[Issue]:
    path, issues = str(witnessed.path), []
    named = set(claims.sites) | set(claims.named)
    for site, own in books.items():
        if own.file.home == "run" and site not in closing.sites:
            text = "took no part in this run by the closing line, which does not vouch for it"
            issues.append(own.issue("closed-otherwise", text))
    for site in sorted(named ^ set(closing.sites)):
        who = "the summary" if site in named else "the closing line"
        other = "the closing line" if site in named else "the summary"
        text = f"{who} names {site[:64]}, and {other} does not"
        issues.append(Issue("closed-otherwise", text, path, site))
    issues += [
        book.issue("other-witness", f"{closing.witness[:16]} closed the run; it lists others")
        for book in books.values()
        if _unlisted(book, closing)
    ]
    seen = {(line.ledger, line.seq, line.hash) for _, line in witnessed.lines}
    for site, head in closing.sites.items():
        book = books.get(site)
        # What a line of this file saw is held against the ledger by that line.
        if head is None or book is None or (head["ledger"], head["seq"], head["hash"]) in seen:
            continue
        rows = book.rows
        if book.id != head["ledger"]:
            text = f"is ledger {book.id[:16]}, and the run was closed with {head['ledger'][:16]}"
            issues.append(book.issue("ledger-replaced", text, 0))
        elif head["seq"] >= len(rows):
            text = f"ends with row {len(rows) - 1}, and the run was closed with {head['seq']}"
            issues.append(book.issue("truncated", text, len(rows) - 1))
        elif rows[head["seq"]].hash != head["hash"]:
            text = f"has another row {head['seq']} than the run was closed with"
            issues.append(book.issue("fork", text, head["seq"]))
    return issues


def _unlisted(book: Book, closing: Closing) -> bool:
    """Tell whether a site's policy lists its servers, and not the one that closed the run."""
    head = closing.sites.get(book.site)
    if head is None or not book.rows:
        return False
    servers = book.policy_at(min(head["seq"], len(book.rows) - 1))["servers"]
    return bool(servers) and closing.witness not in servers


def _elsewhere(closing: Closing, others: Iterable[Witnessed], witnessed: Witnessed) -> list[Issue]:
    """Compare with the closing line that the server keeps in another file."""
    for other in others:
        strange = {line.witness for _, line in other.lines if line.run == closing.run}
        if strange - {closing.witness}:
            text = f"{other.path} holds lines of this run by another key, {min(strange)[:16]}"
            return [Issue("closed-otherwise", text, str(witnessed.path))]
        same = [one for _, one in other.closings if one.run == closing.run]
        if same and all(one.files != closing.files for one in same):
            text = f"{other.path} closes run {closing.run} with other files"
            return [Issue("closed-otherwise", text, str(witnessed.path))]
    return []
