"""The audit as one page that can be mailed, printed, and opened without a network."""

from __future__ import annotations

import math
from pathlib import Path

from fedlite.audit.cost import libraries
from fedlite.audit.inspection import Audit
from fedlite.audit.rules import Issue, means, mend
from fedlite.audit.statement import CLEAN, Statement
from fedlite.audit.table import COLUMNS, cells, notes, where
from fedlite.reporting import markup, wording
from fedlite.storage import write_atomic

TITLE = "fedlite audit"

_CHARTS = 60
_POINTS = 400
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 340, 140, 40, 12, 14, 24
_STYLE = """<style>
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.charts figure { margin: 0; }
.charts svg { display: block; width: 100%; height: auto; }
.charts figcaption { font-size: .9rem; color: var(--ink); overflow-wrap: anywhere; }
.audit :is(td, th):is(:nth-child(2), :last-child) { text-align: left; }
.plans :is(td, th):is(:nth-child(2), :nth-child(3)) { text-align: left; }
.plans td, .plans th, .audit td, .audit th { padding-right: .7rem; }
.verdict.warn { border-left-color: var(--warn); }
.found :is(td, thead th) { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.found tbody th { white-space: normal; overflow-wrap: anywhere; }
h3 { margin: 1.5rem 0 .25rem; font-size: 1rem; color: var(--warn); }
ul { padding-left: 1.2rem; } li { margin: .3rem 0; overflow-wrap: anywhere; }
</style>"""


def may_write(path: Path) -> bool:
    """Tell whether `path` is free, or holds an earlier audit page; another file is never replaced.

    Raises OSError when it cannot be read.
    """
    if not path.exists():
        return not path.is_symlink()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f"<title>{TITLE}".encode() in file.read(4096)


def write(audit: Audit, path: Path) -> None:
    """Write the page atomically.

    Raises ValueError when another kind of file is there, OSError when it cannot be written.
    """
    if not may_write(path):
        raise ValueError(
            f"{path}: is not an audit page, and is never overwritten; name another file"
        )
    write_atomic(path, build(audit).encode())


def build(audit: Audit) -> str:
    """Return the page's HTML; every text from a file is escaped."""
    parts = [
        _STYLE,
        "<h1>Audit of privacy ledgers</h1>",
        markup.paragraph(audit.verdict, "verdict" if audit.clean else "verdict warn"),
        _cards(audit),
        *_sites(audit),
        *_charts(audit.statements),
        *_plans(audit.statements),
        *_runs(audit),
        *_findings(audit.findings),
        *_not_checked(audit),
        *_checked(audit),
    ]
    word = "clean" if audit.clean else "findings" if audit.findings else "not closed"
    return markup.page(f"{TITLE}: {word}", parts)


def _cards(audit: Audit) -> str:
    read = [one for one in audit.statements if one.rows]
    largest = max((one.charged for one in read if one.charged is not None), default=None)
    return markup.cards(
        [
            ("ledgers", f"{len(read):,}"),
            ("releases", f"{sum(one.releases for one in read):,}"),
            ("largest epsilon charged", wording.epsilon(largest, 3)),
            ("findings", f"{len(audit.findings):,}"),
        ]
    )


def _sites(audit: Audit) -> list[str]:
    if not audit.statements:
        return []
    rows = [cells(statement) for statement in audit.statements]
    caption = "Epsilon of each ledger at its ceiling's delta; smaller protects more"
    table = markup.table(COLUMNS, rows, caption=caption)
    sentences = "".join(f"<li>{markup.text(one.sentence)}</li>" for one in audit.statements)
    return [
        markup.heading("Site by site"),
        f'<div class="audit">{table}</div>',
        markup.paragraph(
            "PLD, PRV and RDP are what the whole plans cost, by three accountants from two "
            "independent libraries, rounded up; PRV includes its own error of 0.01. Charged is the "
            "same by the bound that the ceiling is held against: PLD for a ledger's first plan, a "
            "Renyi filter for all plans together. Where a run ended early, the bound stays that of "
            "its whole plan.",
            "soft",
        ),
        f"<ul>{sentences}</ul>",
    ]


def _charts(statements: list[Statement]) -> list[str]:
    drawn = [one for one in statements if one.timeline]
    if not drawn:
        return []
    figures = "".join(_chart(statement) for statement in drawn[:_CHARTS])
    left = len(drawn) - _CHARTS
    return [
        markup.heading("Spending"),
        markup.paragraph(
            "Steps reserved, round after round; the dashed line is what was charged beforehand "
            "and may not be exceeded.",
            "soft",
        ),
        f'<div class="charts">{figures}</div>',
        markup.paragraph(f"{left:,} more ledgers are not drawn.", "soft") if left > 0 else "",
    ]


def _chart(statement: Statement) -> str:
    points, count = statement.timeline, len(statement.timeline)
    top = max(statement.whole, points[-1][1], 1)
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(number: int) -> float:
        return _LEFT + wide * number / count

    def y(steps: int) -> float:
        return _TOP + high * (1 - steps / top)

    every = math.ceil(count / _POINTS)
    drawn = [n for n in range(count) if (count - 1 - n) % every == 0]
    path, level = f"M{x(0):.1f} {y(0):.1f}", 0
    for number in drawn:
        level = points[number][1]
        path += f"V{y(level):.1f}H{x(number + 1):.1f}"
    ground, limit = _HEIGHT - _BOTTOM, y(statement.whole)
    ink = "var(--accent)" if statement.verdict == CLEAN else "var(--warn)"
    reserved = wording.count(level, "step")
    said = f"{statement.name}: {reserved} reserved of {statement.whole:,} charged"
    # The limit's figure would cover the zero of the axis where nothing was charged.
    named = [(statement.whole, limit), (0, ground)] if limit < ground - 8 else [(0, ground)]
    axis = "".join(
        f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{steps:,}</text>'
        for steps, at in named
    )
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{markup.text(said)}" style="font: 11px system-ui, sans-serif; '
        f'fill: var(--soft)"><path d="M{_LEFT} {_TOP}V{ground}H{_WIDTH - _RIGHT}" '
        f'style="fill: none; stroke: var(--line)"/><path d="M{_LEFT} {limit:.1f}'
        f'H{_WIDTH - _RIGHT}" style="fill: none; stroke: var(--soft); stroke-dasharray: 4 3"/>'
        f'<path d="{path}" style="fill: none; stroke: {ink}; stroke-width: 2"/>{axis}'
        f'<text x="{_LEFT}" y="{_HEIGHT - 7}">0</text><text x="{_WIDTH - _RIGHT}" '
        f'y="{_HEIGHT - 7}" text-anchor="end">{wording.count(count, "round")}</text></svg>'
        f"<figcaption>{markup.text(said)}</figcaption></figure>"
    )


def _plans(statements: list[Statement]) -> list[str]:
    rows = [
        [
            one.name,
            plan["run"],
            plan["unit"],
            f"{plan['noise_multiplier']:.6g}",
            f"{plan['sampling_rate']:g}",
            f"{plan['clip']:g}",
            f"{plan['steps']:,} of {plan['asked']:,}",
            f"{wording.epsilon(plan['charged'], 3)} {plan['bound']}",
        ]
        for one in statements
        for plan in one.plans
    ]
    if not rows:
        return []
    head = ["site", "run", "unit", "sigma", "q", "clip", "steps of asked", "charged"]
    caption = "What each run committed to before its first step, as the ledger says"
    table = markup.table(head, rows, caption=caption)
    return [markup.heading("Plans"), f'<div class="plans">{table}</div>']


def _runs(audit: Audit) -> list[str]:
    if not audit.runs:
        return []
    rows = [(str(claims.source.path), claims.sentence) for claims in audit.runs]
    return [markup.heading("Runs"), markup.facts(rows)]


def _findings(issues: list[Issue]) -> list[str]:
    parts = [markup.heading("Findings")]
    if not issues:
        return [*parts, markup.paragraph("None.")]
    for rule in dict.fromkeys(issue.rule for issue in issues):
        rows = [(where(issue), issue.text) for issue in issues if issue.rule == rule]
        parts += [
            f"<h3>{markup.text(rule)}</h3>",
            markup.paragraph(f"What it means: {means(rule)}"),
            markup.paragraph(f"What to do: {mend(rule)}"),
            f'<div class="found">{markup.table(["where", "what was found"], rows)}</div>',
        ]
    return parts


def _not_checked(audit: Audit) -> list[str]:
    lines = [
        *(f"{where(issue)}: {issue.text}. {means(issue.rule)}" for issue in audit.unchecked),
        *notes(audit.notes),
        "Whether a site really added the noise that its ledger speaks of: no file can prove that. "
        "Its own code and random numbers must be trusted, or the server where it adds the noise.",
        "Whether a site keeps other ledgers, or the same records under another data set's name.",
    ]
    items = "".join(f"<li>{markup.text(line)}</li>" for line in lines)
    return [markup.heading("What was not checked, and other notes"), f"<ul>{items}</ul>"]


def _checked(audit: Audit) -> list[str]:
    names = {"pld": "PLD", "prv": "PRV", "rdp": "RDP"}
    found = libraries()
    return [
        markup.heading("How it was checked"),
        markup.facts(
            [
                *((name, f"{number:,}") for name, number in audit.checked.items()),
                *((f"{names[k]} by", found[k] or "not installed: not computed") for k in names),
            ]
        ),
        markup.paragraph(
            "Every row's hash, place in the chain and signature; what every row means after those "
            "before it; every plan against the ceiling in force when it was admitted; every head "
            "and payload that a server signed for; the chain of its lines and its closing line "
            "over the run's files; the summary's mechanism, epsilons, budgets and releases.",
            "soft",
        ),
    ]
