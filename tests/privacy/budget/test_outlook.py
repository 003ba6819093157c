"""What is foretold of a budget is what the gate then does, run after run."""

from __future__ import annotations

import pytest

from fedlite.privacy.budget import Account, Refused
from fedlite.privacy.budget.outlook import MOST_RUNS, outlook
from fedlite.privacy.budget.plans import asked_plan
from fedlite.privacy.budget.policy import Policy
from tests.privacy.budget.holder import Site, gaussian


@pytest.mark.parametrize(("sigma", "steps", "round_steps"), [(8.0, 20, 1), (10.0, 12, 3)])
def test_the_gate_charges_what_was_foretold(
    site: Site, sigma: float, steps: int, round_steps: int
) -> None:
    mechanism, told, given = gaussian(sigma, steps), [], []
    asked = asked_plan("0" * 16, mechanism, epsilon=1.0, delta=1e-5, code="ab" * 32)
    policy = site.policy
    for number in range(MOST_RUNS):
        account = Account.of(site.rows) if site.path.exists() else Account()
        seen = outlook(account, (), policy, asked, round_steps)
        told.append(seen)
        try:
            site.begin(mechanism, run=f"{number:016x}", round_steps=round_steps)
        except Refused:
            break
        plan = Account.of(site.rows).plans[-1]
        given.append(plan.steps)
        assert (plan.steps, plan.charged) == (seen.steps, seen.charged)
        assert seen.spent == (Account.of(site.rows).plans[-2].charged if number else 0.0)
    # The refused one, too, was foretold.
    assert told[-1].steps == 0 and told[-1].charged == told[-1].spent
    whole = given.count(steps)
    assert 1 <= whole < len(told) < MOST_RUNS
    assert [seen.fits for seen in told[: whole + 1]] == list(range(whole, -1, -1))


@pytest.mark.parametrize(("sigma", "counts"), [(8.0, True), (0.3, False)])
def test_counts_after_the_last_round_are_foretold_with_their_run(
    site: Site, sigma: float, counts: bool
) -> None:
    training, later = gaussian(8.0, 20), gaussian(sigma, 1)
    plans = [
        asked_plan(run * 16, one, epsilon=1.0, delta=1e-5, code="ab" * 32)
        for run, one in (("0", training), ("1", later))
    ]
    seen = outlook(Account(), (), site.policy, plans[0], 1, plans[1])
    assert seen.counts is counts and seen.steps == 20
    site.begin(training, run="0" * 16)
    if counts:
        site.begin(later, run="1" * 16)
    else:
        with pytest.raises(Refused):
            site.begin(later, run="1" * 16)
    assert seen.charged == Account.of(site.rows).plans[-1].charged
    assert seen.fits == (counts and seen.fits)


def test_no_more_is_tried_than_anybody_needs_to_know() -> None:
    asked = asked_plan("0" * 16, gaussian(1e4, 1), epsilon=1.0, delta=1e-5, code="ab" * 32)
    assert outlook(Account(), (), Policy(epsilon=3.0), asked, 1).fits == MOST_RUNS
