"""Rounds: reserved, settled, released, and counted once."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from fedlite.privacy.budget import Refused
from fedlite.privacy.budget.budget import MOST_REFUSALS
from fedlite.privacy.ledger import FILES, Ledger, LedgerError, forget
from tests.privacy.budget.holder import KEY, MODEL, OTHER, RUN, Site, gaussian, refusal


def test_a_round_is_reserved_settled_and_released(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.reserve(5)
    digest = site.release(b"update")
    assert digest == hashlib.sha256(b"update").hexdigest()
    assert site.kinds == ["genesis", "reserve", "settle", "release"]
    assert site.rows[2].body == {"of": 1, "steps": 5, "payload": digest}
    assert site.rows[3].body == {"of": 1, "payload": digest, "bytes": 6}


def test_sending_the_same_again_costs_nothing_and_another_payload_is_an_error(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.reserve(5)
    site.release(b"update")
    before = site.path.read_bytes()
    site.release(b"update")
    with pytest.raises(LedgerError) as caught:
        site.release(b"another")
    assert caught.value.rule == "release-mismatch"
    assert site.path.read_bytes() == before


def test_nothing_is_released_that_was_not_reserved(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.reserve(5)
    for place in ({"round": 2}, {"run": OTHER}):
        with pytest.raises(LedgerError) as caught:
            site.release(b"update", **place)  # type: ignore[arg-type]
        assert caught.value.rule == "release-without-reserve"


def test_the_same_payload_in_another_round_is_another_release(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    for round in (1, 2):
        site.reserve(5, round=round)
        site.release(b"update", round=round)
    assert site.kinds == ["genesis", *["reserve", "settle", "release"] * 2]
    with pytest.raises(LedgerError):
        site.release(b"update", round=3)


def test_training_a_round_again_costs_again_and_its_release_is_its_own(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.reserve(5)
    site.reserve(5)
    site.release(b"second attempt")
    site.reserve(5)
    site.release(b"third attempt")
    before = site.path.read_bytes()
    site.release(b"second attempt")
    assert site.path.read_bytes() == before
    assert [r.body["of"] for r in site.rows if r.kind == "release"] == [2, 5]
    with site.open() as budget:
        assert budget.account.reserved(0) == 15


def test_a_crash_between_settling_and_releasing_is_mended_by_the_same_payload(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.reserve(5)
    site.release(b"update")
    lines = site.path.read_bytes().splitlines(keepends=True)
    forget(site.path)
    site.path.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    with pytest.raises(LedgerError) as caught:
        site.release(b"another")
    assert caught.value.rule == "release-mismatch"
    site.release(b"update")
    assert site.kinds == ["genesis", "reserve", "settle", "release"]


def test_fewer_steps_than_reserved_may_be_settled_and_give_nothing_back(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.reserve(5)
    with site.open() as budget:
        with pytest.raises(ValueError, match="steps"):
            budget.release(RUN, 1, b"update", steps=6)
        budget.release(RUN, 1, b"update", steps=3)
        assert budget.account.reserved(0) == 5
    assert site.rows[2].body["steps"] == 3


def test_the_plan_s_last_step_is_the_last(site: Site) -> None:
    site.begin(gaussian(20.0, 10))
    site.reserve(6)
    assert refusal(site.reserve, 5) == "plan-spent"
    site.reserve(4)
    assert refusal(site.reserve, 1) == "plan-spent"
    assert refusal(site.reserve, 1, OTHER) == "no-plan"
    assert site.kinds == ["genesis", "reserve", "refuse", "reserve"]


def test_a_plan_that_was_cut_short_ends_where_it_was_cut(site: Site) -> None:
    site.policy = replace(site.policy, epsilon=1.0)
    site.begin(gaussian(20.0, 1000))
    steps = site.plan()["steps"]
    site.reserve(steps)
    assert refusal(site.reserve, 1) == "plan-spent"


@pytest.mark.parametrize("steps", [0, -1, True, 1.0, math.nan, math.inf, 10**30, "5", None])
def test_steps_from_outside_are_not_believed(site: Site, steps: Any) -> None:
    site.begin(gaussian(20.0, 10))
    with pytest.raises((ValueError, Refused)):
        site.reserve(steps)
    with site.open() as budget:
        assert budget.account.reserved(0) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"run": "A" * 16},
        {"run": "a" * 15},
        {"run": None},
        {"asked_epsilon": math.nan},
        {"asked_epsilon": -1.0},
        {"asked_epsilon": math.inf},
        {"delta": 0.0},
        {"delta": math.nan},
        {"commitment": "x"},
        {"code": ""},
        {"round_steps": 0},
        {"mechanism": gaussian(1e5, 10**9)},
    ],
)
def test_terms_from_outside_are_not_believed(site: Site, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  Each names another argument.
        site.begin(**{"mechanism": gaussian(20.0, 10), "run": RUN} | change)
    assert not site.path.exists()


@pytest.mark.parametrize("place", [{"round": -1}, {"round": 2**60}, {"round": True}, {"run": ""}])
def test_places_from_outside_are_not_believed(site: Site, place: dict[str, Any]) -> None:
    site.begin(gaussian(20.0, 10))
    with pytest.raises((ValueError, Refused)):
        site.reserve(1, **place)
    assert site.kinds == ["genesis"]


def test_a_server_that_asks_for_ever_does_not_fill_the_disk(site: Site) -> None:
    site.begin(gaussian(20.0, 10))
    with site.open() as budget:
        for round in range(20):
            with pytest.raises(Refused):
                budget.reserve(RUN, round, 11, MODEL)
        assert len(site.rows) == 2
        for number in range(MOST_REFUSALS + 20):
            budget.refuse(f"{number:016x}", 1, "ceiling")
    assert len(site.rows) == 1 + MOST_REFUSALS
    with site.open() as budget, pytest.raises(ValueError, match="why"):
        budget.refuse(RUN, 1, "mood")


# Reports, and the room.


def test_a_ledger_that_makes_no_sense_is_not_spent_from(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    with Ledger.open(site.path, KEY, files=FILES) as ledger:
        ledger.append(("settle", {"of": 5, "steps": 1, "payload": "0" * 64}))
    with pytest.raises(LedgerError) as caught:
        site.reserve(1)
    assert caught.value.rule == "settle-without-reserve"


def test_a_site_s_budget_needs_neither_torch_nor_flower() -> None:
    code = (
        "import sys, fedlite.privacy.budget; print([m for m in ('torch', 'flwr', 'dp_accounting',"
        " 'scipy', 'opacus') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
