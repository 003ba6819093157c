"""What a private run would be charged at a site, before anything of it is written down."""

from __future__ import annotations

import os
from pathlib import Path

from fedlite.guard import policy as site_policy
from fedlite.guard.policy import SitePolicy
from fedlite.privacy import Mechanism
from fedlite.privacy.budget import Account
from fedlite.privacy.budget.outlook import Outlook, outlook
from fedlite.privacy.budget.plans import Plan, asked_plan
from fedlite.privacy.budget.policy import Policy
from fedlite.privacy.budget.siblings import Siblings
from fedlite.privacy.ledger import read
from fedlite.protection import counting_mechanism, plan_mechanism, round_steps
from fedlite.scenario import Scenario


def foretold(scenario: Scenario, policy: SitePolicy, ledgers: Path) -> Outlook:
    """Return what a new run of a private scenario would be charged, and how often; writes nothing.

    policy: what site.toml says. ledgers: the site's folder of them. A run that has begun is charged
    already. Raises ValueError where a ledger does not verify or the plan leaves something open.
    """
    account, limits = in_force(scenario, policy, ledgers)
    told = scenario.privacy
    asked = _asked("0" * 16, plan_mechanism(scenario), told.epsilon, told.delta)
    counts = counting_mechanism(scenario)
    later = None
    if counts is not None:
        later = _asked("1" * 16, counts, scenario.inference.epsilon, told.delta)
    own = os.path.realpath(ledgers / f"{scenario.data.name}.jsonl")
    elsewhere = Siblings((ledgers,), own).plans(limits)
    return outlook(account, elsewhere, limits, asked, round_steps(scenario), later)


def in_force(scenario: Scenario, policy: SitePolicy, ledgers: Path) -> tuple[Account, Policy]:
    """Return what the data set's ledger says, and the lower of its policy and site.toml's.

    Raises ValueError where the ledger does not verify.
    """
    path = ledgers / f"{scenario.data.name}.jsonl"
    limits = site_policy.for_data(policy, scenario.data.name)
    account = Account.of(read(path)) if path.exists() else Account()
    return account, account.policy.meet(limits) if account.rows else limits


def _asked(run: str, mechanism: Mechanism, epsilon: float, delta: float) -> Plan:
    return asked_plan(run, mechanism, epsilon=epsilon, delta=delta, code="0" * 64)
