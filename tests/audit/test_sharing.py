"""A server's words on whom epsilon rests, each forged by itself."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from fedlite.audit.book import Plan
from fedlite.audit.sharing import mismatches, planned_otherwise, understated
from fedlite.privacy.budget.plans import asked_plan
from server.summary import shared_of
from tests.privacy.shared.planned import MECHANISM

BODY = asked_plan("0" * 16, MECHANISM, epsilon=3.0, delta=1e-5, code="0" * 64).body()
PLAN = Plan(0, 1, BODY)
TOLD = shared_of(MECHANISM, 1e-5)["shared"]


def test_an_honest_summary_is_what_the_plan_says() -> None:
    assert mismatches(TOLD, PLAN) == understated(TOLD, PLAN) == []
    # Fewer steps than asked for were admitted: the summary's figures are of all, which is more.
    fewer = Plan(0, 1, BODY | {"steps": 45})
    assert mismatches(TOLD, fewer) == understated(TOLD, fewer) == []


@pytest.mark.parametrize(
    "forged",
    [
        {"sites": 50},
        {"least": 5},
        {"honest": 2},
        {"coordinates": 591},
        {"noise_of": 4},
        {"noise_of": 3.0},
        {"bits": 6},
        {"epsilon": {"2": 5.0, "3": 4.0}},
        {"epsilon": {**TOLD["epsilon"], "1": 9.0}},
        {"epsilon": None},
    ],
    ids=str,
)
def test_a_summary_of_other_members_is_found(forged: dict[str, Any]) -> None:
    (name,) = forged
    (found,) = mismatches({**TOLD, **forged}, PLAN)
    assert found.startswith(f"shared.{name} ")


@pytest.mark.parametrize("less", [1e-2, 2e-4])
def test_every_figure_of_the_table_is_computed_anew(less: float) -> None:
    for count, loss in TOLD["epsilon"].items():
        (found,) = understated({**TOLD, "epsilon": TOLD["epsilon"] | {count: loss - less}}, PLAN)
        assert f"if {count} are honest" in found
    (found,) = understated({**TOLD, "alone": TOLD["alone"] - less}, PLAN)
    assert found.startswith("shared.alone ")


@pytest.mark.parametrize("value", [math.nan, "9", None, True])
def test_what_is_no_number_covers_nothing(value: object) -> None:
    assert understated({**TOLD, "alone": value}, PLAN)
    assert understated({**TOLD, "epsilon": TOLD["epsilon"] | {"4": value}}, PLAN)


@pytest.mark.parametrize("told", [None, [], "x"])
def test_a_summary_that_says_nothing_is_found(told: object) -> None:
    assert len(mismatches(told, PLAN)) == 7
    assert understated(told, PLAN)


def test_a_scenario_that_was_changed_afterwards_is_found() -> None:
    tables = {"federation": {"sites": 5, "quorum": 4}, "privacy": {"honest": 4}}
    assert planned_otherwise(tables, PLAN) == planned_otherwise({}, PLAN) == []
    for place, key in (("federation", "sites"), ("federation", "quorum"), ("privacy", "honest")):
        changed = {**tables, place: {**tables[place], key: 3}}
        (found,) = planned_otherwise(changed, PLAN)
        assert found == f"{place}.{key} 3, committed {tables[place][key]}"


@pytest.mark.long
def test_a_summary_of_other_groups_is_found() -> None:
    divided = replace(MECHANISM, sites=15, least=15, honest=14, groups=3, split=1)
    body = asked_plan("0" * 16, divided, epsilon=3.0, delta=1e-5, code="0" * 64).body()
    assert body["groups"] == 3 and "groups" not in BODY
    plan, told = Plan(0, 1, body), shared_of(divided, 1e-5)["shared"]
    assert (told["groups"], told["noise_of"]) == (3, 4) and "groups" not in TOLD
    assert mismatches(told, plan) == understated(told, plan) == []
    for forged in (5, 1, 3.0, "3"):
        (found,) = mismatches({**told, "groups": forged}, plan)
        assert found.startswith("shared.groups ") and found.endswith("committed 3")
    without = {name: value for name, value in told.items() if name != "groups"}
    assert len(mismatches(without, plan)) == 1
    (found,) = mismatches({**TOLD, "groups": 3}, PLAN)
    assert found == "shared.groups 3, committed 1"
    (found,) = planned_otherwise({"privacy": {"groups": 5}}, plan)
    assert found == "privacy.groups 5, committed 3"
    assert planned_otherwise({"privacy": {"groups": 3}}, plan) == []


def test_a_plan_that_makes_no_group_is_told_of_elsewhere() -> None:
    assert understated(TOLD, Plan(0, 1, BODY | {"least": 3, "honest": 3})) == []


@pytest.mark.parametrize("said", [None, 0, 1, 5, 3.0, "3", True], ids=repr)
def test_a_scenario_of_other_groups_is_found_and_one_that_names_none(said: object) -> None:
    divided = replace(MECHANISM, sites=15, least=15, honest=14, groups=3, split=1)
    body = asked_plan("0" * 16, divided, epsilon=3.0, delta=1e-5, code="0" * 64).body()
    plan, tables = Plan(0, 1, body), {"federation": {"sites": 15, "quorum": 15}}
    assert planned_otherwise({**tables, "privacy": {"groups": 3}}, plan) == []
    privacy = {} if said is None else {"groups": said}
    (found,) = planned_otherwise({**tables, "privacy": privacy}, plan)
    assert found == f"privacy.groups {1 if said is None else said!r}, committed 3"
    whole = Plan(0, 1, BODY)
    assert (
        planned_otherwise({}, whole) == planned_otherwise({"privacy": {"groups": 1}}, whole) == []
    )


def test_a_scenario_that_divides_the_members_by_another_seed_is_found() -> None:
    divided = replace(MECHANISM, sites=15, least=15, honest=14, groups=3, split=7)
    body = asked_plan("0" * 16, divided, epsilon=3.0, delta=1e-5, code="0" * 64).body()
    plan, privacy = Plan(0, 1, body), {"privacy": {"groups": 3}}
    assert planned_otherwise(privacy | {"federation": {"seed": 7}}, plan) == []
    for federation in ({"seed": 999}, {"seed": 7.0}, {"seed": "7"}, {}, None):
        (found,) = planned_otherwise(privacy | {"federation": federation}, plan)
        assert found.startswith("federation.seed ") and "committed 7, by which" in found
    # It is 1 where a scenario leaves it out; and of one sum it divides nothing.
    usual = replace(divided, split=1)
    body = asked_plan("0" * 16, usual, epsilon=3.0, delta=1e-5, code="0" * 64).body()
    assert planned_otherwise(privacy, Plan(0, 1, body)) == []
    assert planned_otherwise({"federation": {"seed": 999}}, PLAN) == []
