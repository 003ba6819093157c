"""An audit on a terminal: one table, a sentence a site, what was found, what was not checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from fedlite.audit.cost import Loss, libraries
from fedlite.audit.inspection import Audit
from fedlite.audit.rules import Issue, mend
from fedlite.audit.statement import CLEAN, Statement
from fedlite.privacy.accounting import PRV_ERROR
from fedlite.reporting import terminal, wording

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_PLACES = 3
_SHOWN = 40
COLUMNS = (
    "site",
    "data set",
    "plans",
    "releases",
    "PLD",
    "PRV",
    "RDP",
    "charged of ceiling",
    "verdict",
)
_WORDS = ("site", "data set", "verdict")


def cells(statement: Statement) -> list[str]:
    """Return one row of the table, in the order of its columns."""
    whole, known = statement.charged_loss, statement.rows > 0
    charged = f"{wording.epsilon(statement.charged, _PLACES)} {statement.charged_by}".strip()
    return [
        statement.site or statement.name,
        statement.dataset,
        f"{len(statement.plans):,}" if known else wording.ABSENT,
        f"{statement.releases:,}" if known else wording.ABSENT,
        wording.epsilon(whole.pld if whole else None, _PLACES),
        prv(whole),
        wording.epsilon(whole.rdp if whole else None, _PLACES),
        f"{charged} / {statement.ceiling:g}" if statement.ceiling is not None else wording.ABSENT,
        statement.verdict,
    ]


def prv(loss: Loss | None) -> str:
    """Return the PRV figure in words; a missing one is said to be missing."""
    if loss is None:
        return wording.ABSENT
    return "not computed" if loss.prv is None else wording.epsilon(loss.prv, _PLACES)


def print_audit(audit: Audit, page: str = "", file: TextIO | None = None) -> None:
    """Print the audit for a person; `page` is the page that was written, `file` stdout if None."""
    from rich.text import Text

    console = terminal.console(file)

    def say(text: str, style: str = "") -> None:
        # A Text and not a string: brackets in a site's name must not be read as rich markup.
        console.print(Text(wording.plain(text), style=style), soft_wrap=True)

    if audit.statements:
        console.print(_table(audit.statements))
        say(_legend())
        console.print()
    for statement in audit.statements[:_SHOWN]:
        say(statement.sentence, "" if statement.verdict == CLEAN else "bold red")
    if len(audit.statements) > _SHOWN:
        say(f"and {len(audit.statements) - _SHOWN:,} more; --json lists them all")
    for claims in audit.runs:
        say(f"{claims.source.path}: {claims.sentence}")
    if audit.findings:
        console.print()
        say("Findings", "bold")
        for issue in audit.findings[:_SHOWN]:
            say(f"  {where(issue)}: {issue.rule}: {issue.text}", "red")
        for rule in dict.fromkeys(issue.rule for issue in audit.findings):
            say(f"  {rule}: {mend(rule)}", "dim")
        if len(audit.findings) > _SHOWN:
            say(f"  and {len(audit.findings) - _SHOWN:,} more; --json lists them all")
    if audit.notes or audit.unchecked:
        console.print()
        say("Not checked, and other notes", "bold")
        for issue in audit.unchecked:
            say(f"  {where(issue)}: {issue.text}", "red")
            say(f"  {issue.rule}: {mend(issue.rule)}", "dim")
        for line in notes(audit.notes)[:_SHOWN]:
            say(f"  {line}")
    console.print()
    say(audit.verdict, "bold" if audit.clean else "bold red")
    if page:
        say(f"{page}  this audit as a page")


def where(issue: Issue) -> str:
    """Return the place of an issue: file, site, row."""
    parts = [issue.path]
    if issue.site:
        parts.append(issue.site)
    if issue.row is not None:
        parts.append(f"row {issue.row}")
    return ", ".join(parts)


def notes(issues: Sequence[Issue]) -> list[str]:
    """Return the notes as lines, those with the same words together."""
    places: dict[str, list[str]] = {}
    for issue in issues:
        places.setdefault(issue.text, []).append(where(issue))
    lines = []
    for text, found in places.items():
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        lines.append(f"{'; '.join(found[:3])}{more}: {text}")
    return lines


def _legend() -> str:
    return (
        "PLD, PRV and RDP: epsilon of the whole plans, by three accountants, rounded up; "
        f"PRV includes its own error of {PRV_ERROR:g}. "
        "Charged: the same by the bound that the ceiling is held against. "
        f"Computed with {', '.join(dict.fromkeys(v for v in libraries().values() if v))}."
    )


def _table(statements: Sequence[Statement]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    # Eighty columns are few: what is the same for all is said above, and plans are in the sentence.
    sets = {statement.dataset for statement in statements}
    hidden = {"plans"} | ({"data set"} if len(sets) == 1 else set())
    table = Table(
        title=wording.plain(f"data set {sets.pop()}") if len(sets) == 1 else None,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in COLUMNS:
        if name in hidden:
            continue
        # Only these may shrink on a narrow terminal: a cut figure would be a wrong figure.
        words = name in _WORDS
        table.add_column(
            name.replace(" of ", " of\n"),
            justify="left" if words else "right",
            no_wrap=not words and name != "PRV",
            overflow="fold",
        )
    for statement in statements[:_SHOWN]:
        style = "" if statement.verdict == CLEAN else "red"
        row = zip(COLUMNS, cells(statement), strict=True)
        table.add_row(*(_cell(text) for name, text in row if name not in hidden), style=style)
    return table


def _cell(text: str) -> Text:
    from rich.text import Text

    return Text(wording.plain(text))
