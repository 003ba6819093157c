"""The files of an audit, held against each other: copies, keys, servers, runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fedlite.audit import (
    agreement,
    book as audit_book,
    claims as audit_claims,
    closing as audit_closing,
    lines as audit_lines,
    sharing,
    sources as audit_sources,
    witness as audit_witness,
)
from fedlite.audit.book import Book
from fedlite.audit.claims import Claims
from fedlite.audit.counts import name_of
from fedlite.audit.lines import Line, Witnessed
from fedlite.audit.people import person_ceilings
from fedlite.audit.rules import Issue
from fedlite.audit.sources import Run, Sources


class Case:
    """All files of one audit, and what holding them against each other shows.

    books: every ledger, by its path. groups: the copies of each ledger together, the longest first.
    claims: of every run, by its path. witnessed: every witness file. absent: (site, run directory)
    of ledgers that are missing. closed: the runs that are as the server closed them. issues: all
    that was found, after `check`.
    """

    def __init__(self, sources: Sources, witness_keys: Collection[str] = ()) -> None:
        """Read and verify every file by itself; `witness_keys`: those that may have signed."""
        self.sources = sources
        self.witness_keys = witness_keys
        self.closed: set[Path] = set()
        self.issues: list[Issue] = list(sources.issues)
        self.books = {file.path: audit_book.read(file) for file in sources.all_ledgers()}
        self.claims = {run.path: audit_claims.read(run) for run in sources.runs}
        self.of_run = {
            run.path: audit_lines.read(run.path / audit_sources.WITNESS, run.witness, str(run.path))
            for run in sources.runs
            if run.witness is not None
        }
        bare = [audit_lines.read(path, data) for path, data in sources.witnesses]
        self.witnessed: list[Witnessed] = [*self.of_run.values(), *bare]
        for run in sources.runs:
            self._name(run)
        self.groups = self._group()
        self.absent: list[tuple[str, Path]] = []

    def _name(self, run: Run) -> None:
        """Give a run without a readable summary the name that its other files know it by."""
        claims, witnessed = self.claims[run.path], self.of_run.get(run.path)
        names = [line.run for _, line in witnessed.lines] if witnessed else []
        names += [plan.run for file in run.ledgers for plan in self.books[file.path].plans[-1:]]
        claims.run = claims.run or next(filter(None, names), "")

    def _group(self) -> list[list[Book]]:
        """Return the copies of each ledger together, the longest first."""
        by_id: dict[str, list[Book]] = {}
        for book in self.books.values():
            by_id.setdefault(book.id or str(book.path), []).append(book)
        return [
            sorted(books, key=lambda book: (-len(book.rows), not book.intact))
            for books in by_id.values()
        ]

    def counts(self) -> dict[str, int]:
        """Return how much was read."""
        return {
            "ledgers": sum(bool(books[0].rows) for books in self.groups),
            "rows": sum(len(books[0].rows) for books in self.groups),
            "witness lines": sum(len(witnessed.lines) for witnessed in self.witnessed),
            "runs": len(self.claims),
        }

    def check(self) -> None:
        """Collect every issue."""
        for book in self.books.values():
            self.issues += book.issues
            # What the account says of the same row is said already.
            told = {(issue.rule, issue.row) for issue in book.issues}
            self.issues += [i for i in sharing.trusted(book) if (i.rule, i.row) not in told]
        for books in self.groups:
            for copy in books[1:]:
                if not audit_book.prefix_of(copy.rows, books[0].rows):
                    text = f"goes on otherwise than {books[0].path}, a copy of the same ledger"
                    self.issues.append(copy.issue("fork", text))
        self._same_key()
        self.issues += sharing.divided(books[0] for books in self.groups)
        self.issues += person_ceilings(self.books.values())
        for witnessed in self.witnessed:
            self.issues += witnessed.issues
            for key in sorted(witnessed.keys):
                text = f"signed by the server's key {key}"
                self.issues.append(Issue("server-key", text, str(witnessed.path)).as_note())
                if self.witness_keys and key not in self.witness_keys:
                    text += ", which is not one that was given"
                    self.issues.append(Issue("other-witness", text, str(witnessed.path)))
        fresh = self._fresh()
        self.issues += audit_witness.refusals(self.witnessed, fresh)
        self.issues += audit_witness.forks(self.witnessed)
        for books in self.groups:
            self._join(books, fresh)
        for run in self.sources.runs:
            self._run(run)

    def _fresh(self) -> list[Witnessed]:
        """Return the witness files, each line once: a server may keep the same in two."""
        seen: set[Line] = set()
        files = []
        for witnessed in self.witnessed:
            lines = tuple((n, line) for n, line in witnessed.lines if line not in seen)
            seen |= {line for _, line in lines}
            files.append(replace(witnessed, lines=lines))
        return files

    def _same_key(self) -> None:
        """One key keeps one ledger for a data set; a second one forgets what the first spent."""
        first: dict[tuple[str, str, str], Book] = {}
        names: dict[tuple[str, str], Book] = {}
        for books in self.groups:
            book = books[0]
            if book.rows:
                namesake = names.setdefault((book.site, book.dataset), book)
                if namesake is not book:
                    text = (
                        f"a second ledger with this site and data set is at {namesake.path}; if "
                        "both are of the same records, what they spent adds up"
                    )
                    self.issues.append(book.issue("not-compared", text).as_note())
                key = book.site, book.dataset, book.rows[0].body["key"]
                other = first.setdefault(key, book)
                if other is not book:
                    text = f"its key has signed another ledger for this data set: {other.path}"
                    self.issues.append(book.issue("ledger-replaced", text, 0))

    def _join(self, books: list[Book], fresh: list[Witnessed]) -> None:
        for number, book in enumerate(books):
            for witnessed in fresh:
                # A run's copy is as old as the run; only the newest one, and what a site holds
                # now, must have all that any server saw.
                own = witnessed.run == str(book.path.parent.parent)
                if number == 0 or own or book.file.home != "run":
                    self.issues += audit_witness.join(book, witnessed)
        self.issues += audit_witness.missing(books[0], self._knowing(books))
        self._unseen(books[0])

    def _knowing(self, books: list[Book]) -> list[Witnessed]:
        """Return the witness files that should know a ledger, under the names of their runs."""
        homes = {str(book.path.parent.parent) for book in books if book.file.home == "run"}
        servers = {row.body["witness"] for row in books[0].witnesses}
        return [
            replace(witnessed, run=self.claims[Path(witnessed.run)].run or witnessed.run)
            if witnessed.run
            else witnessed
            for witnessed in self.witnessed
            if witnessed.run in homes
            or witnessed.keys & servers
            or any(line.ledger == books[0].id for _, line in witnessed.lines)
        ]

    def _unseen(self, book: Book) -> None:
        """Tell that no server's word on a ledger is here; who names a key wants that word."""
        if not book.rows:
            return
        seen = [
            line.seq
            for witnessed in self.witnessed
            for _, line in witnessed.lines
            if line.kind == "seen" and line.ledger == book.id
        ]
        closed = (
            head for one in self.witnessed for _, c in one.closings for head in c.sites.values()
        )
        if not seen and not any(head and head["ledger"] == book.id for head in closed):
            text = "no server's record of it was given: that its end is whole cannot be seen"
            if book.witnesses:
                last = max(row.body["seq"] for row in book.witnesses)
                text += f"; in it, servers' signatures vouch for the rows up to {last}"
            kind: Literal["unchecked", "note"] = "unchecked" if self.witness_keys else "note"
            self.issues.append(replace(book.issue("not-witnessed", text), severity=kind))

    def _run(self, run: Run) -> None:
        claims = self.claims[run.path]
        witnessed = self.of_run.get(run.path)
        lines = [line for _, line in witnessed.lines] if witnessed else []
        if run.witness is None and (run.ledgers or claims.claimed):
            text = "this run has ledgers or claims privacy, and no witness.jsonl"
            self.issues.append(Issue("witness-missing", text, str(run.path)))
        self._notes(claims, bool(lines))
        books = self._present(run, claims, lines)
        self.issues += audit_claims.check(claims, books, lines)
        # Whoever names the server's key wants its word: what has not even claims is not it.
        if run.ledgers or witnessed or claims.claimed or self.witness_keys:
            bare = [one for one in self.witnessed if not one.run]
            closed, issues = audit_closing.check(claims, books, witnessed, bare)
            self.issues += issues
            if closed:
                self.closed.add(run.path)
        ended = bool(witnessed and witnessed.last)
        self.issues += agreement.check(claims, books, lines, closed=ended)

    def _notes(self, claims: Claims, lines: bool) -> None:
        path, run = str(claims.source.path), claims.source
        if run.summary is None:
            if not run.ledgers and not lines:
                text = "neither a ledger nor a summary that says that none was needed"
                self.issues.append(Issue("no-ledger", text, path))
            self.issues.append(Issue("not-compared", claims.sentence, path).as_note())
        elif claims.unit == "none":
            self.issues.append(Issue("nothing-to-audit", claims.sentence, path).as_note())
        elif claims.unit and not claims.claimed:
            self.issues.append(Issue("not-claimed", claims.sentence, path).as_note())
        elif claims.claimed and not claims.sites and not run.ledgers:
            self.issues.append(Issue("no-ledger", "claims privacy and has no ledger", path))

    def _present(self, run: Run, claims: Claims, lines: Sequence[Line]) -> dict[str, Book]:
        """Return the run's ledgers by site, and note those that are missing or exchanged."""
        own = {file.name: self.books[file.path] for file in run.ledgers}
        ids: dict[str, list[str]] = {}
        for line in lines:
            if line.kind == "seen":
                ids.setdefault(line.site, []).append(line.ledger)
        claimed = {
            site
            for site, row in claims.sites.items()
            if claims.claimed and row.get("releases") != 0
        }
        if claims.claimed:
            claimed |= set(claims.counts.sites)
        witnessed = self.of_run.get(run.path)
        for closing in witnessed.last[:1] if witnessed else ():
            for site, head in closing.sites.items():
                if head is not None:
                    claimed.add(site)
                    ids.setdefault(site, [head["ledger"]])
        found = dict(own)
        for site in sorted(set(ids) | claimed):
            seen = ids.get(site, [])
            if site in own:
                book = own[site]
                if seen and book.rows and book.id not in seen:
                    text = f"is ledger {book.id[:16]}, and the server saw {seen[-1][:16]}"
                    self.issues.append(book.issue("ledger-replaced", text, 0))
                continue
            elsewhere = self._elsewhere(site, seen, claims.run)
            if elsewhere is None:
                text = f"the ledger of {site} is not here"
                self.issues.append(Issue("ledger-missing", text, str(run.path), site))
                self.absent.append((site, run.path))
                continue
            found[site] = elsewhere
            if seen and elsewhere.id not in seen:
                text = f"is ledger {elsewhere.id[:16]}, and the server saw {seen[-1][:16]}"
                self.issues.append(elsewhere.issue("ledger-replaced", text, 0))
        return found

    def _elsewhere(self, site: str, ids: list[str], run: str) -> Book | None:
        """Return a site's ledger that was given beside a run directory without it."""
        firsts = [books[0] for books in self.groups if books[0].rows]
        own = {run, name_of(run)} - {""}
        for book in firsts:
            if book.id in ids:
                return book
        for book in firsts:
            if book.site == site and any(plan.run in own for plan in book.plans):
                return book
        return None

    def _runs_of(self, books: list[Book]) -> list[Run]:
        paths = {str(book.path.parent.parent) for book in books if book.file.home == "run"}
        ids = {book.id for book in books if book.rows}
        paths |= {
            witnessed.run
            for witnessed in self.witnessed
            if witnessed.run and any(line.ledger in ids for _, line in witnessed.lines)
        }
        return [run for run in self.sources.runs if str(run.path) in paths]

    def open_runs(self, books: list[Book]) -> bool:
        """Tell whether a run that a ledger took part in is not here as the server closed it."""
        return any(run.path not in self.closed for run in self._runs_of(books))

    def claims_of(self, books: list[Book]) -> list[Claims]:
        """Return the claims of the runs that a ledger took part in."""
        return [self.claims[run.path] for run in self._runs_of(books)]

    def issues_of(self, books: list[Book]) -> list[Issue]:
        """Return what concerns one ledger: found in its files, or about its site in its runs."""
        paths = {str(book.path) for book in books}
        names = {book.site for book in books} | {
            book.file.name for book in books if book.file.home == "run"
        }
        folders = [run.path for run in self._runs_of(books)]
        bare = {str(witnessed.path) for witnessed in self.witnessed if not witnessed.run}
        return [
            issue
            for issue in self.issues
            if issue.path in paths
            or (
                issue.site
                and issue.site in names
                and (issue.path in bare or any(map(Path(issue.path).is_relative_to, folders)))
            )
        ]
