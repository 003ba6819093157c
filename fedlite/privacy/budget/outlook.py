"""What is left of a budget, and what a plan would take of it: the gate's own rule, asked ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedlite.privacy.admission import Admission, order_for
from fedlite.privacy.budget.account import Account
from fedlite.privacy.budget.ceilings import admissible, colluded
from fedlite.privacy.budget.plans import Plan
from fedlite.privacy.budget.policy import Policy

# Each run that is tried costs a search; more than so many is enough to know.
MOST_RUNS = 20


@dataclass(frozen=True)
class Outlook:
    """What would come of a plan now.

    runs: plans so far, spent: epsilon charged for them all. ceiling: the one in force, at `delta`.
    charged: epsilon with this plan; `spent` where not one round of it fits. steps: how many of the
    `asked` would be admitted. fits: how many such runs fit whole, one after the other, up to
    MOST_RUNS. counts: whether what is told after the last round fits as well, where something is.
    alone, collusion: as `charged` and `ceiling`, if all others collude with the server; 0 where no
    plan counts on others' noise.
    """

    runs: int
    spent: float
    ceiling: float
    delta: float
    charged: float
    steps: int
    asked: int
    fits: int
    counts: bool = True
    alone: float = 0.0
    collusion: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for scripts."""
        return asdict(self)


def outlook(
    account: Account,
    elsewhere: Sequence[Plan],
    policy: Policy,
    asked: Plan,
    round_steps: int,
    later: Plan | None = None,
) -> Outlook:
    """Return what `asked` would be given, and how often; nothing is written.

    account: of the ledger, empty where there is none. elsewhere: the plans of the site's other
    ledgers. policy: the one in force. round_steps: steps of one round. later: a second plan of the
    same run, of one step, which each such run is charged as well.
    """
    plans = list(account.plans)
    spent = plans[-1].charged if plans else 0.0
    order = account.order or order_for(policy.epsilon, policy.delta)
    first, second, fits = None, None, 0
    while fits < MOST_RUNS:
        found = admissible(asked, plans, elsewhere, policy, order, round_steps)
        first = first or found
        if found.steps < asked.asked:
            break
        plans.append(_charged(asked, found))
        if later is not None:
            found = admissible(later, plans, elsewhere, policy, order)
            second = second or found
            if not found.steps:
                break
            plans.append(_charged(later, found))
        fits += 1
    steps, charged = (first.steps, first.charged) if first else (0, 0.0)
    if second is not None and second.steps:
        charged = second.charged
    new = [replace(asked, steps=steps)] if steps else []
    new += [later] if later is not None and second is not None and second.steps else []
    alone = colluded([*account.plans, *new], policy)
    return Outlook(
        len(account.plans),
        spent,
        policy.epsilon,
        policy.delta,
        charged if steps else spent,
        steps,
        asked.asked,
        fits,
        later is None or bool(second is not None and second.steps),
        alone,
        policy.collusion if alone else 0.0,
    )


def _charged(plan: Plan, found: Admission) -> Plan:
    return replace(plan, steps=found.steps, bound=found.bound, charged=found.charged)
