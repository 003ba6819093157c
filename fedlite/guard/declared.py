"""What a site's operator has declared of his data, held against a plan: no record is looked at.

A refusal is seen outside. One that hung on the records would tell something of them, and a server
could choose its plans so as to find it out bit by bit. So every bound that a plan needs is a number
that the operator has written into site.toml, or one that everybody knows of a public source.
"""

from __future__ import annotations

from fedlite.data import entries, find
from fedlite.guard.policy import DataSet, SitePolicy
from fedlite.scenario import Scenario, ScenarioError, with_values
from fedlite.scenario.records import OWN

# Small enough for any data set whose size nobody has declared.
SMALL_DELTA = 1e-5


def most_records(chosen: DataSet) -> int:
    """Return how many records the data set has at most, as declared or as public; 0: not known.

    >>> most_records(DataSet("a", "csv", records_at_most=500)), most_records(DataSet("b", "digits"))
    (500, 1797)
    """
    known = {entry.name: entry.records for entry in entries()}
    return chosen.records_at_most or known[chosen.source]


def beyond_declared(policy: SitePolicy, scenario: Scenario) -> list[str]:
    """Return what the plan of a private scenario needs and `site.toml` does not declare.

    Each line names the key, the rule, the value and the mend.
    """
    chosen, privacy = policy.data_set(scenario.data.name), scenario.privacy
    if chosen is None or not scenario.private:
        return []
    found = _not_public(chosen, scenario)
    if privacy.unit != "record":
        return found
    key, most = f"data.{chosen.name}.records_at_most", most_records(chosen)
    if policy.delta > SMALL_DELTA and not (most and policy.delta < 1 / most):
        bound = f"{most}" if most else "not declared"
        found.append(
            f"budget.delta: must be at most {SMALL_DELTA:g}, or less than 1 / {key}, which is "
            f"{bound}, got {policy.delta:g}; use {SMALL_DELTA:g}"
        )
    if privacy.max_records and not 0 < most <= privacy.max_records:
        bound = f"{most}" if most else "not declared"
        found.append(
            f"{key}: must be declared and at most the plan's privacy.max_records, "
            f"{privacy.max_records}, from which the cost of max_batch is computed, got {bound}; "
            "declare it if that is true, or ask for another plan"
        )
    return found


def _not_public(chosen: DataSet, scenario: Scenario) -> list[str]:
    """Return the rules that the plan breaks where records of the site's own answer to its name.

    A plan may take a public source's classes and scales from its records. It names what answers
    here, and does not say what that is: `source` does.
    """
    if not find(chosen.source).own or scenario.data.own:
        return []
    try:
        # What a package calls it, is held against the rules for a table.
        name = chosen.source if chosen.source in OWN else OWN[0]
        with_values(scenario, "data", name=name, path=chosen.path, target=chosen.target)
    except ScenarioError as error:
        return str(error).splitlines()
    return []
