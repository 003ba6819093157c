"""A plan of shared noise in a site's ledger: what is written, charged and refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedlite.privacy import SharedMechanism
from fedlite.privacy.budget import plan_unit
from fedlite.privacy.budget.plans import Plan, asked_plan
from fedlite.privacy.ledger.bodies import check_body
from fedlite.privacy.ledger.rules import LedgerError
from fedlite.privacy.ranges import plan_problem

MECHANISM = SharedMechanism(
    clip=0.1,
    noise_multiplier=13.2,
    sampling_rate=1.0,
    steps=90,
    expected_batch=259,
    coordinates=592,
    sites=5,
    least=4,
    honest=4,
)


def asked(mechanism: SharedMechanism = MECHANISM) -> Plan:
    return asked_plan("0" * 16, mechanism, epsilon=3.0, delta=1e-5, code="0" * 64)


def test_a_plan_says_who_shares_its_noise() -> None:
    body = asked().body()
    assert plan_unit(MECHANISM) == body["unit"] == "record-shared"
    assert [body[name] for name in ("members", "least", "honest", "coordinates")] == [5, 4, 4, 592]
    check_body("plan", {"plan": body})
    assert plan_problem(body) == ""
    assert Plan(**body).asks_the_same(asked())


@pytest.mark.parametrize("name", ["members", "least", "honest", "coordinates"])
def test_a_plan_of_other_members_is_another_plan_and_one_without_them_is_none(name: str) -> None:
    body = asked().body()
    assert not Plan(**body | {name: body[name] + 1}).asks_the_same(asked())
    del body[name]
    with pytest.raises(LedgerError, match="must have exactly its keys; missing: "):
        check_body("plan", {"plan": body})


def test_a_plan_of_a_site_alone_names_no_members() -> None:
    body = replace(asked(), unit="record").body()
    assert "members" not in body
    with pytest.raises(LedgerError, match="not allowed: 'honest'"):
        check_body("plan", {"plan": body | {"honest": 4}})


@pytest.mark.parametrize(
    "forged",
    [{"honest": 1}, {"honest": 6}, {"least": 1}, {"least": 6}, {"least": 3, "honest": 3}],
)
def test_members_without_sure_noise_are_no_plan(forged: dict[str, int]) -> None:
    assert "least and honest must be at most the members, and twice least" in plan_problem(
        asked().body() | forged
    )


def test_what_rounding_costs_is_charged_as_the_mechanism_says() -> None:
    assert asked().slack(3.0, 90) == pytest.approx(MECHANISM.delta_slack(3.0))
    assert asked().slack(3.0, 45) == pytest.approx(MECHANISM.delta_slack(3.0) / 2)
