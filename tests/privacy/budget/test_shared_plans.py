"""A plan of shared noise in a site's ledger: what is written, charged and refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedlite.privacy import SharedMechanism, accounting
from fedlite.privacy.budget import Refused, plan_unit
from fedlite.privacy.budget.plans import Plan, asked_plan, parts_of
from fedlite.privacy.ledger.bodies import check_body
from fedlite.privacy.ledger.rules import LedgerError
from fedlite.privacy.ranges import plan_problem
from tests.privacy.budget.holder import Site
from tests.privacy.shared.planned import MECHANISM


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


def test_a_plan_of_whole_updates_says_so_and_has_no_batches() -> None:
    whole = replace(MECHANISM, unit="client", expected_batch=0)
    body = asked(whole).body()
    assert plan_unit(whole) == body["unit"] == "client-shared"
    assert (body["members"], body["expected_batch"]) == (5, 0)
    check_body("plan", {"plan": body})
    assert plan_problem(body) == ""
    assert "expected_batch must be 0" in plan_problem(body | {"expected_batch": 9})
    assert "sampling_rate must be 1" in plan_problem(body | {"sampling_rate": 0.5})
    assert "least and honest must be" in plan_problem(body | {"honest": 1})
    assert not asked(whole).asks_the_same(asked())


def test_beside_other_units_a_whole_update_counts_for_what_replacing_it_changes() -> None:
    """Taking a site away changes a sum by C; another in its place by twice that."""
    plans = [asked(replace(MECHANISM, unit="client", expected_batch=0)), asked()]
    sigma = MECHANISM.noise_multiplier
    assert [event.noise_multiplier for event, _ in parts_of(plans)] == [sigma / 2, sigma]
    assert [event.noise_multiplier for event, _ in parts_of(plans[:1])] == [sigma]


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


# The shipped scenario at epsilon 24, if nobody had asked what rounding costs when it was planned.
LOUD = replace(MECHANISM, noise_multiplier=2.405, coordinates=642, least=5)


def test_a_plan_whose_rounding_costs_too_much_is_refused_by_ledger_and_accounts(
    site: Site,
) -> None:
    for asked_of in (24.0, 30.0):
        site.policy = replace(site.policy, epsilon=asked_of, units=("record-shared",))
        with pytest.raises(Refused, match=r"^ceiling: .* rounded shares cost"):
            site.begin(LOUD, asked_epsilon=24.0)
    assert site.kinds == [], "nothing is spent"
    with pytest.raises(ValueError, match=r"^delta: rounding at the sites must cost"):
        accounting.running(LOUD, 90, 1e-5)


def test_a_round_of_shared_noise_is_reserved_once(site: Site) -> None:
    """A second vector under the masks of a round would tell the difference of the two."""
    site.policy = replace(site.policy, epsilon=4.0, units=("record-shared", "record"))
    site.begin(MECHANISM)
    site.reserve(1)
    with pytest.raises(Refused, match=r"^round-twice: round 1 of run a+ was reserved before"):
        site.reserve(1)
    site.reserve(1, round=2)
    assert site.kinds == ["genesis", "reserve", "refuse", "reserve"]


def test_a_table_counts_on_no_rounding_that_delta_does_not_pay_for() -> None:
    """Fewer honest sites than planned make epsilon larger, and with it what rounding costs."""
    loud = replace(MECHANISM, noise_multiplier=6.0, sites=9, least=9, honest=9)
    table = [accounting.seen_with(loud, count, 1e-5) for count in (1, 2, 3, 9)]
    assert table[0] == table[1] == table[2] > 25 > table[3]
    assert table[3] == pytest.approx(accounting.running(loud, 90, 1e-5))


def test_what_rounding_costs_is_charged_as_the_mechanism_says() -> None:
    assert asked().slack(3.0, 90) == pytest.approx(MECHANISM.delta_slack(3.0))
    assert asked().slack(3.0, 45) == pytest.approx(MECHANISM.delta_slack(3.0) / 2)
