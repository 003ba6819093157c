"""The page of an evaluation: one file, which needs no network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlite.evaluation import drawing
from fedlite.evaluation.evaluate import Evaluation
from fedlite.reporting import markup, measures, wording
from fedlite.reporting.scores import less_is_better
from fedlite.storage import write_atomic

PAGE, FIGURES, RESULT = "evaluation.html", "figures", "evaluation.json"
# A wider confusion matrix is read by its largest mistakes.
_WIDEST = 20
_MISTAKES = 15
_NAMED = 24


def write(found: Evaluation, directory: Path) -> dict[str, Any]:
    """Write `evaluation.json`, `evaluation.html` and `figures/`, and return what was written.

    An earlier evaluation there is replaced; whatever else is there is not touched.
    """
    directory.mkdir(parents=True, exist_ok=True)
    figures = drawing.draw(found, directory / FIGURES)
    text = json.dumps(found.told, indent=2, sort_keys=True) + "\n"
    write_atomic(directory / RESULT, text.encode())
    write_atomic(directory / PAGE, build(found.told, directory / FIGURES).encode())
    return {
        "page": str(directory / PAGE),
        "json": str(directory / RESULT),
        "figures": [str(path) for path in figures],
    }


def build(told: Mapping[str, Any], figures: Path) -> str:
    """Return the page's HTML; every text is escaped."""
    return markup.render(
        "evaluation.html.j2",
        scenario=told["scenario"],
        about=_about(told),
        verdict=verdict(told),
        first=_first(told),
        notes=told["notes"],
        scores=scores(told),
        sites=_sites(told),
        classes=classes(told),
        confusion=_confusion(told),
        mistakes=_mistakes(told),
        calibration=_calibration(told, figures),
        errors=_errors(told, figures),
        groups=_groups(told, figures),
        corruptions=_corruptions(told, figures),
        branch=told["branch"] if _branched(told) else "",
    )


def _about(told: Mapping[str, Any]) -> str:
    parts = [told["model"], told["task"], wording.count(told["records"], "record"), told["where"]]
    return " · ".join(Path(str(part)).name if "/" in str(part) else str(part) for part in parts)


def verdict(told: Mapping[str, Any]) -> str:
    """Return what to know first, in a few sentences."""
    found = told["scores"][told["branch"]]
    first = measures.main(found)
    what = f"{first.title} {first.say(found.get(first.key))} on {told['records']:,} records"
    said = [f"{what}, by the {told['branch']} branch." if _branched(told) else f"{what}."]
    for column, rows in told.get("groups", {}).items():
        gaps = [(row["rate"], row["gap"]) for row in rows if row["gap"]]
        beyond = [(rate, gap) for rate, gap in gaps if gap["beyond_chance"]]
        if beyond:
            rate, gap = max(beyond, key=lambda one: one[1]["value"])
            said.append(
                f"By {column}, {rate} is {_apart(rate, gap['value'])} apart between {gap['to']} "
                f"and {gap['from']}, which chance alone hardly does."
            )
        elif gaps:
            said.append(f"By {column}, no gap is beyond what chance does with so many records.")
    worst = _worst(told)
    if worst:
        said.append(worst)
    return " ".join(said)


def _branched(told: Mapping[str, Any]) -> bool:
    return len(told["scores"]) > 1


def _apart(rate: str, size: float) -> str:
    if "error" in rate:
        return measures.MEASURES["mae"].say(size)
    return f"{100 * size:.1f} points"


def _worst(told: Mapping[str, Any]) -> str:
    branch, first = told["branch"], drawing.spoilt(told)
    lower = {
        name: found["3"][branch].get(first.key)
        for name, found in told.get("corruptions", {}).items()
    }
    known = {name: value for name, value in lower.items() if value is not None}
    if not known:
        return ""
    pick = max if less_is_better(first.key) else min
    name = pick(known, key=lambda one: known[one])
    return f"{name.capitalize()} at severity 3 leaves {first.name} {first.say(known[name])}."


def _first(told: Mapping[str, Any]) -> list[tuple[str, object]]:
    found = told["scores"][told["branch"]]
    shown = [(one.name, one.say(found[one.key])) for one in measures.ranked(found)][:3]
    if told.get("calibration"):
        shown.append(("calibration error", f"{told['calibration']['error']:.3f}"))
    return [*shown, ("records", f"{told['records']:,}")]


def scores(told: Mapping[str, Any]) -> markup.Table:
    """Return each branch's scores; a model with one branch has one row, called all."""
    ranked, branched = measures.ranked(next(iter(told["scores"].values()))), _branched(told)
    rows = [
        [branch if branched else "all", *(one.say(found.get(one.key)) for one in ranked)]
        for branch, found in told["scores"].items()
    ]
    return markup.Table(["branch" if branched else "", *(one.name for one in ranked)], rows)


def _sites(told: Mapping[str, Any]) -> markup.Table | None:
    if not told.get("sites"):
        return None
    branch, found = told["branch"], told["sites"]
    ranked = measures.ranked(dict.fromkeys(key for of in found.values() for key in of[branch]))
    rows = [
        [site, f"{of['records']:,}", *(one.say(of[branch].get(one.key)) for one in ranked)]
        for site, of in found.items()
    ]
    return markup.Table(["site", "records", *(one.name for one in ranked)], rows)


def classes(told: Mapping[str, Any]) -> markup.Table | None:
    """Return how each class or label is found."""
    if not told.get("classes"):
        return None
    rows = [
        [
            row["name"],
            f"{row['records']:,}",
            *(wording.share(row[key]) for key in ("precision", "recall")),
            wording.score(row["f1"]),
        ]
        for row in told["classes"]
    ]
    return markup.Table(["class", "records", "precision", "recall", "F1"], rows)


def _confusion(told: Mapping[str, Any]) -> markup.Matrix | None:
    counts, names = told.get("confusion"), told["labels"]
    if not counts or len(names) > _WIDEST:
        return None
    rows = []
    for at, (name, row) in enumerate(zip(names, counts, strict=True)):
        total = max(1, sum(row))
        cells = [
            markup.Cell(f"{number:,}", round(0.6 * number / total, 2), at == column)
            for column, number in enumerate(row)
        ]
        rows.append((name[:_NAMED], cells))
    caption = "A row is what records are, a column what they were told to be"
    return markup.Matrix(("is / told", *(name[:_NAMED] for name in names)), rows, caption)


def _mistakes(told: Mapping[str, Any]) -> markup.Table | None:
    counts, names = told.get("confusion"), told["labels"]
    if not counts or len(names) <= _WIDEST:
        return None
    pairs = [
        (number, names[at], names[column])
        for at, row in enumerate(counts)
        for column, number in enumerate(row)
        if at != column and number
    ]
    pairs.sort(key=lambda one: -one[0])
    rows = [[is_, told_, f"{number:,}"] for number, is_, told_ in pairs[:_MISTAKES]]
    return markup.Table(["is", "told to be", "records"], rows, caption="The most frequent mistakes")


def _calibration(told: Mapping[str, Any], figures: Path) -> dict[str, object] | None:
    found = told.get("calibration")
    if not found:
        return None
    return {
        "facts": [
            ("expected calibration error", f"{found['error']:.3f}"),
            ("Brier score", f"{found['brier']:.3f}"),
        ],
        "figure": markup.figure(
            figures / drawing.CALIBRATION,
            "the share of answers that are right by the probability that the model told",
            "On the dotted line probabilities mean what they say; below it the model is too sure.",
        ),
    }


def _errors(told: Mapping[str, Any], figures: Path) -> dict[str, object] | None:
    found = told.get("errors")
    if not found:
        return None
    keys = ("mae", "rmse", "bias", "median", "nine_in_ten")
    say = measures.MEASURES["mae"].say
    rows = [[name, *(say(of[key]) for key in keys)] for name, of in found.items()]
    head = ["target", "mean error", "root mean square", "bias", "median error", "nine in ten below"]
    return {
        "table": markup.Table(
            head, rows, caption="In the targets' own units; bias is told less true"
        ),
        "figure": markup.figure(
            figures / drawing.RESIDUALS,
            "what the model told against what was true, and the error by what it told",
            "Each point is a record, of many a sample; on the dotted line nothing is wrong.",
        ),
    }


def gap_text(row: Mapping[str, Any]) -> str:
    """Return a rate's largest gap with its interval, in words; a dash where there is none."""
    gap = row["gap"]
    if not gap:
        return wording.ABSENT
    if "error" in row["rate"]:
        say = measures.MEASURES["mae"].say
        size, low, high = (say(gap[key]) for key in ("value", "low", "high"))
        return f"{size} ({low} to {high})"
    size, low, high = (100 * gap[key] for key in ("value", "low", "high"))
    return f"{size:.1f} points ({low:.1f} to {high:.1f})"


def gaps(rows: list[Mapping[str, Any]]) -> markup.Table:
    """Return the largest gap of each rate."""
    found = []
    for row in rows:
        gap = row["gap"] or {}
        of = row["groups"]
        most, least = gap.get("to"), gap.get("from")
        named = [
            f"{group} ({of[group]['records']:,})" if group in of else wording.ABSENT
            for group in (most, least)
        ]
        beyond = wording.ABSENT if not gap else "yes" if gap["beyond_chance"] else "no"
        found.append([row["rate"], *named, gap_text(row), beyond])
    head = ["rate", "highest (records)", "lowest (records)", "gap, 95 %", "beyond chance"]
    return markup.Table(head, found)


def _groups(told: Mapping[str, Any], figures: Path) -> list[dict[str, object]]:
    return [
        {
            "column": column,
            "table": gaps(rows),
            "figure": markup.figure(
                figures / drawing.groups_png(number),
                f"rates by {column}, with intervals",
                "Points with 95 % intervals of each group by itself, its records in brackets.",
            ),
        }
        for number, (column, rows) in enumerate(told.get("groups", {}).items())
        if rows
    ]


def _corruptions(told: Mapping[str, Any], figures: Path) -> dict[str, object] | None:
    if not told.get("corruptions"):
        return None
    return {
        "table": corrupted(told),
        "meanings": [(name, of["meaning"]) for name, of in told["corruptions"].items()],
        "figure": markup.figure(
            figures / drawing.CORRUPTIONS,
            "the score by the severity of each corruption",
            "The same records, corrupted as the model reads them.",
        ),
    }


def corrupted(told: Mapping[str, Any]) -> markup.Table:
    """Return the first score under each corruption."""
    clean, branch = told["scores"][told["branch"]], told["branch"]
    first = drawing.spoilt(told)
    rows = [
        [
            name,
            first.say(clean.get(first.key)),
            *(first.say(found[severity][branch].get(first.key)) for severity in "123"),
        ]
        for name, found in told["corruptions"].items()
    ]
    head = [first.name, "as it is", "severity 1", "severity 2", "severity 3"]
    return markup.Table(head, rows)
