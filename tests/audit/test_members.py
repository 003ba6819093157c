"""Whom sites shared their noise with, by their ledgers alone: lists that differ, keys, false trust.

Covers fedlite/audit/sharing.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedlite.audit import audit
from fedlite.identity import keys
from fedlite.privacy import SharedMechanism
from fedlite.privacy.budget.policy import SitePolicy
from fedlite.privacy.ledger import Ledger, read
from tests.privacy.budget.holder import OTHER, Site, epsilon_of, gaussian
from tests.privacy.shared.planned import MECHANISM

NAMES = ("north", "south", "east", "west", "middle")
KEYS = {name: keys.Key.generate() for name in NAMES}
GROUP = {name: keys.public_hex(key) for name, key in KEYS.items()}
# Small, so that what it costs is computed quickly; alone it costs sqrt(3) times as much noise less.
PLAN = replace(MECHANISM, steps=10)


def ledger(
    root: Path,
    name: str,
    group: Mapping[str, str] = GROUP,
    plan: SharedMechanism = PLAN,
    **policy: Any,
) -> Site:
    """Let a site commit to a plan by its own rules; return it."""
    trust: dict[str, Any] = {"epsilon": 4.0, "honest": 4, "alone": 9.0, "units": ("record-shared",)}
    path = root / name / "ledgers" / "scans.jsonl"
    path.parent.mkdir(parents=True)
    made = Site(path, SitePolicy(site=name, **trust | policy), key=KEYS[name])
    made.begin(plan, group=group)
    made.reserve(1)
    return made


def found(*sites: Site) -> dict[str, str]:
    told = audit([site.path.parent for site in sites])
    return {issue.rule: issue.text for issue in told.findings}


def test_sites_that_were_shown_the_same_are_clean(tmp_path: Path) -> None:
    assert found(*(ledger(tmp_path, name) for name in NAMES)) == {}


def test_two_ledgers_show_that_a_server_showed_two_lists(tmp_path: Path) -> None:
    """It gave one of them a site of its own in the place of a real one."""
    false = {name: key for name, key in GROUP.items() if name != "west"} | {"zurich": "f" * 64}
    told = found(ledger(tmp_path, "north"), ledger(tmp_path, "south", false))
    assert set(told) == {"members-differ"}
    assert "committed to another group than " in told["members-differ"]
    assert f"zurich {'f' * 64} against west {GROUP['west']}" in told["members-differ"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("honest", 3), ("least", 5), ("coordinates", 591), ("noise_multiplier", 14.0)],
)
def test_two_ledgers_show_that_a_server_showed_two_plans(
    tmp_path: Path, name: str, value: Any
) -> None:
    other = replace(PLAN, **{name: value})
    told = found(ledger(tmp_path, "north"), ledger(tmp_path, "south", plan=other))
    assert f"committed to another {name}" in told["members-differ"]


def divided(groups: int) -> SharedMechanism:
    return replace(PLAN, sites=6, least=6, honest=5, groups=groups)


def test_two_ledgers_show_that_a_server_showed_two_numbers_of_groups(tmp_path: Path) -> None:
    group = GROUP | {"sixth": "6" * 64}
    one = ledger(tmp_path, "north", group, divided(1))
    other = ledger(tmp_path, "south", group, divided(2))
    told = found(one, other)
    assert "committed to another groups" in told["members-differ"]
    assert "2 against 1" in told["members-differ"]


def test_two_ledgers_show_that_their_members_are_divided_by_two_seeds(tmp_path: Path) -> None:
    group = GROUP | {"sixth": "6" * 64}
    one = ledger(tmp_path, "north", group, replace(divided(2), split=1))
    other = ledger(tmp_path, "south", group, replace(divided(2), split=2))
    assert "committed to another split" in found(one, other)["members-differ"]


@pytest.mark.parametrize(
    ("groups", "rule"), [(1, "charge-understated"), (3, "plan-terms"), (7, "plan-terms")]
)
def test_a_row_with_other_groups_than_it_was_charged_for_is_found(
    tmp_path: Path, groups: int, rule: str
) -> None:
    """Of fewer groups each site's own share of the noise would be smaller than was charged."""
    group = GROUP | {"sixth": "6" * 64}
    honest = ledger(tmp_path / "honest", "north", group, divided(2), alone=20.0)
    assert found(honest) == {}
    body = dict(read(honest.path)[0].body)
    plan = {name: value for name, value in body["plan"].items() if name not in ("groups", "split")}
    assert body["plan"]["groups"] == 2
    body["plan"] = plan | ({"groups": groups, "split": "0" * 16} if groups > 1 else {})
    path = tmp_path / "forged" / "ledgers" / "scans.jsonl"
    path.parent.mkdir(parents=True)
    with Ledger.open(path, KEYS["north"]) as opened:
        opened.create(body)
    assert rule in found(Site(path, key=KEYS["north"]))


def test_a_members_own_ledger_shows_that_another_key_was_its_own(tmp_path: Path) -> None:
    """Both sites approved the same list, with the server's key under the name of a third."""
    false = GROUP | {"west": "f" * 64}
    sites = [ledger(tmp_path, name, false) for name in ("north", "south")]
    assert found(*sites) == {}, "by themselves the two agree"
    path = tmp_path / "west" / "ledgers" / "scans.jsonl"
    path.parent.mkdir(parents=True)
    third = Site(path, SitePolicy(site="west"), key=KEYS["west"])
    third.begin(gaussian(20.0, 10), OTHER)
    told = found(*sites, third)
    assert set(told) == {"member-key"} and "f" * 64 in told["member-key"]


def forged(root: Path, plan: Mapping[str, Any], policy: Mapping[str, Any]) -> Site:
    """Return a site whose own key has signed a first row past the rules."""
    honest = ledger(root / "honest", "north")
    body = dict(read(honest.path)[0].body)
    body["plan"] = {**body["plan"], **plan}
    body["policy"] = {**body["policy"], **policy}
    path = root / "forged" / "ledgers" / "scans.jsonl"
    path.parent.mkdir(parents=True)
    with Ledger.open(path, KEYS["north"]) as opened:
        opened.create(body)
    return Site(path, key=KEYS["north"])


@pytest.mark.parametrize(
    ("plan", "policy", "rules"),
    [
        ({}, {"honest": 2}, {"plan-honest"}),
        ({}, {"alone": 0.0}, set()),
        ({"alone": 0.5}, {}, {"charge-understated"}),
        ({"alone": 9.5}, {}, {"plan-above-alone"}),
        ({"noise_multiplier": 12.0}, {}, {"charge-understated"}),
        ({"honest": 5}, {}, {"charge-understated"}),
        ({"group": {**GROUP, "north": "f" * 64}}, {}, {"member-key"}),
        ({"group": {name: key for name, key in GROUP.items() if name != "west"}}, {}, None),
    ],
    ids=[
        "more than is trusted", "no trust is needed for little", "collusion for less",
        "above its ceiling", "less noise", "more honest", "not its key", "a member left out",
    ],
)  # fmt: skip
def test_a_row_past_the_rules_is_found(
    tmp_path: Path, plan: dict[str, Any], policy: dict[str, Any], rules: set[str] | None
) -> None:
    told = found(forged(tmp_path, plan, policy))
    assert set(told) == rules if rules is not None else "plan-terms" in told, told


def test_what_collusion_costs_is_computed_anew_from_the_closed_form(tmp_path: Path) -> None:
    site = ledger(tmp_path, "north")
    alone = epsilon_of((PLAN.noise_multiplier / 3**0.5, 10))
    told = found(forged(tmp_path, {"alone": alone - 0.01}, {}))
    assert "recomputed" in told["charge-understated"]
    said = float(told["charge-understated"].split("recomputed ")[1].split()[0])
    assert said == pytest.approx(alone, abs=5e-3) and said == pytest.approx(site.plan()["alone"])


def test_trust_that_was_taken_back_is_held_against_later_rows(tmp_path: Path) -> None:
    """By the rules no row follows; here the site's own key has written one."""
    site = ledger(tmp_path, "north")
    lower = dict(read(site.path)[0].body["policy"]) | {"honest": 1}
    with Ledger.open(site.path, KEYS["north"]) as opened:
        opened.append(("policy", {"policy": lower, "grant": ""}))
        body = {"plan": 0, "run": "a" * 16, "round": 2, "steps": 1, "model": "1" * 16}
        opened.append(("reserve", body))
    told = found(site)
    assert set(told) == {"plan-honest"} and "takes 3 others for honest" in told["plan-honest"]


def test_a_plan_in_which_nobody_is_surely_honest_spoils_no_other_ledgers_audit(
    tmp_path: Path,
) -> None:
    """Two faults in one ledger, and a forged plan in another: each is told of."""
    forger = forged(tmp_path, {"honest": 1}, {})
    other = forged(tmp_path / "2", {"alone": 0.5}, {})
    told = audit([forger.path.parent, other.path.parent]).findings
    rules = {
        str(path): {i.rule for i in told if i.path == str(path)}
        for path in (forger.path, other.path)
    }
    assert "plan-terms" in rules[str(forger.path)]
    assert "charge-understated" in rules[str(other.path)]
    # Also as a later plan, behind an error that ends what the account reads.
    honest = ledger(tmp_path / "3", "north")
    body = honest.plan() | {"run": OTHER, "bound": "pld", "honest": 1}
    with Ledger.open(honest.path, KEYS["north"]) as opened:
        opened.append(("plan", {"plan": body}))
    assert {"plan-terms", "plan-bound"} <= set(found(honest))


def _written(site: Site, sigma: float, ceiling: float) -> None:
    """Let a site's own key write a plan of local noise that fits `ceiling`, past budget.alone."""
    from fedlite.privacy.budget.ceilings import _admit
    from fedlite.privacy.budget.plans import asked_plan

    with site.open() as budget:
        asked = asked_plan(OTHER, gaussian(sigma, 10), epsilon=3.0, delta=1e-5, code="2" * 64)
        account = budget.account
        got = _admit(asked, account.plans, ceiling, 1e-5, account.order)
        assert got.steps == 10
        body = replace(asked, bound=got.bound, charged=got.charged).body()
        budget._ledger.append(("plan", {"plan": body}))


@pytest.mark.long
def test_a_local_plan_on_top_of_a_shared_one_counts_for_collusion(tmp_path: Path) -> None:
    """Its row says nothing of it, so it is computed from all plans' own noise."""
    loud = replace(PLAN, noise_multiplier=9.0)
    trust = {"epsilon": 4.0, "alone": 4.0, "units": ("record", "record-shared")}
    site = ledger(tmp_path, "north", plan=loud, **trust)
    _written(site, 4.3, 4.0)
    own, local = (9.0 / 3**0.5, site.plan()["steps"]), (4.3, 10)
    assert epsilon_of((9.0, 10), local) < 4.0 < epsilon_of(own, local), "by the closed form"
    told = found(site)
    assert set(told) == {"plan-above-alone"} and "plan 1 (run b" in told["plan-above-alone"]


def test_what_is_reserved_after_the_ceiling_for_collusion_was_lowered_is_held_against_it(
    tmp_path: Path,
) -> None:
    loud = replace(PLAN, noise_multiplier=9.0)
    site = ledger(tmp_path, "north", plan=loud)
    alone = epsilon_of((9.0 / 3**0.5, 10))
    assert 2.0 < alone and site.plan()["alone"] == pytest.approx(alone, abs=0.02)
    lower = dict(read(site.path)[0].body["policy"]) | {"alone": 0.0, "epsilon": 2.0}
    model = "1" * 16

    def write(*rounds: int) -> None:
        with Ledger.open(site.path, KEYS["north"]) as opened:
            for n in rounds:
                row = {"plan": 0, "run": "a" * 16, "round": n, "steps": 1, "model": model}
                opened.append(("reserve", row))

    with Ledger.open(site.path, KEYS["north"]) as opened:
        opened.append(("policy", {"policy": lower, "grant": ""}))
    write(2)
    assert found(site) == {}, "two steps fit under it"
    write(*range(3, 11))
    told = found(site)
    assert "reserve-above-ceiling" in told
    assert "10 steps cost epsilon" in told["reserve-above-ceiling"]
    assert "if all others collude" in told["reserve-above-ceiling"]


@pytest.mark.parametrize("run", [OTHER, "a" * 16], ids=["another run", "a local plan of that run"])
def test_a_key_that_a_member_gave_up_before_the_run_is_not_its_own(
    tmp_path: Path, run: str
) -> None:
    """Somebody may have stolen it: then he is the member, and the old signatures say nothing."""
    old, new = keys.Key.generate(), keys.Key.generate()
    path = tmp_path / "west" / "ledgers" / "scans.jsonl"
    path.parent.mkdir(parents=True)
    west = Site(path, SitePolicy(site="west", units=("record",)), key=old)
    west.begin(gaussian(30.0, 3), run)
    with Ledger.open(path, old) as opened:
        opened.rotate(new)
    north = ledger(tmp_path, "north", GROUP | {"west": keys.public_hex(old)})
    told = found(north, west)
    assert set(told) == {"member-key"} and keys.public_hex(old) in told["member-key"]


def test_a_key_that_a_member_gave_up_after_its_plan_was_its_own(tmp_path: Path) -> None:
    north, west = ledger(tmp_path, "north"), ledger(tmp_path, "west")
    with Ledger.open(west.path, KEYS["west"]) as opened:
        opened.rotate(keys.Key.generate())
    assert found(north, west) == {}
