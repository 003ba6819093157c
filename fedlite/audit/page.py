"""The audit as one page that can be mailed, printed, and opened without a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Frame:
    """Where a chart's axes lie, in its own units."""

    width: int = 340
    height: int = 140
    left: int = 40
    end: int = 328
    top: int = 14
    ground: int = 116


@dataclass(frozen=True)
class _Chart:
    """A ledger's steps over its rounds: what was reserved as a path, and where its limit lies."""

    said: str
    clean: bool
    path: str
    limit: str
    axis: Sequence[tuple[str, str]]
    rounds: str


_FRAME = _Frame()


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
    word = "clean" if audit.clean else "findings" if audit.findings else "not closed"
    drawn = [one for one in audit.statements if one.timeline]
    return markup.render(
        "audit.html.j2",
        title=f"{TITLE}: {word}",
        clean=audit.clean,
        verdict=audit.verdict,
        first=_first(audit),
        sites=markup.Table(
            COLUMNS,
            [cells(statement) for statement in audit.statements],
            caption="Epsilon of each ledger at its ceiling's delta; smaller protects more",
        ),
        sentences=[one.sentence for one in audit.statements],
        frame=_FRAME,
        charts=[_chart(statement) for statement in drawn[:_CHARTS]],
        undrawn=len(drawn) - _CHARTS,
        plans=_plans(audit.statements),
        runs=[(str(claims.source.path), claims.sentence) for claims in audit.runs],
        findings=_findings(audit.findings),
        unchecked=[
            *(f"{where(issue)}: {issue.text}. {means(issue.rule)}" for issue in audit.unchecked),
            *notes(audit.notes),
        ],
        checked=_checked(audit),
    )


def _first(audit: Audit) -> list[tuple[str, str]]:
    read = [one for one in audit.statements if one.rows]
    largest = max((one.charged for one in read if one.charged is not None), default=None)
    return [
        ("ledgers", f"{len(read):,}"),
        ("releases", f"{sum(one.releases for one in read):,}"),
        ("largest epsilon charged", wording.epsilon(largest, 3)),
        ("findings", f"{len(audit.findings):,}"),
    ]


def _chart(statement: Statement) -> _Chart:
    points, count = statement.timeline, len(statement.timeline)
    top = max(statement.whole, points[-1][1], 1)
    wide, high = _FRAME.end - _FRAME.left, _FRAME.ground - _FRAME.top

    def x(number: int) -> float:
        return _FRAME.left + wide * number / count

    def y(steps: int) -> float:
        return _FRAME.top + high * (1 - steps / top)

    every = math.ceil(count / _POINTS)
    drawn = [n for n in range(count) if (count - 1 - n) % every == 0]
    path, level = f"M{x(0):.1f} {y(0):.1f}", 0
    for number in drawn:
        level = points[number][1]
        path += f"V{y(level):.1f}H{x(number + 1):.1f}"
    limit = y(statement.whole)
    reserved = wording.count(level, "step")
    # The limit's figure would cover the zero of the axis where nothing was charged.
    named = [(statement.whole, limit)] if limit < _FRAME.ground - 8 else []
    named.append((0, _FRAME.ground))
    return _Chart(
        said=f"{statement.name}: {reserved} reserved of {statement.whole:,} charged",
        clean=statement.verdict == CLEAN,
        path=path,
        limit=f"{limit:.1f}",
        axis=[(f"{steps:,}", f"{at + 4:.1f}") for steps, at in named],
        rounds=wording.count(count, "round"),
    )


def _plans(statements: list[Statement]) -> markup.Table | None:
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
        return None
    head = ["site", "run", "unit", "sigma", "q", "clip", "steps of asked", "charged"]
    caption = "What each run committed to before its first step, as the ledger says"
    return markup.Table(head, rows, caption=caption)


def _findings(issues: list[Issue]) -> list[dict[str, object]]:
    return [
        {
            "name": rule,
            "means": means(rule),
            "mend": mend(rule),
            "table": markup.Table(
                ["where", "what was found"],
                [(where(issue), issue.text) for issue in issues if issue.rule == rule],
            ),
        }
        for rule in dict.fromkeys(issue.rule for issue in issues)
    ]


def _checked(audit: Audit) -> list[tuple[str, object]]:
    names = {"pld": "PLD", "prv": "PRV", "rdp": "RDP"}
    found = libraries()
    return [
        *((name, f"{number:,}") for name, number in audit.checked.items()),
        *((f"{names[k]} by", found[k] or "not installed: not computed") for k in names),
    ]
