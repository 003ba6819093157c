"""What is said of thresholds where the sites alone hold records, and who has told nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite.data import Dataset
from fedlite.evaluation import open_model
from fedlite.inference import measured, noisy
from fedlite.inference.calibration import Choice, choose, least
from fedlite.inference.counted import site_counts
from fedlite.inference.routing import HOUSE
from fedlite.inference.rule import rule_of
from fedlite.inference.told import Cells, cells_of, coarser, together
from fedlite.inference.work import answered
from fedlite.reporting.record import read_summary, write_summary
from fedlite.reporting.report import report
from fedlite.reporting.routes import verdict
from fedlite.scenario import Scenario, from_dict
from tests.inference.test_calibration import counted
from tests.reporting.reader import read

pytestmark = pytest.mark.long


def scenario(**inference: Any) -> Scenario:
    tables: dict[str, Any] = {"inference": {"calibration": 0.2, "alpha": 0.05} | inference}
    if "epsilon" in inference:
        tables |= {"privacy": {"unit": "record", "epsilon": 3.0}, "training": {"steps": 1}}
    return from_dict(tables)


@pytest.fixture
def cells() -> dict[str, Cells]:
    rng = np.random.default_rng(1)
    return {name: cells_of(counted(rng, 400)) for name in ("a", "b")}


def test_one_threshold_is_that_of_all_who_have_told(cells: dict[str, Cells]) -> None:
    found = measured.promised(scenario(), cells, ["a", "b", "c"])
    expected = choose(together(cells.values()).plain(), 0.05, 0.95)
    assert (found["threshold"], found["records"]) == (expected.threshold, 800)
    assert found["counted"]["share_shallow"] == expected.shallow / 800
    assert found["by_site"]["c"]["threshold"] == expected.threshold
    assert "copies" not in found and "tested" not in found


def test_who_has_told_nothing_goes_deep_by_a_threshold_of_its_own(cells: dict[str, Cells]) -> None:
    found = measured.promised(scenario(threshold="site"), cells, ["a", "b", "c"])
    assert found["by_site"]["a"]["threshold"] == choose(cells["a"].plain(), 0.05, 0.95).threshold
    gone = found["by_site"]["c"]
    assert gone["threshold"] is None and gone["missing"] == least(0.05, 0.95)


@pytest.mark.parametrize("kind", ["pooled", "site", "shrunk"])
def test_nobody_s_counts_let_nothing_leave_early(kind: str) -> None:
    found = measured.promised(scenario(threshold=kind), {}, ["a", "b"])
    assert {row["threshold"] for row in found["by_site"].values()} == {None}
    assert "All inputs go deep" in verdict(found) or "between 0" in verdict(found)


def test_noised_counts_are_chosen_by_with_their_bounds(cells: dict[str, Cells]) -> None:
    told = {name: Cells(coarser(one) * 20, 3.7) for name, one in cells.items()}
    found = measured.promised(scenario(epsilon=1.0), told, ["a", "b"])
    expected = noisy.choose(together(told.values()), 2, 0.05, 0.95)
    assert found["threshold"] == expected.threshold is not None
    assert found["harm_at_most"] == expected.harm_at_most > found["harmed"]
    assert found["records_at_least"] < found["records"] and found["epsilon"] == 1.0


def test_a_run_that_could_measure_nothing_is_reported_and_exported(
    run: Path, tmp_path: Path, cells: dict[str, Cells]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    summary = read_summary(copy)
    summary["inference"] = measured.promised(scenario(), cells, ["a", "b"]) | {
        "told": {"sites": ["a", "b"], "dropped": {"c": "policy"}, "missing": ["d"]}
    }
    write_summary(copy, summary)
    report(copy)
    text, _ = read(copy / "report.html")
    assert "By the sites' counts" in text and "the sites alone hold records" in text
    assert "Not among the counts: c (policy), d (no answer)." in text
    rule = rule_of(open_model(copy))
    assert rule.threshold == summary["inference"]["threshold"]
    assert rule.calibrated is not None and rule.calibrated["records"] == 800
    assert rule.calibrated["counted"] == summary["inference"]["counted"]


def test_private_records_are_not_counted_where_they_are_not(run: Path) -> None:
    with pytest.raises(ValueError, match="must be what sites told where records are private"):
        measured.inference_of(scenario(epsilon=1.0), open_model(run))


@pytest.mark.filterwarnings("ignore:.*encountered")
@pytest.mark.parametrize("router", sorted(HOUSE))
def test_no_record_makes_counting_or_measuring_fail(run: Path, router: str) -> None:
    trained = open_model(run)
    made = trained.model.made_up(8).numpy()
    made[0], made[1] = np.nan, np.inf
    made[2].flat[:2] = -3e38, 3e38
    made[3] = np.finfo(np.float32).max
    data = Dataset(made, np.arange(8) % 2)
    chosen = scenario(router=router)
    exact = cells_of(site_counts(chosen, trained, data, len(trained.labels)))
    assert exact.total == 8
    found = measured._measured(
        chosen,
        trained,
        {"a": answered(trained, data)},
        {"a": Choice(0.5, 8, 0, 0, 0)},
        trained.labels,
    )
    # Numbers alone: what else there is no reader of the summary takes.
    assert found["tested"] == 8 and json.dumps(found, allow_nan=False)
