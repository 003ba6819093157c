"""What servers saw of ledgers, held against them: heads, payloads, countersignatures, refusals.

A seen line holds the server's countersignature, which the site keeps in its ledger: so each side
can show what the other has hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fedlite.audit.book import Book
from fedlite.audit.lines import SIGNED, Line, Witnessed
from fedlite.audit.rules import Issue

_WHY = ("regress", "fork", "new-ledger", "forged")


def refusals(files: Sequence[Witnessed], fresh: Iterable[Witnessed]) -> list[Issue]:
    """Return what servers refused: each is a finding about that site.

    An accusation that their own lines belie is one about the server. files: all of them; fresh: the
    same, each line once.
    """
    seen = {line for one in files for _, line in one.lines if line.kind == "seen"}
    ledgers, hashes = _by(seen, "site", "ledger"), _by(seen, "row", "hash")
    issues = []
    for witnessed in fresh:
        for number, line in witnessed.lines:
            if line.kind != "refused":
                continue
            known = {"fork": hashes.get(line.row), "new-ledger": ledgers.get(line.site)}
            if known.get(line.why) == {line.hash if line.why == "fork" else line.ledger}:
                text = f"it accuses {line.site[:64]} of {line.why!r} by the very head that it saw"
                issues.append(Issue("witness-forged", text, str(witnessed.path), "", number))
                continue
            rule = f"refused-{line.why}" if line.why in _WHY else "refused-other"
            when = f"round {line.round} of run {line.run}" if line.run else "a hello"
            head = f"row {line.seq}, hash {line.hash[:16]}" if line.hash else "no head"
            text = f"refused at {line.time} in {when}: {line.why} ({head})"
            issues.append(Issue(rule, text, str(witnessed.path), line.site, number))
    return issues


def _by(lines: Iterable[Line], key: str, value: str) -> dict[object, set[str]]:
    found: dict[object, set[str]] = {}
    for line in lines:
        found.setdefault(getattr(line, key), set()).add(getattr(line, value))
    return found


def forks(files: Iterable[Witnessed]) -> list[Issue]:
    """Return where servers countersigned two different rows under one number."""
    first: dict[object, str] = {}
    issues = []
    for witnessed in files:
        for number, line in witnessed.lines:
            if line.kind == "seen":
                known = first.setdefault(line.row, line.hash)
                if known != line.hash:
                    text = f"row {line.seq} was seen with the hashes {known[:16]}, {line.hash[:16]}"
                    issues.append(Issue("fork", text, str(witnessed.path), line.site, number))
    return issues


def join(book: Book, witnessed: Witnessed) -> list[Issue]:
    """Hold one ledger against every head and payload that a server saw of it."""
    lines = [line for _, line in witnessed.lines if line.ledger == book.id and book.rows]
    # Other refused lines need not have come from the site.
    lines = [line for line in lines if line.kind == "seen" or line.why in SIGNED]
    found = _heads(book, [line for line in lines if line.kind == "seen"])
    found += _payloads(book, [line for line in lines if line.payload])
    where = f" ({witnessed.path})"
    return [replace(issue, text=issue.text + where) for issue in found]


def _heads(book: Book, lines: Sequence[Line]) -> list[Issue]:
    """Return where a head that was seen is not in the ledger, one issue a kind."""
    end = len(book.rows)
    beyond = [line for line in lines if line.seq >= end]
    within = [line for line in lines if line.seq < end]
    forked = [line for line in within if book.rows[line.seq].hash != line.hash]
    strange = [line for line in within if line not in forked and line.key != book.key_at(line.seq)]
    issues = []
    if beyond:
        last = max(beyond, key=lambda line: line.seq)
        text = f"the server saw row {last.seq} at {last.time}, and the ledger ends with {end - 1}"
        if book.intact:
            issues.append(book.issue("truncated", text, end - 1))
        else:
            text += "; the rows after the first error could not be compared"
            issues.append(book.issue("not-compared", text, end - 1).as_note())
    if forked:
        first = min(forked, key=lambda line: line.seq)
        text = (
            f"the server saw row {first.seq} with the hash {first.hash[:16]}, and here it has "
            f"{book.rows[first.seq].hash[:16]}{_more(forked)}"
        )
        issues.append(book.issue("fork", text, first.seq))
    if strange:
        first = strange[0]
        text = f"signed by {first.key[:16]}, which is not the ledger's key{_more(strange)}"
        issues.append(book.issue("witness-forged", text, first.seq))
    return issues


def _payloads(book: Book, lines: Sequence[Line]) -> list[Issue]:
    """Return which payloads the ledger did not release, or not then, one issue a kind."""
    none, late, other = [], [], []
    for line in lines:
        places = book.releases.get(line.payload, [])
        rounds = [(book.reserves.get(of, {}).get(k) for k in ("run", "round")) for _, of in places]
        if not places:
            none.append(line)
        elif line.kind == "seen" and all(seq > line.seq for seq, _ in places):
            late.append(line)
        elif (line.run, line.round) not in map(tuple, rounds):
            other.append(line)
    issues = []
    # Past an error, a release row may stand that can not be relied on.
    if none and book.intact:
        text = f"the server received {_what(none)}, and there is no release row"
        issues.append(book.issue("unrecorded-release", text))
    if late:
        at = book.releases[late[0].payload][0][0]
        text = (
            f"the server received {_what(late)} with row {late[0].seq}, and the release was "
            f"recorded only in row {at}"
        )
        issues.append(book.issue("unrecorded-release", text, at))
    if other:
        seq, of = book.releases[other[0].payload][0]
        said = book.reserves.get(of, {}).get("round")
        text = f"the server received {_what(other)}, and the ledger released it in round {said}"
        issues.append(book.issue("other-round", text, seq))
    return issues


def _what(lines: Sequence[Line]) -> str:
    first = lines[0]
    return f"payload {first.payload[:16]} in round {first.round} of run {first.run}{_more(lines)}"


def _more(lines: Sequence[Line]) -> str:
    return f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""


def missing(book: Book, files: Sequence[Witnessed]) -> list[Issue]:
    """Return the countersignatures in a ledger of which the server's own record says nothing."""
    recorded = {
        (line.ledger, line.seq, line.hash, line.witness)
        for witnessed in files
        for _, line in witnessed.lines
        if line.kind == "seen"
    }
    given = {witnessed.run for witnessed in files if witnessed.run}
    bare: set[str] = set().union(*(w.keys for w in files if not w.run))
    issues, elsewhere = [], 0
    for row in book.witnesses:
        seq, hash, witness = (row.body[name] for name in ("seq", "hash", "witness"))
        if (book.id, seq, hash, witness) in recorded:
            continue
        # Seen in the run that the row belongs to, or in the one that brought the signature.
        runs = {book.run_before(seq), book.run_after(row.seq)} - {""}
        if witness in bare or runs <= given:
            text = f"the server {witness[:16]} signed that it saw row {seq}; it has no such line"
            issues.append(book.issue("witness-missing-line", text, row.seq))
        else:
            elsewhere += 1
    if elsewhere and files:
        text = f"{elsewhere} countersignatures are of runs whose witness.jsonl was not given"
        issues.append(book.issue("not-compared", text).as_note())
    return issues
