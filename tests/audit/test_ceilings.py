"""Plans and ceilings, written past the rules with the site's own key.

Covers fedlite/audit/people.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedlite.audit import audit
from fedlite.identity import keys
from fedlite.privacy.ledger import forget, rows as ledger_rows
from tests.audit.findings import NEXT_RUN, found, noted
from tests.privacy.federation import Site, plan_body, policy_body


def test_a_plan_above_the_ceiling_is_found(site: Site) -> None:
    site.genesis(plan_body(steps=30), policy_body(2.0))
    assert found(site.path) == {"plan-above-ceiling"}


def test_a_plan_that_hides_its_cost_is_found(site: Site) -> None:
    site.genesis(plan_body(steps=30, charged=1.9), policy_body(2.0))
    assert found(site.path) == {"plan-above-ceiling", "charge-understated"}
    assert audit([site.path]).statements[0].charged == pytest.approx(2.8376, abs=1e-3)


def test_a_second_plan_above_the_ceiling_is_found(site: Site) -> None:
    site.genesis(plan_body(steps=6), policy_body(1.5))
    site.append(("plan", {"plan": plan_body(NEXT_RUN, 6, bound="rdp", charged=1.4)}))
    assert found(site.path) == {"plan-above-ceiling", "charge-understated"}


def test_a_later_plan_charged_by_pld_is_found(site: Site) -> None:
    site.genesis(plan_body(steps=3), policy_body())
    site.append(("plan", {"plan": plan_body(NEXT_RUN, 3, charged=2.0)}))
    assert found(site.path) == {"plan-bound"}


def test_a_plan_above_the_ceiling_of_a_run_is_found(site: Site) -> None:
    site.genesis(plan_body(), policy_body(per_run=1.0))
    assert found(site.path) == {"plan-above-run-ceiling"}


def test_more_steps_than_planned_are_found(site: Site) -> None:
    site.genesis(plan_body(steps=2), policy_body())
    for number in range(1, 4):
        site.take_part(number)
    assert found(site.path) == {"plan-overspent"}


def test_a_ceiling_that_was_lowered_counts_from_then_on(site: Site) -> None:
    site.genesis(plan_body(), policy_body())
    site.take_part(1)
    site.append(("policy", {"policy": policy_body(0.6), "grant": ""}))
    assert found(site.path) == set() and "ceiling-lowered" in noted(site.path)
    site.take_part(2)
    assert found(site.path) == {"reserve-above-ceiling"}


def test_the_ceiling_of_a_person_spans_the_ledgers_of_a_site(site: Site, tmp_path: Path) -> None:
    site.genesis(plan_body(), policy_body(person=2.0))
    site.path = site.path.with_name("letters.jsonl")
    site.genesis(plan_body(), policy_body(person=2.0))
    assert found(site.home) == set()
    site.path = site.path.with_name("numbers.jsonl")
    site.genesis(plan_body(), policy_body(person=2.0))
    assert found(site.home) == {"person-above-ceiling"}
    assert found(site.home / "ledgers") == {"person-above-ceiling"}
    assert found(site.path) == set()


def test_a_cap_that_uses_up_delta_is_found(site: Site) -> None:
    site.genesis(
        plan_body(sampling_rate=0.1, max_batch=110, max_records=1000, charged=2.0), policy_body()
    )
    assert "plan-above-ceiling" in found(site.path)
    site.path = site.path.with_name("uncapped.jsonl")
    site.genesis(
        plan_body(sampling_rate=0.1, max_batch=900, max_records=1000, charged=2.0), policy_body()
    )
    assert found(site.path) == set()


@pytest.mark.long
def test_shares_whose_rounding_uses_up_delta_are_found(site: Site) -> None:
    """By a site that never asked: at epsilon 24 rounding takes more, at 3 next to nothing."""
    shared = {"unit": "record-shared", "members": 5, "least": 5, "honest": 4, "coordinates": 642}
    group = {name: f"{at:064x}" for at, name in enumerate("bcde")}
    shared |= {"group": group | {site.name: keys.public_hex(site.key)}, "alone": 90.0}
    trust = {"units": ["record-shared"], "honest": 3, "alone": 100.0}
    policy = policy_body(24.0, **trust)
    loud = shared | {"noise_multiplier": 2.405, "epsilon_asked": 24.0, "charged": 23.99}
    site.genesis(plan_body(steps=90, **loud), policy)
    issues = audit([site.path]).findings
    assert {issue.rule for issue in issues} == {"plan-above-ceiling"}
    assert any("shares that they round, use up" in issue.text for issue in issues)
    site.path = site.path.with_name("quiet.jsonl")
    quiet = plan_body(charged=3.0, **shared)
    site.genesis(quiet, policy_body(**trust))
    assert found(site.path) == set()


# Epsilon of the plan of six steps, which the tests of ceilings stand on.
COST = plan_body()["charged"]


@pytest.mark.parametrize("over", [1e-3, 1e-6])
def test_a_ceiling_exceeded_by_little_is_found(site: Site, over: float) -> None:
    site.genesis(plan_body(charged=COST - over), policy_body(COST - over))
    assert found(site.path) == {"plan-above-ceiling", "charge-understated"}


@pytest.mark.parametrize("over", [1e-3, 1e-6])
def test_a_ceiling_of_a_run_exceeded_by_little_is_found(site: Site, over: float) -> None:
    site.genesis(plan_body(), policy_body(per_run=COST - over))
    assert found(site.path) == {"plan-above-run-ceiling"}


@pytest.mark.parametrize("over", [1e-3, 1e-6])
def test_a_ceiling_of_a_person_exceeded_by_little_is_found(site: Site, over: float) -> None:
    site.genesis(plan_body(), policy_body(person=COST - over))
    assert found(site.home) == {"person-above-ceiling"}


@pytest.mark.parametrize("over", [1e-3, 1e-6])
def test_a_lowered_ceiling_exceeded_by_little_is_found(site: Site, over: float) -> None:
    site.genesis(plan_body(), policy_body())
    site.take_part(1)
    two = plan_body(steps=2)["charged"]
    site.append(("policy", {"policy": policy_body(two - over), "grant": ""}))
    site.take_part(2)
    assert found(site.path) == {"reserve-above-ceiling"}


def test_ceilings_may_be_met_exactly(site: Site) -> None:
    site.genesis(plan_body(), policy_body(COST, person=COST, per_run=COST))
    for number in range(1, 7):
        site.take_part(number)
    assert found(site.home) == set()


CLIENT = {"unit": "client-site", "expected_batch": 0}


@pytest.mark.parametrize(
    ("plan", "policy", "rule"),
    [
        # No sampling amplifies a client, and a record's release has a public divisor.
        (CLIENT | {"sampling_rate": 0.01}, {}, "plan-terms"),
        (CLIENT | {"unit": "client-server", "sampling_rate": 0.99}, {}, "plan-terms"),
        (CLIENT | {"expected_batch": 32}, {}, "plan-terms"),
        (CLIENT | {"max_batch": 9, "max_records": 99}, {}, "plan-terms"),
        ({"expected_batch": 0}, {}, "plan-terms"),
        ({"max_batch": 10}, {}, "plan-terms"),
        # Numbers that no scenario and no site.toml may have.
        ({"delta": 0.999}, {}, "body-value"),
        ({"delta": 0.11}, {}, "body-value"),
        ({"epsilon_asked": 101.0}, {}, "body-value"),
        ({"charged": 1e308}, {}, "body-value"),
        ({"clip": 1e7}, {}, "body-value"),
        ({"noise_multiplier": 2e6, "charged": 1.0}, {}, "body-value"),
        ({"steps": 20_000_000, "charged": 1.0}, {}, "body-value"),
        ({}, {"epsilon": 1e308}, "body-value"),
        ({}, {"epsilon": 100.5}, "body-value"),
        ({}, {"delta": 0.5}, "body-value"),
        ({}, {"person": 1e308}, "body-value"),
        ({}, {"per_run": 1e308}, "body-value"),
    ],
)
def test_a_plan_that_no_rule_allows_is_found(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    plan: dict[str, Any],
    policy: dict[str, Any],
    rule: str,
) -> None:
    units = ["client-server", "client-site", "record"]
    with monkeypatch.context() as patch:
        # Written past the writer's own checks, as whoever holds the site's key can.
        patch.setattr(ledger_rows, "check_body", lambda kind, body: None)
        body = plan_body(**{k: v for k, v in plan.items() if k != "steps"}) | plan
        site.genesis(body, policy_body() | {"units": units} | policy)
    forget(site.path)
    assert rule in found(site.path)


def test_a_client_plan_as_it_should_be_is_clean(site: Site) -> None:
    site.genesis(plan_body(**CLIENT), policy_body(units=["client-site"]))
    assert found(site.path) == set()


def test_a_cap_without_a_bound_on_records_cannot_be_accounted(site: Site) -> None:
    site.genesis(plan_body(max_batch=10), policy_body())
    result = audit([site.path])
    assert not result.clean and result.statements[0].charged is None
    assert "could not be computed" in result.statements[0].sentence
