"""How many steps of a plan fit under all ceilings of a site at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from fedlite.privacy.admission import Admission, admit, order_for
from fedlite.privacy.budget.plans import Plan, parts_of
from fedlite.privacy.budget.policy import Policy
from fedlite.privacy.mechanism import MAX_SLACK


def admissible(
    plan: Plan,
    others: Sequence[Plan],
    elsewhere: Sequence[Plan],
    policy: Policy,
    order: float,
    multiple: int = 1,
) -> Admission:
    """Return the largest number of steps, up to `plan.steps`, that fits under every ceiling.

    others: all other plans of this ledger, which count in their whole length. elsewhere: those of
    the site's other ledgers, for the ceiling of a person. order: of this ledger's filter.
    multiple: the steps of one round; a plan is admitted for whole rounds.

    The ceiling of one run is a PLD of that plan alone. The ceiling of a person is kept by the same
    rule as that of a ledger (`privacy.admission`), over all ledgers and at the order that fits it
    best; it holds for the order of the ceiling in force, so changing it begins a new promise. So is
    that of collusion, where any plan counts on others' noise: of each plan its own noise alone.
    """
    limits = [(policy.epsilon, order, plan, list(others))]
    if policy.per_run:
        limits.append((policy.per_run, order, plan, []))
    if policy.person:
        best = order_for(policy.person, policy.delta)
        limits.append((policy.person, best, plan, [*others, *elsewhere]))
    if policy.collusion > 0 and _counting_on_others([plan, *others]):
        own = [one.by_itself for one in others]
        limits.append((policy.collusion, _best(policy), plan.by_itself, own))
    # RDP first: it is quick, and leaves the search by PLD fewer steps to try.
    limits.sort(key=lambda limit: (not limit[3], limit[0]))
    steps = plan.steps
    for epsilon, at, asked, history in limits:
        steps = _admit(replace(asked, steps=steps), history, epsilon, policy.delta, at).steps
        steps -= steps % multiple
        if not steps:
            return Admission(0, "rdp" if others else "pld", 0.0)
    return _admit(replace(plan, steps=steps), others, policy.epsilon, policy.delta, order)


def colluded(plans: Sequence[Plan], policy: Policy) -> float:
    """Return epsilon of a ledger's admitted plans, the last one of now, if all members collude.

    By the rule that held them under `policy.collusion`; 0 where no plan counts on others' noise.
    """
    if not _counting_on_others(plans):
        return 0.0
    *own, last = [one.by_itself for one in plans]
    return _admit(last, own, policy.collusion, policy.delta, _best(policy)).charged


def _counting_on_others(plans: Sequence[Plan]) -> bool:
    return any(plan.shared for plan in plans)


def _best(policy: Policy) -> float:
    return order_for(policy.collusion, policy.delta)


def _admit(
    plan: Plan, history: Sequence[Plan], epsilon: float, delta: float, order: float
) -> Admission:
    steps = plan.steps
    before = math.fsum(other.slack(epsilon, other.steps) for other in history)
    slack = before + plan.slack(epsilon, steps)
    if slack > MAX_SLACK * delta:
        # The slack grows by the step, so this part of the ceiling can be solved for the steps.
        one = plan.slack(epsilon, 1)
        steps = max(0, math.floor((MAX_SLACK * delta - before) / one)) if one else 0
        while steps and before + plan.slack(epsilon, steps) > MAX_SLACK * delta:
            steps -= 1
        if not steps:
            return Admission(0, "rdp" if history else "pld", 0.0)
        slack = before + plan.slack(epsilon, steps)
    *parts, (event, _) = parts_of([*history, plan])
    return admit(parts, event, steps, epsilon=epsilon, delta=delta, order=order, slack=slack)
