"""Ceilings: of one run, lowered at once, raised with the owner's grant only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedlite.guard.grants import sign_grant
from fedlite.identity import keys
from fedlite.privacy.budget import Refused
from fedlite.privacy.budget.policy import SitePolicy
from fedlite.privacy.ledger import LedgerError
from tests.privacy.budget.holder import (
    MODEL,
    OTHER,
    OWNER,
    RUN,
    THIRD,
    Site,
    epsilon_of,
    gaussian,
    refusal,
    renyi_of,
    sigma_for,
)


def test_one_run_may_not_spend_more_than_its_own_ceiling(site: Site) -> None:
    site.policy = replace(site.policy, per_run=0.5)
    for number, run in enumerate((RUN, OTHER)):
        site.begin(gaussian(20.0, 100), run)
        steps = site.plan(number)["steps"]
        assert epsilon_of((20.0, steps)) <= 0.5 < epsilon_of((20.0, steps + 1))
    assert site.plan(1)["charged"] > 0.5, "what is charged is what all plans cost together"


# Lowering and raising.


def test_what_is_lowered_counts_at_once_and_for_good(site: Site) -> None:
    generous = site.policy
    site.begin(gaussian(20.0, 100))
    site.policy = replace(generous, epsilon=2.0, metrics=(), person=5.0)
    site.begin(gaussian(20.0, 100))
    site.policy = generous
    site.begin(gaussian(20.0, 100))
    assert site.kinds == ["genesis", "policy"]
    with site.open() as budget:
        assert (budget.account.policy.epsilon, budget.account.policy.person) == (2.0, 5.0)


def test_a_lowered_ceiling_stops_an_open_plan_where_it_is_reached(site: Site) -> None:
    site.begin(gaussian(20.0, 150))
    site.reserve(10)
    site.policy = replace(site.policy, epsilon=1.0)
    site.begin(gaussian(20.0, 150))
    taken = 10
    with site.open() as budget, pytest.raises(Refused, match="ceiling"):
        while True:
            budget.reserve(RUN, 1, 1, MODEL)
            taken += 1
    assert epsilon_of((20.0, taken)) <= 1.0 < epsilon_of((20.0, taken + 1))


@pytest.mark.parametrize("change", [{"epsilon": 0.5}, {"per_run": 0.5}, {"person": 0.5}])
def test_any_lowered_ceiling_stops_a_plan_that_is_beyond_it(
    site: Site, change: dict[str, float]
) -> None:
    site.begin(gaussian(20.0, 150))
    site.reserve(100)
    site.policy = replace(site.policy, **change)  # type: ignore[arg-type]
    site.begin(gaussian(20.0, 150))
    assert refusal(site.reserve, 1) == "ceiling"


@pytest.mark.long
def test_a_lower_delta_stops_a_plan_too(site: Site) -> None:
    sigma = sigma_for(3.0, 100)
    site.begin(gaussian(sigma, 100))
    site.policy = replace(site.policy, delta=1e-7)
    site.begin(gaussian(sigma, 100))
    with site.open() as budget:
        taken = 0
        with pytest.raises(Refused, match="ceiling"):
            while True:
                budget.reserve(RUN, 1, 1, MODEL)
                taken += 1
    low, high = (epsilon_of((sigma, n), delta=1e-7) for n in (taken, taken + 1))
    assert low <= 3.0 < high


def test_with_several_plans_a_lowered_ceiling_is_held_by_renyi(site: Site) -> None:
    site.begin(gaussian(40.0, 100))
    site.begin(gaussian(40.0, 200), OTHER)
    order = site.rows[0].body["order"]
    site.policy = replace(site.policy, epsilon=1.6)
    site.begin(gaussian(40.0, 100))
    taken = 0
    with site.open() as budget, pytest.raises(Refused, match="ceiling"):
        while True:
            budget.reserve(OTHER, 1, 1, MODEL)
            taken += 1
    assert 0 < taken < 200
    assert renyi_of((40.0, 100), (40.0, taken), order=order) <= 1.6
    assert renyi_of((40.0, 100), (40.0, taken + 1), order=order) > 1.6
    assert refusal(site.reserve, 1) == "ceiling", "the other plan counts whole, and came later"


def test_a_unit_that_is_no_longer_allowed_stops_its_plan(site: Site) -> None:
    site.begin(gaussian(20.0, 10))
    site.policy = replace(site.policy, units=("client-site",))
    site.begin(gaussian(20.0, 10))
    assert refusal(site.reserve, 1) == "unit"


def granted(site: Site, change: dict[str, Any]) -> tuple[SitePolicy, str]:
    wanted = replace(site.policy, **change)
    return wanted, sign_grant(OWNER, site.rows, wanted)


def test_the_owner_s_grant_raises_a_ceiling(site: Site) -> None:
    site.policy = replace(site.policy, epsilon=1.0, owner=keys.public_hex(OWNER))
    sigma = sigma_for(1.0, 100)
    site.begin(gaussian(sigma, 100))
    wanted, grant = granted(site, {"epsilon": 4.0})
    with site.open() as budget:
        assert budget.raise_to(wanted, grant).kind == "policy"
    assert refusal(site.begin, gaussian(sigma, 100), OTHER) == "ceiling", "site.toml says 1 still"


def test_with_site_toml_raised_as_well_another_plan_fits(site: Site) -> None:
    site.policy = replace(site.policy, epsilon=1.0, owner=keys.public_hex(OWNER))
    sigma = sigma_for(1.0, 100)
    site.begin(gaussian(sigma, 100))
    site.policy = replace(site.policy, epsilon=4.0)
    assert refusal(site.begin, gaussian(sigma, 100), OTHER) == "ceiling", "the ledger says 1 still"
    wanted, grant = granted(site, {})
    with site.open() as budget:
        budget.raise_to(wanted, grant)
    site.begin(gaussian(sigma, 100), THIRD)
    assert site.plan(1)["steps"] == 100
    order = site.rows[0].body["order"]
    assert site.plan(1)["charged"] == pytest.approx(renyi_of((sigma, 200), order=order), abs=1e-6)


def test_a_grant_serves_one_change_of_one_ledger(site: Site, tmp_path: Path) -> None:
    site.policy = replace(site.policy, owner=keys.public_hex(OWNER))
    elsewhere = Site(tmp_path / "bloods.jsonl", site.policy)
    for each in (site, elsewhere):
        each.begin(gaussian(20.0, 100))
    wanted, grant = granted(site, {"epsilon": 4.0})

    def refused(where: Site, policy: SitePolicy, signature: str) -> None:
        before = where.path.read_bytes()
        with where.open() as budget, pytest.raises(LedgerError) as caught:
            budget.raise_to(policy, signature)
        assert caught.value.rule == "grant"
        assert where.path.read_bytes() == before

    refused(site, wanted, "")
    refused(site, wanted, "0" * 128)
    refused(site, replace(wanted, epsilon=5.0), grant)
    refused(elsewhere, wanted, grant)
    with site.open() as budget:
        budget.raise_to(wanted, grant)
    site.begin(gaussian(20.0, 100))  # site.toml lowers it again
    refused(site, wanted, grant)


def test_without_an_owner_nothing_can_be_raised(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    wanted = replace(site.policy, epsilon=4.0)
    with pytest.raises(ValueError, match="names none"):
        sign_grant(OWNER, site.rows, wanted)
    with site.open() as budget, pytest.raises(LedgerError) as caught:
        budget.raise_to(wanted, "1" * 128)
    assert caught.value.rule == "grant"
