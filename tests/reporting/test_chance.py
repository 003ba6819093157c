"""A score is told from chance, or it is said that it is not, and what to try next."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest

from fedlite.reporting import chance
from fedlite.reporting.page import build
from fedlite.reporting.table import print_summary

Make = Callable[..., Any]


def exact(few: int, many: int) -> float:
    """The deviation of an AUC without skill, over all orders in which the records can stand."""
    areas = []
    for ranks in combinations(range(few + many), few):
        below = sum(rank - place for place, rank in enumerate(ranks))
        areas.append(below / (few * many))
    assert fmean(areas) == pytest.approx(0.5)
    return pstdev(areas)


def summary_of(make_run: Make, sizes: list[int], deep: float, shares: dict[str, int]) -> Any:
    """A run of two classes, whose sites hold out `sizes`, and which has an AUC of `deep`."""
    _, summary = make_run(private=False, binary=True)
    summary["accuracy"] |= {"of": "sites", "records": sum(sizes)}
    for row, size in zip(summary["accuracy"]["by_site"].values(), sizes, strict=True):
        row["records"] = size
    summary["auc"] |= {"deep": deep, "shallow": 0.5}
    summary["data"]["read"] = {"classes": shares}
    return summary


@pytest.mark.parametrize(("few", "many"), [(3, 3), (2, 6), (4, 8), (1, 12)])
def test_the_limit_is_that_of_all_orders(make_run: Make, few: int, many: int) -> None:
    sizes, shares = [few + many] * 3, {"no": many, "yes": few}
    least = 0.5 + 2 * exact(few, many) / math.sqrt(3)
    below = summary_of(make_run, sizes, least - 1e-6, shares)
    assert f"0.5 with two standard errors is {least:.3f}" in chance.told(below)
    assert chance.told(summary_of(make_run, sizes, least + 1e-6, shares)) == ""
    # The other branch may be the better one.
    below["auc"]["shallow"] = least + 1e-6
    assert chance.told(below) == ""


def test_an_accuracy_must_beat_the_commonest_class(make_run: Make) -> None:
    _, summary = make_run(private=False)
    assert chance.told(summary) == "", "without the classes' shares nothing is known"
    summary["data"]["read"] = {"classes": {"a": 900, "b": 50, "c": 50}}
    # 0.9 + 2 sqrt(0.9 0.1 / 360) = 0.9316; the run's accuracy is 91.4 %.
    assert chance.told(summary) == (
        "It may be no better than chance: its accuracy is at most 91.4 %, and the commonest "
        "class's share with two standard errors is 93.2 %; try more rounds, or another model."
    )
    summary["accuracy"]["deep"] = 0.94
    assert chance.told(summary) == ""
    summary["task"], summary["accuracy"]["deep"] = "regression", 0.1
    assert chance.told(summary) == ""


def test_what_is_next_fits_the_run(make_run: Make) -> None:
    summary = summary_of(make_run, [21, 24, 17], 0.571, {"0": 152, "1": 148})
    assert chance.told(summary).endswith("; try more rounds, or another model.")
    summary["model"]["name"] = "linear"
    assert chance.told(summary).endswith('; try model.name = "mlp", or more rounds.')
    summary["privacy"] = {"unit": "record"}
    assert chance.told(summary).endswith("; try more records, or a higher privacy.epsilon.")
    del summary["auc"]["by_site"]["site-01"], summary["auc"]["by_site"]["site-02"]
    summary["accuracy"]["by_site"]["site-03"]["records"] = 4
    summary["auc"]["deep"] = 1.0
    told = chance.told(summary)
    assert told.startswith("Too few records to tell it from chance") and "hold out more" in told


def test_it_is_said_on_the_terminal_and_in_the_headline(
    make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    summary = summary_of(make_run, [21, 24, 17], 0.571, {"a": 152, "b": 148})
    del summary["data"]["read"]  # as of private records
    stream = io.StringIO()
    print_summary(summary, tmp_path, stream)
    page = build(make_run()[0], summary, tmp_path)
    told = "It may be no better than chance: its AUC is at most 0.571"
    assert told in stream.getvalue() and told in page
