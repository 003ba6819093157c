"""What a data set has lost so far, for reports."""

from __future__ import annotations

from dataclasses import dataclass

from fedlite.privacy.accounting import PrivacyLoss, compose_pld, compose_prv, compose_rdp
from fedlite.privacy.budget.account import Account
from fedlite.privacy.mechanism import MAX_SLACK


@dataclass(frozen=True)
class Spent:
    """What a data set has lost, at `delta`.

    used: the steps reserved so far. charged: all plans in their whole length. Both compose what was
    done, as a report; enforced: epsilon by the rule of the filter, which was held to the ceiling.
    """

    delta: float
    used: PrivacyLoss
    charged: PrivacyLoss
    enforced: float


def spent(account: Account) -> Spent:
    """Return what the plans of an account have cost; without any, nothing."""
    plans, delta = account.plans, account.policy.delta
    cuts = any(plan.slack(0.0, plan.steps) > 0 for plan in plans)
    left = delta * (1.0 - MAX_SLACK) if cuts else delta
    used, charged = (
        PrivacyLoss(compose_pld(parts, left), compose_prv(parts, left), compose_rdp(parts, left))
        for parts in (account.used_parts(), account.parts())
    )
    return Spent(delta, used, charged, plans[-1].charged if plans else 0.0)
