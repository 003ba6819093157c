"""A run's three books held against each other: what the server saw, its record, and the ledgers.

What one of them has and another lacks is told by name. A release of which the server has no line is
no finding by itself: an update can be lost on its way, and has then been spent all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from fedlite.audit.book import Book
from fedlite.audit.claims import Claims
from fedlite.audit.counts import name_of
from fedlite.audit.lines import Line
from fedlite.audit.rules import Issue
from fedlite.reporting.record import ROUNDS


def check(
    claims: Claims, books: Mapping[str, Book], lines: Sequence[Line], *, closed: bool
) -> list[Issue]:
    """Return where they disagree; books: by site. closed: no round is still to come."""
    if not claims.unit or claims.source.witness is None:
        return []
    arrived = [line for line in lines if line.payload and line.run == claims.run]
    counted = [line for line in lines if line.payload and line.run == (name_of(claims.run) or None)]
    seen = [line for line in arrived if line.kind == "seen"]
    issues = _rounds(claims, seen, closed=closed)
    if claims.claimed:
        issues += _releases(claims, arrived)
        issues += _counts(claims, {line.site for line in counted if line.kind == "seen"})
        payloads = {line.payload for line in (*arrived, *counted)}
        for site, book in books.items():
            issues += _ledger(claims, site, book, payloads, closed=closed)
    return issues


def _rounds(claims: Claims, seen: Sequence[Line], *, closed: bool) -> list[Issue]:
    """Hold the rounds against the summary and against the server's lines."""
    path, issues = str(claims.source.path / ROUNDS), []
    if closed and not (claims.source.rounds or b"\n").endswith(b"\n"):
        # While a run goes on, a crash may leave half a line.
        issues.append(Issue("rounds-damaged", "ends in the middle of a line", path))
    numbers = [one.number for one in claims.rounds]
    if numbers != list(range(1, len(numbers) + 1)) or len(numbers) != claims.length:
        text = f"holds {len(numbers)} rounds, and the summary speaks of {claims.length}"
        issues.append(Issue("rounds-mismatch", text, path))
    if claims.unit == "none" and any(one.epsilon is not None for one in claims.rounds):
        text = "holds an epsilon, and the summary says that there was no privacy unit"
        issues.append(Issue("summary-mismatch", text, path))
    if not claims.claimed:
        return issues
    by_round: dict[int, set[str]] = {}
    for line in seen:
        by_round.setdefault(line.round, set()).add(line.site)
    for one in claims.rounds:
        sites = by_round.get(one.number, set())
        if one.accepted > len(sites):
            text = (
                f"round {one.number} used {one.accepted} updates, and witness.jsonl holds lines of "
                f"{', '.join(sorted(sites)) or 'nobody'}"
            )
            issues.append(Issue("witness-missing-line", text, path, row=one.number - 1))
    late = sorted(number for number in by_round if closed and number > len(numbers))
    if late:
        text = f"ends with round {len(numbers)}, and the server saw updates in round {late[0]}"
        issues.append(Issue("rounds-mismatch", text, path))
    return issues


def _releases(claims: Claims, arrived: Sequence[Line]) -> list[Issue]:
    """Hold the counts of the summary against the server's lines, site by site."""
    issues = []
    payloads: dict[str, set[str]] = {site: set() for site in claims.sites}
    for line in arrived:
        if line.kind == "seen":
            payloads.setdefault(line.site, set()).add(line.payload)
    for site, found in sorted(payloads.items()):
        if site not in claims.sites:
            text = f"the server saw {len(found)} updates of it, and the summary does not name it"
            issues.append(claims.issue("summary-understates", text, site))
            continue
        said = claims.sites[site].get("releases")
        if type(said) is not int or said < 0 or said == len(found):
            continue  # what is no count is told where the claim is read
        rule = "witness-missing-line" if said > len(found) else "summary-understates"
        text = f"{said} updates arrived by the summary, and witness.jsonl holds {len(found)}"
        issues.append(claims.issue(rule, text, site))
    return issues


def _counts(claims: Claims, seen: Set[str]) -> list[Issue]:
    """Hold whose counts arrived by the summary against the server's lines; seen: their sites."""
    issues = []
    for site in sorted(set(claims.counts.sites) - seen):
        text = "its counts arrived by the summary, and witness.jsonl has no line of them"
        issues.append(claims.issue("witness-missing-line", text, site))
    # What arrived and was no counts is named among the dropped, what was lost among the missing.
    for site in sorted(seen - set(claims.counts.named)):
        text = "the server saw counts of it, and the summary does not name it among those asked"
        issues.append(claims.issue("summary-understates", text, site))
    return issues


def _ledger(
    claims: Claims, site: str, book: Book, payloads: set[str], *, closed: bool
) -> list[Issue]:
    """Hold what a ledger released in this run against what arrived, and the rounds there were."""
    lost, beyond, own = [], [], {claims.run, name_of(claims.run)}
    for payload, places in book.releases.items():
        for row, of in places:
            body = book.reserves.get(of, {})
            if body.get("run") not in own:
                continue
            if payload not in payloads:
                lost.append(body["round"])
            if closed and body["run"] == claims.run and body["round"] > len(claims.rounds):
                beyond.append((row, body["round"]))
    issues = []
    if beyond:
        row, number = beyond[0]
        text = f"releases in round {number}, and the run ended with round {len(claims.rounds)}"
        issues.append(book.issue("rounds-mismatch", text, row))
    if lost:
        rounds = ", ".join(map(str, sorted(set(lost))[:10]))
        text = (
            f"{site}: {len(lost)} released updates (round {rounds}) are not among those that the "
            "server saw: they were lost on the way or came too late, and are spent all the same"
        )
        issues.append(book.issue("not-arrived", text).as_note())
    return issues
