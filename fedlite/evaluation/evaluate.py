"""Everything that can be said of a model's answers to answered records, as figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.evaluation import calibration, classes, corruptions, groups
from fedlite.evaluation.predictions import in_units
from fedlite.evaluation.records import Records
from fedlite.evaluation.trained import Trained
from fedlite.tasks import known


@dataclass(frozen=True)
class Evaluation:
    """Figures that are ready for JSON, and beside them what only a picture shows.

    told: see `evaluate`. values, truth: float64 [n, width] in the targets' own units, of a task
    that answers with numbers; else None.
    """

    told: dict[str, Any]
    values: NDArray[np.float64] | None = None
    truth: NDArray[np.float64] | None = None


def evaluate(
    trained: Trained,
    records: Records,
    *,
    branch: str = "",
    group: Sequence[str] = (),
    corrupt: Sequence[str] = (),
) -> Evaluation:
    """Return how a model answers records whose answers are known.

    branch: the one whose answers are looked at closely; the deepest unless one is named. group:
    columns of `records`, by whose values people are compared. corrupt: names from `corruptions`.

    `told` has `scores` of every branch, `sites` where records have some, `classes` with the
    `confusion` matrix and `calibration` of a task with probabilities, `errors` by target of one
    with numbers, `groups` by column, and `corruptions` by name with the scores at each severity.

    Raises ValueError when the records are unanswered, or the model has no such branch.
    """
    if not records.answered:
        raise ValueError(
            f"{records.where}: must have what the model should answer, to be evaluated; use "
            "fedlite predict for records without"
        )
    branch = branch or trained.branches[-1]
    if branch not in trained.branches:
        raise ValueError(
            f"--branch: must be one of {', '.join(trained.branches)}, got {branch!r}; leave it out "
            "for the deepest"
        )
    answers = trained.answers(records.data)
    told: dict[str, Any] = {
        "scenario": trained.scenario.federation.name,
        "model": trained.scenario.model.name,
        "task": trained.scenario.task.name,
        "branch": branch,
        "where": records.where,
        "records": len(records),
        "labels": list(trained.labels),
        "notes": list(records.notes),
        "scores": {name: scores(trained, found, records) for name, found in answers.items()},
    }
    if records.sites is not None:
        told["sites"] = _sites(trained, answers, records)
    shares = trained.task.shares(answers[branch])
    values = truth = None
    if shares is not None:
        told |= _of_shares(trained, shares, records)
    else:
        values = in_units(answers[branch], trained.scale)
        truth = in_units(records.data.y.astype(np.float64), trained.scale)
        told["errors"] = _errors(trained.labels, values, truth)
    if group:
        told["groups"] = {
            name: _groups(trained, _column(records, name), shares, records, values, truth)
            for name in group
        }
    if corrupt:
        told["corruptions"] = {name: _corrupted(trained, records, name) for name in corrupt}
    return Evaluation(told, values, truth)


def scores(trained: Trained, answers: NDArray[np.float64], records: Records) -> dict[str, float]:
    """Return a branch's scores on all records together; those that are defined."""
    nobody = np.zeros(len(records), np.int64)
    found = trained.task.scores(answers, records.data.y, nobody, 1, trained.scale)
    return known(found, 0)


def _sites(
    trained: Trained, answers: dict[str, NDArray[np.float64]], records: Records
) -> dict[str, Any]:
    owners, count = records.sites, len(records.site_names)
    if owners is None:
        return {}
    sizes = np.bincount(owners, minlength=count)
    found = {
        branch: trained.task.scores(given, records.data.y, owners, count, trained.scale)
        for branch, given in answers.items()
    }
    return {
        name: {"records": int(sizes[at])} | {b: known(of, at) for b, of in found.items()}
        for at, name in enumerate(records.site_names)
        if sizes[at]
    }


def _of_shares(trained: Trained, shares: NDArray[np.float64], records: Records) -> dict[str, Any]:
    """Return what is said of probabilities: of classes, or of labels."""
    names, true = trained.labels, records.data.classes
    if true is None:
        holds = records.data.y > 0.5
        rows = classes.by_label(shares > 0.5, holds, names)
        kept = calibration.of_labels(shares, holds)
        return {"classes": [asdict(row) for row in rows], "calibration": asdict(kept)}
    counts = classes.confusion(shares.argmax(axis=1), true, len(names))
    return {
        "classes": [asdict(row) for row in classes.by_class(counts, names)],
        "confusion": counts.tolist(),
        "calibration": asdict(calibration.of_classes(shares, true)),
    }


def _errors(
    names: Sequence[str], values: NDArray[np.float64], truth: NDArray[np.float64]
) -> dict[str, Any]:
    """Return each target's errors in its own units: answer less truth."""
    found = {}
    for at, name in enumerate(names):
        wrong = values[:, at] - truth[:, at]
        levels = np.quantile(np.abs(wrong), (0.5, 0.9))
        found[name] = {
            "mae": float(np.abs(wrong).mean()),
            "rmse": float(np.sqrt((wrong**2).mean())),
            "bias": float(wrong.mean()),
            "median": float(levels[0]),
            "nine_in_ten": float(levels[1]),
        }
    return found


def _column(records: Records, name: str) -> tuple[str, ...]:
    if name in records.columns:
        return records.columns[name]
    if name in records.data.more:
        return tuple(map(str, records.data.more[name].tolist()))
    raise ValueError(
        f"--group: must be a column of the records, got {name!r} for {records.where}; name a file "
        "that has it"
    )


def _groups(
    trained: Trained,
    of: Sequence[str],
    shares: NDArray[np.float64] | None,
    records: Records,
    values: NDArray[np.float64] | None,
    truth: NDArray[np.float64] | None,
) -> list[dict[str, Any]]:
    """Return the rates, or the errors, that are compared between the groups of one column."""
    if values is not None and truth is not None:
        many = len(trained.labels) > 1
        found = []
        for at, name in enumerate(trained.labels):
            row = groups.compare_errors(of, np.abs(values[:, at] - truth[:, at]))
            found.append(row | {"rate": f"{row['rate']}, {name}"} if many else row)
        return found
    if shares is None:
        return []
    true = records.data.classes
    if true is not None:
        rates = groups.rates_of(shares.argmax(axis=1), true, trained.labels)
    else:
        rates = groups.rates_of_labels(shares > 0.5, records.data.y > 0.5, trained.labels)
    return groups.compare(of, rates)


def _corrupted(trained: Trained, records: Records, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"meaning": corruptions.meaning(name, records.data.x.shape[1:])}
    for severity in corruptions.SEVERITIES:
        spoilt = corruptions.corrupt(records.data, name, severity, trained.reading)
        answers = trained.answers(spoilt)
        found[str(severity)] = {b: scores(trained, given, records) for b, given in answers.items()}
    return found
