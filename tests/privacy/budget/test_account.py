from __future__ import annotations

from typing import Any

import pytest

from fedlite.privacy.budget.account import Account
from fedlite.privacy.budget.plans import Plan, parts_of
from fedlite.privacy.budget.policy import Policy
from fedlite.privacy.ledger.rows import Row
from fedlite.privacy.ledger.rules import LedgerError
from fedlite.privacy.mechanism import Event

RUN, OTHER = "0" * 15 + "a", "0" * 15 + "b"
PAYLOAD, FALSE = "c" * 64, "d" * 64
PLAN = {
    "run": RUN,
    "unit": "record",
    "noise_multiplier": 10.0,
    "sampling_rate": 1.0,
    "steps": 10,
    "asked": 10,
    "clip": 0.1,
    "expected_batch": 50,
    "max_batch": 0,
    "max_records": 0,
    "delta": 1e-5,
    "epsilon_asked": 1.0,
    "bound": "pld",
    "charged": 0.9,
    "code": "e" * 64,
}
SECOND = PLAN | {"run": OTHER, "bound": "rdp", "charged": 2.0, "noise_multiplier": 5.0}


def genesis(policy: Policy | None = None, **plan: Any) -> tuple[str, dict[str, Any]]:
    return "genesis", {
        "version": 1,
        "site": "north",
        "dataset": "scans",
        "key": "1" * 64,
        "owner": "",
        "commitment": "2" * 64,
        "code": "3" * 64,
        "order": 8.0,
        "policy": (policy or Policy()).body(),
        "plan": PLAN | plan,
    }


def reserve(plan: int = 0, steps: int = 2, run: str = RUN, round: int = 1) -> tuple[str, Any]:
    return "reserve", {"plan": plan, "run": run, "round": round, "steps": steps, "model": "f" * 16}


def settle(of: int, steps: int = 2, payload: str = PAYLOAD) -> tuple[str, Any]:
    return "settle", {"of": of, "steps": steps, "payload": payload}


def release(of: int, payload: str = PAYLOAD) -> tuple[str, Any]:
    return "release", {"of": of, "payload": payload, "bytes": 9}


def refuse(run: str = RUN, why: str = "plan-spent", round: int = 1) -> tuple[str, Any]:
    return "refuse", {"run": run, "round": round, "why": why}


def witness(seq: int, key: str = "4" * 64) -> tuple[str, Any]:
    return "witness", {"seq": seq, "hash": "5" * 64, "witness": key, "signature": "6" * 128}


def rows(*entries: tuple[str, Any]) -> list[Row]:
    """Return rows whose chain nobody has signed: the account does not judge that."""
    return [
        Row(seq, "0" * 64, kind, "2026-11-22T09:30:00Z", body, f"{seq:064x}", "0" * 128)
        for seq, (kind, body) in enumerate(entries)
    ]


def account(*entries: tuple[str, Any]) -> Account:
    return Account.of(rows(*entries))


def test_it_adds_up_what_was_charged_reserved_and_released() -> None:
    found = account(
        genesis(),
        reserve(),
        settle(1),
        release(1),
        ("plan", {"plan": SECOND}),
        reserve(1, 3, OTHER),
        reserve(0, 4, round=2),
        ("dataset-change", {"commitment": "7" * 64}),
    )
    assert found.parts() == [(Event(10.0), 10), (Event(5.0), 10)]
    assert found.used_parts() == [(Event(10.0), 6), (Event(5.0), 3)]
    assert [found.reserved(n) for n in (0, 1)] == [6, 3]
    assert found.released(PAYLOAD) and not found.released(FALSE)
    assert found.released(PAYLOAD, (RUN, 1)) and not found.released(PAYLOAD, (RUN, 2))
    assert (found.site, found.dataset, found.order, found.rows) == ("north", "scans", 8.0, 8)
    assert found.commitment == "7" * 64
    assert (found.number_of(RUN), found.number_of(OTHER), found.number_of("9" * 16)) == (0, 1, None)


def test_a_reservation_counts_in_full_whatever_was_run_of_it() -> None:
    assert account(genesis(), reserve(), settle(1, steps=0)).reserved(0) == 2
    assert account(genesis(), reserve()).used_parts() == [(Event(10.0), 2)]


def test_nothing_has_cost_nothing() -> None:
    found = Account()
    assert found.parts() == found.used_parts() == []
    assert not found.released(PAYLOAD)
    assert not found.policy.allows("record") and found.policy.epsilon == 0.0


LOWER = ("policy", {"policy": Policy(epsilon=1.5, units=("client-site",)).body(), "grant": ""})
LISTED = Policy(servers=("8" * 64,))


@pytest.mark.parametrize(
    ("rule", "entries"),
    [
        ("genesis", [reserve()]),
        ("genesis", [genesis(), genesis()]),
        ("plan-bound", [genesis(bound="rdp")]),
        ("plan-bound", [genesis(), ("plan", {"plan": SECOND | {"bound": "pld"}})]),
        ("plan-above-asked", [genesis(steps=11)]),
        ("plan-above-ceiling", [genesis(charged=3.0001)]),
        ("plan-above-ceiling", [genesis(), LOWER, ("plan", {"plan": SECOND})]),
        ("plan-unit", [genesis(unit="client-server")]),
        ("plan-unit", [genesis(), LOWER, ("plan", {"plan": SECOND | {"charged": 1.2}})]),
        ("plan-run-twice", [genesis(), ("plan", {"plan": SECOND | {"run": RUN}})]),
        ("reserve-unknown-plan", [genesis(), reserve(1)]),
        ("reserve-other-run", [genesis(), reserve(run=OTHER)]),
        ("plan-overspent", [genesis(), reserve(steps=11)]),
        ("plan-overspent", [genesis(), *[reserve(steps=5, round=r) for r in (1, 2, 3)]]),
        ("settle-without-reserve", [genesis(), reserve(), settle(2)]),
        ("settle-without-reserve", [genesis(), settle(0)]),
        ("settle-twice", [genesis(), reserve(), settle(1), settle(1)]),
        ("settle-above-reserve", [genesis(), reserve(), settle(1, steps=3)]),
        ("release-without-reserve", [genesis(), release(0)]),
        ("release-unsettled", [genesis(), reserve(), release(1)]),
        ("release-mismatch", [genesis(), reserve(), settle(1), release(1, FALSE)]),
        ("release-twice", [genesis(), reserve(), settle(1), release(1), release(1)]),
        ("refuse-twice", [genesis(), refuse(), refuse(round=2)]),
        ("witness-not-listed", [genesis(LISTED), witness(0)]),
    ],
)
def test_a_row_that_makes_no_sense_is_an_error(rule: str, entries: list[tuple[str, Any]]) -> None:
    account(*entries[:-1])
    with pytest.raises(LedgerError) as caught:
        account(*entries)
    assert caught.value.rule == rule
    assert caught.value.row == len(entries) - 1


def test_rows_are_taken_in_their_order() -> None:
    first, second, third = rows(genesis(), reserve(), reserve())
    with pytest.raises(LedgerError) as caught:
        Account.of([first, third, second])
    assert caught.value.rule == "sequence"


def test_each_plan_keeps_the_policy_under_which_it_was_opened() -> None:
    lower = Policy(epsilon=2.5)
    found = account(
        genesis(),
        ("policy", {"policy": lower.body(), "grant": ""}),
        ("plan", {"plan": SECOND}),
    )
    assert found.opened == [Policy(), lower]
    assert (found.policy, found.policy_hash) == (lower, f"{1:064x}")


def test_only_rows_that_say_something_are_worth_a_witness() -> None:
    assert account(genesis()).tells(0)
    seen = (genesis(), witness(0), refuse(), witness(2))
    found = account(*seen)
    assert found.witnessed == 2
    assert not any(found.tells(row) for row in range(4))
    found = account(*seen, reserve(), witness(1))
    assert found.witnessed == 2, "an older receipt takes nothing back"
    assert found.tells(4) and found.tells(5) and not found.tells(3)


def test_units_that_meet_are_added_up_for_a_change_that_both_bound() -> None:
    record, server = Plan(**PLAN), Plan(**SECOND | {"unit": "client-server"})
    site = Plan(**SECOND | {"unit": "client-site"})
    assert parts_of([server, server]) == [(Event(5.0), 10)] * 2
    assert parts_of([record, server]) == [(Event(10.0), 10), (Event(2.5), 10)]
    assert parts_of([site, server], [1, 2]) == [(Event(5.0), 1), (Event(2.5), 2)]
    assert parts_of([record, site]) == [(Event(10.0), 10), (Event(5.0), 10)]
