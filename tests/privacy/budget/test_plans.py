"""Plans are admitted as far as they fit, charged whole, and never changed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from scipy.stats import binom

from fedlite.privacy import ClientMechanism, RecordMechanism
from fedlite.privacy.accounting import compose_pld
from fedlite.privacy.ledger import LedgerError, forget
from fedlite.privacy.mechanism import Event
from tests.privacy.budget.holder import (
    DELTA,
    OTHER,
    RUN,
    THIRD,
    Site,
    epsilon_of,
    gaussian,
    refusal,
    renyi_of,
    sigma_for,
)


def test_a_plan_that_fits_is_admitted_whole_and_charged_what_it_costs(site: Site) -> None:
    assert site.begin(gaussian(20.0, 100)) == 0
    plan = site.plan()
    assert (plan["steps"], plan["asked"], plan["bound"]) == (100, 100, "pld")
    exact = epsilon_of((20.0, 100))
    assert exact <= plan["charged"] <= exact + 2e-3
    assert site.kinds == ["genesis"]


def test_a_plan_that_costs_exactly_the_ceiling_is_admitted_whole(site: Site) -> None:
    cost = compose_pld([(Event(4.0, 0.5), 10)], DELTA)
    site.policy = replace(site.policy, epsilon=cost)
    site.begin(replace(gaussian(4.0, 10), sampling_rate=0.5))
    assert (site.plan()["steps"], site.plan()["charged"]) == (10, cost)


def test_of_a_plan_of_3_under_a_ceiling_of_1_as_much_as_fits_is_admitted(site: Site) -> None:
    site.policy = replace(site.policy, epsilon=1.0)
    sigma = sigma_for(3.0, 200)
    site.begin(gaussian(sigma, 200))
    plan = site.plan()
    assert plan["asked"] == 200 and 0 < plan["steps"] < 200
    assert epsilon_of((sigma, plan["steps"])) <= 1.0 < epsilon_of((sigma, plan["steps"] + 1))
    assert plan["charged"] <= 1.0


def test_two_servers_and_a_restart_do_not_get_more_than_the_ceiling(site: Site) -> None:
    site.policy = replace(site.policy, epsilon=1.0)
    small, large = (sigma_for(epsilon, 200) for epsilon in (0.5, 3.0))
    site.begin(gaussian(small, 200), RUN, asked_epsilon=0.5)
    site.reserve(1)
    forget(site.path)
    site.begin(gaussian(large, 200), OTHER)
    second = site.plan(1)
    order = site.rows[0].body["order"]
    assert second["bound"] == "rdp" and second["steps"] > 0
    history = (small, 200), (large, second["steps"])
    assert second["charged"] == pytest.approx(renyi_of(*history, order=order), abs=1e-6)
    assert second["charged"] <= 1.0
    assert renyi_of((small, 200), (large, second["steps"] + 1), order=order) > 1.0
    assert epsilon_of(*history) < 1.0
    assert refusal(site.begin, gaussian(large, 200), THIRD) == "ceiling"
    assert site.rows[-1].body == {"run": THIRD, "round": 0, "why": "ceiling"}


def test_what_a_plan_left_unused_is_not_given_to_another(site: Site) -> None:
    site.begin(gaussian(sigma_for(2.9, 100), 100))
    assert refusal(site.begin, gaussian(20.0, 10), OTHER) == "ceiling"


def test_a_plan_is_admitted_for_whole_rounds(site: Site) -> None:
    site.policy = replace(site.policy, epsilon=1.0)
    site.begin(gaussian(20.0, 100), round_steps=5)
    steps = site.plan()["steps"]
    assert steps % 5 == 0 and epsilon_of((20.0, steps)) <= 1.0 < epsilon_of((20.0, steps + 5))


def test_where_not_one_round_fits_the_run_is_refused(site: Site) -> None:
    assert refusal(site.begin, gaussian(1.0, 1)) == "ceiling"
    assert not site.path.exists(), "a refusal begins no ledger"
    site.policy = replace(site.policy, epsilon=0.0)
    assert refusal(site.begin, gaussian(50.0, 10)) == "ceiling"


def test_beginning_again_changes_nothing(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.begin(gaussian(40.0, 100), OTHER)
    before = site.path.read_bytes()
    assert site.begin(gaussian(20.0, 100)) == 0
    assert site.begin(gaussian(40.0, 100), OTHER, code="9" * 64) == 1
    assert site.path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 21.0},
        {"steps": 101},
        {"clip": 0.2},
        {"sampling_rate": 0.5},
        {"expected_batch": 51},
        {"max_batch": 49, "max_records": 49},
    ],
)
def test_a_run_cannot_change_its_plan(site: Site, change: dict[str, Any]) -> None:
    site.begin(gaussian(20.0, 100))
    assert refusal(site.begin, replace(gaussian(20.0, 100), **change)) == "other-plan"
    assert len(site.rows) == 2 and site.rows[1].kind == "refuse"


def test_a_unit_that_is_not_allowed_is_refused(site: Site) -> None:
    at_site = ClientMechanism(clip=0.1, noise_multiplier=20.0, steps=10, at="site")
    assert refusal(site.begin, at_site) == "unit"
    site.policy = replace(site.policy, units=("client-site", "record"))
    site.begin(at_site)
    plan = site.plan()
    assert plan["unit"] == "client-site"
    assert plan["charged"] == pytest.approx(epsilon_of((20.0, 10)), abs=2e-3)


def test_server_noise_counts_twice_beside_another_unit(site: Site) -> None:
    site.policy = replace(site.policy, units=("client-server", "record"))
    site.begin(ClientMechanism(clip=0.1, noise_multiplier=40.0, steps=50, at="server"))
    site.begin(gaussian(40.0, 50), OTHER)
    order = site.rows[0].body["order"]
    expected = renyi_of((20.0, 50), (40.0, 50), order=order)
    assert site.plan(1)["charged"] == pytest.approx(expected, abs=1e-6)


def test_cut_samples_take_their_part_of_delta(site: Site) -> None:
    mechanism = RecordMechanism(
        clip=0.1,
        noise_multiplier=2.0,
        sampling_rate=0.02,
        steps=400,
        expected_batch=20,
        max_batch=53,
        max_records=1000,
    )
    one = (1 + math.exp(3.0)) * binom.sf(53, 1000, 0.02)
    fits = math.floor(0.01 * DELTA / one)
    assert 10 < fits < 400
    site.begin(mechanism)
    assert site.plan()["steps"] == fits
    assert site.plan()["charged"] < 3.0, "it was the cuts that bound, not the noise"
    assert refusal(site.begin, mechanism, OTHER) == "ceiling"
    assert site.begin(replace(gaussian(100.0, 5)), OTHER) == 1


def test_another_data_set_under_the_same_name_is_written_down_and_gives_nothing_back(
    site: Site,
) -> None:
    site.begin(gaussian(20.0, 100))
    site.begin(gaussian(20.0, 100), commitment="4" * 64)
    site.begin(gaussian(20.0, 100), commitment="4" * 64)
    assert site.kinds == ["genesis", "dataset-change"]
    with site.open() as budget:
        assert len(budget.account.parts()) == 1


def test_a_ledger_stays_with_its_site_and_data_set(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    before = site.path.read_bytes()
    site.policy = replace(site.policy, epsilon=1.0)
    for change in ({"dataset": "bloods"}, {}):
        if not change:
            site.policy = replace(site.policy, site="south")
        with pytest.raises(LedgerError) as caught:
            site.begin(gaussian(20.0, 100), **change)
        assert caught.value.rule == "wrong-site"
    assert site.path.read_bytes() == before
