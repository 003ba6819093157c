from __future__ import annotations

import math
from typing import Any

import pytest

from fedlite.privacy import ClientMechanism, RecordMechanism
from fedlite.privacy.budget.plans import plan_unit
from fedlite.privacy.budget.policy import Policy, SitePolicy

ONE, TWO = "1" * 64, "2" * 64


def test_the_lower_of_two_policies_allows_what_both_allow() -> None:
    one = Policy(2.0, 1e-5, 0.0, 1.0, ("record", "none"), ("records",), (ONE,))
    two = Policy(3.0, 1e-6, 4.0, 0.5, ("record", "client-site"), (), (TWO,))
    assert one.meet(two) == Policy(2.0, 1e-6, 4.0, 0.5, ("record",), (), (TWO,))
    assert two.meet(one) == Policy(2.0, 1e-6, 4.0, 0.5, ("record",), (), (ONE,))
    assert one.meet(one) == one


def test_what_is_beyond_another_policy_needs_a_grant() -> None:
    low = Policy(per_run=1.0)
    for name, value in (
        ("epsilon", 3.1),
        ("delta", 2e-5),
        ("per_run", 1.1),
        ("per_run", 0.0),
        ("units", ("record", "none")),
        ("metrics", ("records",)),
    ):
        high = Policy(**{**low.body(), **{name: value}})  # type: ignore[arg-type]
        assert high.beyond(low) == (name,)
    assert Policy(epsilon=1.0, per_run=0.5, person=1.0, servers=(ONE,)).beyond(low) == ()


def test_the_order_of_a_list_makes_no_difference() -> None:
    assert Policy(units=("record", "none")) == Policy(units=("none", "record"))
    assert Policy.of(SitePolicy(site="north").body()) == Policy()


@pytest.mark.parametrize(
    "values",
    [
        *[{"epsilon": v} for v in (-1.0, math.nan, math.inf, True)],
        *[{"delta": v} for v in (0.0, 1.0, math.nan)],
        *[{"person": v} for v in (-1.0, math.nan)],
        *[{"per_run": v} for v in (-0.1, math.inf)],
        {"units": ("records",)},
        {"units": ("record", "record")},
        {"servers": ("1" * 63,)},
    ],
)
def test_a_policy_that_no_ledger_could_hold_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Policy(**values)


@pytest.mark.parametrize(
    "values", [{"site": ""}, {"site": "a/b"}, {"site": ".x"}, {"site": "\n"}, {"owner": "1" * 63}]
)
def test_a_site_has_a_plain_name_and_an_owner_a_key(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        SitePolicy(**values)


def test_a_unit_says_where_the_noise_is_added() -> None:
    assert plan_unit(RecordMechanism(0.1, 1.0, 0.5, 1, 1)) == "record"
    assert plan_unit(ClientMechanism(0.1, 1.0, 1, "site")) == "client-site"
    assert plan_unit(ClientMechanism(0.1, 1.0, 1, "server")) == "client-server"
