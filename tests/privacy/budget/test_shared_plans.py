"""A plan of shared noise in a site's ledger: what is written, charged and refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from fedlite.privacy import SharedMechanism, accounting
from fedlite.privacy.admission import order_for
from fedlite.privacy.budget import Account, Refused, plan_unit
from fedlite.privacy.budget.plans import Plan, asked_plan, parts_of
from fedlite.privacy.budget.policy import Policy
from fedlite.privacy.ledger import Row
from fedlite.privacy.ledger.bodies import check_body
from fedlite.privacy.ledger.rules import LedgerError
from fedlite.privacy.ranges import plan_problem
from tests.privacy.budget.holder import (
    OTHER,
    THIRD,
    Site,
    epsilon_of,
    gaussian,
    refusal,
    renyi_of,
)
from tests.privacy.shared.planned import GROUP, MECHANISM

TRUST: dict[str, Any] = {"honest": 3, "alone": 8.0, "units": ("record-shared", "record")}


def asked(mechanism: SharedMechanism = MECHANISM) -> Plan:
    return asked_plan("0" * 16, mechanism, epsilon=3.0, delta=1e-5, code="0" * 64, group=GROUP)


def test_a_plan_says_who_shares_its_noise() -> None:
    body = asked().body()
    assert plan_unit(MECHANISM) == body["unit"] == "record-shared"
    assert [body[name] for name in ("members", "least", "honest", "coordinates")] == [5, 4, 4, 592]
    check_body("plan", {"plan": body})
    assert plan_problem(body) == ""
    assert Plan(**body).asks_the_same(asked())


@pytest.mark.parametrize(
    "group",
    [
        dict(list(GROUP.items())[:4]),
        GROUP | {"f": "f" * 64},
        {},
        GROUP | {"b": "x"},
        GROUP | {"b": GROUP["c"]},
        {name.replace("b", "/"): key for name, key in GROUP.items()},
        list(GROUP),
    ],
    ids=["fewer", "more", "nobody", "no key", "one key twice", "no name", "no keys"],
)
def test_a_plan_names_as_many_members_as_share_its_noise(group: Any) -> None:
    body = asked().body() | {"group": group}
    if isinstance(group, dict) and len(group) in (4, 6):
        check_body("plan", {"plan": body})
        assert plan_problem(body).startswith("group must name all 5 members, got ")
        return
    with pytest.raises(LedgerError) as caught:
        check_body("plan", {"plan": body})
    assert caught.value.rule == "body-value"


def test_another_key_of_a_member_is_another_plan() -> None:
    body = asked().body()
    assert not Plan(**body | {"group": GROUP | {"b": "f" * 64}}).asks_the_same(asked())


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
        site.policy = replace(site.policy, epsilon=asked_of, **TRUST | {"alone": 100.0})
        with pytest.raises(Refused, match=r"^ceiling: .* rounded shares cost"):
            site.begin(LOUD, asked_epsilon=24.0, group=GROUP)
    assert site.kinds == [], "nothing is spent"
    with pytest.raises(ValueError, match=r"^delta: rounding at the sites must cost"):
        accounting.running(LOUD, 90, 1e-5)


def test_a_round_of_shared_noise_is_reserved_once(site: Site) -> None:
    """A second vector under the masks of a round would tell the difference of the two."""
    site.policy = replace(site.policy, epsilon=4.0, **TRUST)
    site.begin(MECHANISM, group=GROUP)
    site.reserve(1)
    with pytest.raises(Refused, match=r"^round-twice: round 1 of run a+ was reserved before"):
        site.reserve(1)
    site.reserve(1, round=2)
    assert site.kinds == ["genesis", "reserve", "refuse", "reserve"]


@pytest.mark.long
def test_a_table_counts_on_no_rounding_that_delta_does_not_pay_for() -> None:
    """Fewer honest sites than planned make epsilon larger, and with it what rounding costs."""
    loud = replace(MECHANISM, noise_multiplier=6.0, sites=9, least=9, honest=9)
    table = [accounting.seen_with(loud, count, 1e-5) for count in (1, 2, 3, 9)]
    assert table[0] == table[1] == table[2] > 25 > table[3]
    assert table[3] == pytest.approx(accounting.running(loud, 90, 1e-5))


def test_what_rounding_costs_is_charged_as_the_mechanism_says() -> None:
    assert asked().slack(3.0, 90) == pytest.approx(MECHANISM.delta_slack(3.0))
    assert asked().slack(3.0, 45) == pytest.approx(MECHANISM.delta_slack(3.0) / 2)


# Whom a site trusts, and what is left if it was wrong.

OWN = MECHANISM.noise_multiplier / math.sqrt(3)  # of 4 honest of 5 that may miss one


def test_a_plan_that_counts_on_more_than_are_trusted_is_refused_and_leaves_no_row(
    site: Site,
) -> None:
    site.policy = replace(site.policy, epsilon=4.0, **TRUST | {"honest": 2})
    assert refusal(site.begin, MECHANISM, group=GROUP) == "honest" and site.kinds == []
    site.policy = replace(site.policy, honest=3)
    site.begin(MECHANISM, group=GROUP)
    assert site.kinds == ["genesis"]


def test_a_site_that_trusts_nobody_takes_only_what_holds_if_all_collude(site: Site) -> None:
    """The default: local noise only. A sum by one honest site's noise is that, and allowed."""
    site.policy = replace(site.policy, epsilon=4.0, units=("record-shared",))
    assert refusal(site.begin, MECHANISM, group=GROUP) == "honest"
    local = replace(MECHANISM, least=5, honest=1)
    site.begin(local, group=GROUP)
    assert site.plan()["alone"] == site.plan()["charged"]
    assert site.plan()["charged"] == pytest.approx(epsilon_of((13.2, 90)), abs=0.01)


def test_both_ceilings_hold_each_by_its_own_noise(site: Site) -> None:
    """Against the closed form of Gaussians: sigma with three honest, and one site's share."""
    alone = epsilon_of((OWN, 90))
    assert 5.5 < alone < 6.0 and epsilon_of((13.2, 90)) < 3.05
    site.policy = replace(site.policy, epsilon=4.0, **TRUST | {"alone": alone + 0.1})
    site.begin(MECHANISM, group=GROUP)
    assert site.plan()["charged"] == pytest.approx(epsilon_of((13.2, 90)), abs=0.02)
    assert site.plan()["alone"] == pytest.approx(alone, abs=0.03)
    assert site.plan()["steps"] == 90


@pytest.mark.long
@pytest.mark.parametrize("most", [4.5, 5.0])
def test_collusion_cuts_a_plan_where_its_ceiling_is_reached(most: float, site: Site) -> None:
    site.policy = replace(site.policy, epsilon=4.0, **TRUST | {"alone": most})
    site.begin(MECHANISM, group=GROUP)
    steps = site.plan()["steps"]
    assert epsilon_of((OWN, steps)) <= most < epsilon_of((OWN, steps + 2), delta=0.99e-5)
    site.policy = replace(site.policy, alone=0.0)
    site.begin(MECHANISM, group=GROUP)
    assert refusal(site.reserve, steps) == "ceiling"
    site.reserve(1)


def test_a_ceiling_for_collusion_below_the_budget_is_the_budget(site: Site) -> None:
    assert replace(site.policy, alone=1.0).collusion == site.policy.epsilon == 3.0


def test_plans_of_both_kinds_add_up_if_all_collude(site: Site) -> None:
    """A plan without others counts as it is, one with them by the site's own noise."""
    site.policy = replace(site.policy, epsilon=8.0, **TRUST | {"alone": 16.0})
    site.begin(gaussian(30.0, 90))
    site.begin(MECHANISM, OTHER, group=GROUP)
    by_hand = renyi_of((30.0, 90), (OWN, 90), order=order_for(16.0, 1e-5))
    assert site.plan(1)["alone"] == pytest.approx(by_hand, rel=1e-6)
    site.policy = replace(site.policy, alone=8.0)
    site.begin(MECHANISM, THIRD, group=GROUP)
    steps, order = site.plan(2)["steps"], order_for(8.0, 1e-5)
    cost = [renyi_of((30.0, 90), (OWN, 90 + n), order=order) for n in (steps, steps + 1)]
    assert steps < 90 and cost[0] <= 8.0 < cost[1]


def test_trust_that_is_taken_back_stops_an_open_plan(site: Site) -> None:
    site.policy = replace(site.policy, epsilon=4.0, **TRUST)
    site.begin(MECHANISM, group=GROUP)
    site.reserve(1)
    site.policy = replace(site.policy, honest=2)
    site.begin(MECHANISM, group=GROUP)
    assert refusal(site.reserve, 1, round=2) == "honest"
    assert site.rows[-1].body["why"] == "honest"


def test_trust_is_raised_by_the_owner_alone() -> None:
    low = Policy(**TRUST)
    assert replace(low, honest=4).beyond(low) == ("honest",)
    assert replace(low, alone=9.0).beyond(low) == ("alone",)
    assert low.beyond(Policy(units=low.units)) == ("honest", "alone")
    assert Policy(units=low.units).beyond(low) == ()
    assert low.meet(replace(low, honest=1, alone=0.0)) == replace(low, honest=1, alone=0.0)


def test_a_policy_that_trusts_nobody_is_written_as_ever() -> None:
    """Ledgers of before there was such trust are read as they stand, and no row says it twice."""
    assert not {"honest", "alone"} & Policy().body().keys()
    assert Policy.of(Policy(**TRUST).body()) == Policy(**TRUST)
    for more in ({"honest": 0, "alone": 0.0}, {"honest": 1}, {"alone": 1.0}, {"honest": 100}):
        with pytest.raises(LedgerError):
            check_body("policy", {"policy": Policy().body() | more, "grant": ""})


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"honest": 5, "least": 4}, "plan-honest"),
        ({"alone": 8.1}, "plan-above-alone"),
        ({"group": {**{"x": "e" * 64}, **dict(list(GROUP.items())[1:])}}, "plan-not-a-member"),
    ],
)
def test_a_row_that_trusts_more_than_its_policy_makes_no_sense(
    change: dict[str, Any], rule: str
) -> None:
    policy = Policy(epsilon=4.0, **TRUST)
    body = asked().body() | {"charged": 3.0, "alone": 5.8} | change
    row = Row(0, "", "genesis", "", {"site": "north", "plan": body}, "", "")
    account = Account(site="north", policy=policy)
    with pytest.raises(LedgerError) as caught:
        account._plan(row, row.body)
    assert caught.value.rule == rule
