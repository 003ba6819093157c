"""Figures of tables that a run has told, held against its question and its sites' plans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedlite.audit.book import Plan
from fedlite.audit.cost import fits
from fedlite.privacy.ranges import MOST_RECORDS, figures_size
from fedlite.scenario.question import columns_of


def asked_of(tables: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a scenario asks for in the place of training; nothing where it trains."""
    part = tables.get("statistics")
    bins = part.get("bins") if isinstance(part, dict) else 0
    return part if isinstance(part, dict) and type(bins) is int and bins > 0 else {}


def reach_of(tables: Mapping[str, Any], plan: Plan) -> float:
    """Return the public bound on a site's part of a sum, in clips; 0 where none may be asked by."""
    most = asked_of(tables).get("most_records")
    if type(most) is not int or not 0 < most <= MOST_RECORDS:
        return 0.0
    return most / float(plan.body["clip"])


def mismatches(told: object, tables: Mapping[str, Any], plan: Plan) -> list[str]:
    """Return in what a run's figures, or its question, are others than a site committed to."""
    asked = asked_of(tables)
    if not asked:
        return ["figures of tables, and its scenario asks for none"] if told is not None else []
    try:
        columns = columns_of(str(asked.get("columns", "")))
    except ValueError:
        columns = {}
    wrong = []
    values, length = figures_size(len(columns), asked["bins"])
    if (values, length, 1) != (plan.body["coordinates"], plan.body["clip"], plan.body["asked"]):
        wrong.append(
            f"{len(columns)} columns in {asked['bins']} bins, of {values} values and length "
            f"{length:.6g}, committed one of {plan.body['coordinates']} and "
            f"{plan.body['clip']:.6g} in {plan.body['asked']} sums"
        )
    if not reach_of(tables, plan):
        wrong.append("figures under a bound on records that no question may have")
    shown = told.get("columns") if isinstance(told, dict) else None
    # A summary has its keys in their own order.
    if not isinstance(shown, dict) or set(shown) != set(columns):
        wrong.append("figures of other columns than its question names")
    elif not all(_spans(shown[name], *columns[name]) for name in columns):
        wrong.append("figures by other ranges than its question names")
    return wrong


def understated(told: object, shared: object) -> list[str]:
    """Return which epsilon beside the figures is less than that of the table of who is honest."""
    if not isinstance(told, dict) or not isinstance(shared, dict):
        return []
    rows, planned = shared.get("epsilon"), str(shared.get("honest"))
    real = {"epsilon": rows.get(planned) if isinstance(rows, dict) else None}
    real["alone"] = shared.get("alone")
    wrong = []
    for name, loss in real.items():
        said = told.get(name)
        # Compared as it stands: what is no number covers nothing.
        if not fits(_number(loss), _number(said) + 1e-4):
            wrong.append(f"statistics.{name} {said!r:.40}, and it is {loss!r:.40}")
    return wrong


def _spans(row: object, low: float, high: float) -> bool:
    """Tell whether a column's figures are of this range, but for what adding widths rounds."""
    ends = row.get("range") if isinstance(row, dict) else None
    if not isinstance(ends, list) or len(ends) != 2:
        return False
    most = 1e-9 * (high - low)
    # What is no number is as far as NaN, which is within nothing.
    return abs(_number(ends[0]) - low) <= most and abs(_number(ends[1]) - high) <= most


def _number(value: object) -> float:
    """Return a finite number, and NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if abs(value) <= 1e300 else math.nan
