"""What is left of a data set's budget, beside what a plan would take of it."""

from __future__ import annotations

from pathlib import Path

from fedlite.guard.foretold import foretold
from fedlite.guard.policy import SitePolicy
from fedlite.privacy.budget.outlook import MOST_RUNS, Outlook
from fedlite.protection import round_steps
from fedlite.reporting import wording
from fedlite.scenario import Scenario


def left(
    home: Path, policy: SitePolicy, scenario: Scenario
) -> tuple[Outlook | None, list[tuple[str, str]], list[str]]:
    """Return what a new run of the scenario would get, titles and texts for people, and warnings.

    A run that has begun is charged already, and is not charged again. None where nothing is.
    """
    if not scenario.claims_privacy:
        return None, [], []
    try:
        seen = foretold(scenario, policy, home / "ledgers")
    except (ValueError, OSError) as error:
        return None, [], [f"what is left of the budget is not known: {error}"]
    spent, after = wording.epsilon(seen.spent, 3), wording.epsilon(seen.charged, 3)
    facts = [
        (
            "budget",
            f"epsilon {spent} of {seen.ceiling:g} spent, at delta {seen.delta:g}, in "
            f"{wording.count(seen.runs, 'run')}",
        ),
        ("with it", f"epsilon {after} of {seen.ceiling:g} for a new run; {how_often(seen)}"),
    ]
    if seen.collusion:
        alone = f"epsilon {wording.epsilon(seen.alone, 3)} of {seen.collusion:g} (budget.alone)"
        facts.append(("if all others collude", f"{alone} with it, by this site's own noise"))
    if seen.steps == seen.asked and not seen.counts:
        warning = "budget: the counts after the last round do not fit under the ceiling; this site"
        return seen, facts, [f"{warning} tells none"]
    if seen.steps == seen.asked:
        return seen, facts, []
    steps = round_steps(scenario)
    rounds, wanted = seen.steps // steps, seen.asked // steps
    return (
        seen,
        facts,
        [
            f"budget: {rounds:,} of {wanted:,} rounds fit under the ceiling; after them this site "
            "declines. Ask for a plan with less, or the data's owner raises the ceiling"
        ],
    )


def how_often(seen: Outlook) -> str:
    """Return in words how often such a run still fits."""
    fits = seen.fits
    if not seen.steps:
        return "no round of it fits, and nothing is charged"
    if not fits:
        return "it does not fit whole"
    if fits == 1:
        return "no further such run would fit"
    return f"{'at least ' * (fits >= MOST_RUNS)}{fits - 1} more such would fit after it"
