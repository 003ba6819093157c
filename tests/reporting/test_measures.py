"""Which score is looked at first, and how it is called. Covers fedlite/reporting/formats.py."""

from __future__ import annotations

from fedlite.reporting import measures, wording
from fedlite.reporting.formats import amount, number_of, share


def summary(**scores: dict) -> dict:
    accuracy = {"on": "held-out data", "of": "sites", "records": 10, "by_site": {}}
    return {"accuracy": accuracy} | scores


def test_the_first_score_is_that_of_the_task() -> None:
    regression = summary(scores={"r2": {"deep": 0.5}, "mae": {"deep": 3.0}})
    first, part = measures.part_of(regression)
    assert first.key == "r2" and part == {"deep": 0.5}
    assert wording.unmeasured(regression) == ""
    two = summary(auc={"deep": 0.9, "shallow": 0.8})
    two["accuracy"] |= {"deep": 0.7, "shallow": 0.6}
    assert measures.part_of(two)[0].name == "AUC"
    assert [one.key for one in measures.ranked(measures.measured(two))] == ["auc", "accuracy"]
    assert measures.part_of(summary())[0].key == "accuracy"
    assert wording.unmeasured(summary()) == "no accuracy was measured"


def test_a_score_of_a_task_of_one_s_own_is_called_as_it_calls_itself() -> None:
    own = summary(scores={"perplexity": {"deep": 12.345}})
    first, part = measures.part_of(own)
    assert first.name == "perplexity" and first.say(part["deep"]) == "12.3"


def test_a_model_with_one_branch_has_one() -> None:
    assert measures.branches({"model": {"costs": {"network": {}}}}) == ("deep",)
    assert measures.branches({"model": {"costs": {"stem": {}}}}) == ("shallow", "deep")
    assert measures.branches({}) == ("shallow", "deep")


def test_what_is_no_number_is_a_dash() -> None:
    assert [share(v) for v in (0.5, None, float("nan"), True, "x")] == ["50.0 %", *"----"]
    assert amount(-1234.5) == "-1,230" and amount(float("inf")) == "-" and number_of("1") is None
