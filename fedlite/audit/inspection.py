"""Audit privacy ledgers from files alone: was anything changed, and what was spent?

The auditor was not there and trusts nobody. `audit` verifies every chain and signature, replays
what the rows mean, recomputes every epsilon by three accountants, and holds the ledgers against
what the servers saw and signed (`witness.jsonl`) and what the run claims (`summary.json`). What
could not be checked is a finding; what by nature is optional is a note. Needs neither torch nor
Flower.

What no file can prove: that a site added the noise that its ledger speaks of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedlite.audit import sources as audit_sources
from fedlite.audit.case import Case
from fedlite.audit.claims import Claims
from fedlite.audit.cost import libraries
from fedlite.audit.rules import Issue, means, mend
from fedlite.audit.statement import Statement, state
from fedlite.reporting import wording

FORMAT = 1
"""Version of the JSON object; a new key is no new version."""

_MOST = 10


@dataclass(repr=False)
class Audit:
    """What an audit came to; `clean` is what counts.

    statements: one a ledger, and one a site whose ledger is missing. runs: every run directory's
    claims. findings: what is wrong or could not be checked. notes: what to know besides.
    unchecked: what had to be checked and could not be. checked: how many of what were read.
    run_directories: those paths that are run directories.
    """

    statements: list[Statement] = field(default_factory=list)
    runs: list[Claims] = field(default_factory=list)
    findings: list[Issue] = field(default_factory=list)
    unchecked: list[Issue] = field(default_factory=list)
    notes: list[Issue] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    run_directories: list[Path] = field(default_factory=list)

    def __repr__(self) -> str:
        """Return the verdict: a shell would show every row of every ledger."""
        return f"<Audit: {self.verdict}>"

    @property
    def clean(self) -> bool:
        """Whether everything was checked and nothing was found."""
        return not self.findings and not self.unchecked

    @property
    def verdict(self) -> str:
        """The whole audit in one sentence."""
        if self.findings:
            rules = len({issue.rule for issue in self.findings})
            count = len(self.findings)
            return (
                f"NOT clean: {count} finding{'s' * (count > 1)} under {rules} "
                f"rule{'s' * (rules > 1)}."
            )
        if self.unchecked:
            runs = sum(issue.rule == "not-closed" for issue in self.unchecked)
            parts = [f"{wording.count(runs, 'run')} without the server's closing line"] * (runs > 0)
            if bare := len(self.unchecked) - runs:
                parts.append(f"{wording.count(bare, 'ledger')} of which no server has said a word")
            return (
                f"NOT closed: no finding, but {' and '.join(parts)}; what was cut off, if "
                "anything, could not be seen."
            )
        if not self.statements:
            return "Nothing to audit: no run here claims any privacy."
        count = len(self.statements)
        return f"Clean: {count} ledger{'s' * (count > 1)} checked, no finding."

    def as_dict(self) -> dict[str, Any]:
        """Return the audit as plain data, for JSON.

        ```
        format     1
        clean      true when nothing was found, and all that had to be checked could be
        verdict    one sentence
        sites      [{site, dataset, ledger (id), paths, rows, runs, releases,
                     plans: [PLAN as in the ledger's rows],
                     steps: {reserved, charged, asked}, declined (rounds),
                     epsilon: {spent: {pld, prv, rdp}, whole: {pld, prv, rdp},
                               charged, charged_by ("pld" or "rdp"), ceiling, person, delta},
                     witnessed: {last (row), keys},
                     verdict ("clean", "findings", "not closed", "not checked"),
                     sentence}]
        runs       [{path, run, unit, claimed, sentence}]
        findings   [{rule, text, path, site, row, means, mend}]
        unchecked  [the same]: what had to be checked and could not be
        notes      [the same]
        checked    {"ledgers", "rows", "witness lines", "runs"}: how many were read
        libraries  {pld, rdp, prv}: name and version, "" where it is missing
        ```
        Epsilons are null where they were not computed. `spent` counts the steps reserved, `whole`
        the plans as they were charged; `row` is a ledger's row, or a line from 0, or null.
        """
        return {
            "format": FORMAT,
            "clean": self.clean,
            "verdict": self.verdict,
            "sites": [statement.as_dict() for statement in self.statements],
            "runs": [
                {
                    "path": str(claims.source.path),
                    "run": claims.run,
                    "unit": claims.unit,
                    "claimed": claims.claimed,
                    "sentence": claims.sentence,
                }
                for claims in self.runs
            ],
            "findings": [_issue(issue) for issue in self.findings],
            "unchecked": [_issue(issue) for issue in self.unchecked],
            "notes": [_issue(issue) for issue in self.notes],
            "checked": self.checked,
            "libraries": libraries(),
        }


def _issue(issue: Issue) -> dict[str, Any]:
    return {
        "rule": issue.rule,
        "text": issue.text,
        "path": issue.path,
        "site": issue.site,
        "row": issue.row,
        "means": means(issue.rule),
        "mend": mend(issue.rule),
    }


def audit(paths: Sequence[Path], witness_keys: Collection[str] = ()) -> Audit:
    """Audit everything under `paths`; never raises on what it finds there.

    paths: ledgers, run directories, site directories, witness files, or folders of these.
    witness_keys: the servers' public keys, hex, as their operators have published them; what was
    signed by another key is then a finding. Without any, each key that signed is a note.
    """
    sources = audit_sources.find(paths)
    case = Case(sources, witness_keys)
    case.check()
    issues = list(dict.fromkeys(_trim(case.issues)))
    found = Audit(
        runs=[case.claims[run.path] for run in sources.runs],
        findings=[issue for issue in issues if issue.severity == "finding"],
        unchecked=[issue for issue in issues if issue.severity == "unchecked"],
        notes=[issue for issue in issues if issue.severity == "note"],
        checked=case.counts(),
        run_directories=sources.given_runs,
    )
    found.statements = [
        state(
            books,
            case.issues_of(books),
            case.claims_of(books),
            case.witnessed,
            closed=not case.open_runs(books)
            and not any(issue.severity == "unchecked" for issue in case.issues_of(books)),
        )
        for books in case.groups
    ]
    found.statements += [Statement.absent(site, str(path)) for site, path in case.absent]
    found.statements.sort(key=lambda statement: (statement.site, statement.dataset))
    _label(found.statements)
    for statement in found.statements:
        # The accountants are run last, and what they find belongs to the audit as well.
        for issue in statement.issues:
            (found.findings if issue.severity == "finding" else found.notes).append(issue)
    return found


def _label(statements: Sequence[Statement]) -> None:
    """Tell several ledgers of one site apart: by data set, or by file where that is the same."""
    sites = Counter(one.site for one in statements)
    both = Counter((one.site, one.dataset) for one in statements)
    for one in statements:
        if one.site and sites[one.site] > 1:
            same = not one.dataset or both[one.site, one.dataset] > 1
            one.label = one.paths[0] if same else one.dataset


def _trim(issues: Iterable[Issue]) -> list[Issue]:
    """Return the first findings under each rule in each file, and how many more there are."""
    kept: list[Issue] = []
    counts: dict[tuple[str, str, str, str], int] = {}
    last: dict[tuple[str, str, str, str], Issue] = {}
    for issue in issues:
        key = issue.rule, issue.path, issue.site, issue.severity
        counts[key] = counts.get(key, 0) + 1
        last[key] = issue
        if counts[key] <= _MOST:
            kept.append(issue)
    kept += [
        replace(last[key], text=f"and {count - _MOST} more of this rule", row=None)
        for key, count in counts.items()
        if count > _MOST
    ]
    return kept
