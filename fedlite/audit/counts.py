"""The counts that private sites have told after a run's last round, held against their ledgers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fedlite.audit.book import Book, Plan
from fedlite.audit.cost import fits
from fedlite.privacy import counting
from fedlite.privacy.accounting import compose_pld
from fedlite.privacy.mechanism import Event

# What a plan for counts is: each record in one cell of one release, without sampling.
_TERMS = {
    "unit": "record",
    "sampling_rate": 1.0,
    "asked": 1,
    "clip": 1.0,
    "expected_batch": 1,
    "max_batch": 0,
}
# A rule of `fedlite.audit.rules`, and what was found.
Finding = tuple[str, str]


@dataclass
class Told:
    """What a run says of its counts.

    asked: their epsilon by the scenario; None where unknown. sites: whose have arrived, by the
    summary. named: those, and whose it says that they were dropped or are missing.
    """

    asked: float | None = None
    sites: Collection[str] = ()
    named: Collection[str] = ()


def read(inference: Any) -> Told:
    """Return what the `inference` part of a summary says of counts; whatever it is."""
    told = inference.get("told") if isinstance(inference, dict) else None
    if not isinstance(told, dict):
        return Told()
    sites = _names(told.get("sites"))
    return Told(None, sites, sites | _names(told.get("dropped")) | _names(told.get("missing")))


def name_of(run: str) -> str:
    """Return the name under which ledgers keep a run's counting; "" where `run` names none."""
    if not re.fullmatch(r"[0-9a-f]{16}", run):
        return ""
    return counting.run_of(bytes.fromhex(run))


def plans_of(
    run: str, privacy: Mapping[str, Any], told: Told, site: str, book: Book
) -> tuple[list[Plan], list[Finding]]:
    """Return a ledger's plans for the counts of a run, and what speaks against the summary.

    run: its name. privacy: that part of its summary.
    """
    name = name_of(run)
    if not name:
        return [], []
    plans = [plan for plan in book.plans if plan.run == name]
    said = privacy.get("counts")
    found: list[Finding] = []
    if plans and not isinstance(said, dict):
        text = "the ledger has a plan for counts in this run, and the summary names none"
        found.append(("summary-understates", text))
    elif isinstance(said, dict):
        if told.asked is not None and said.get("epsilon") != told.asked:
            text = (
                f"says epsilon {said.get('epsilon')!r} of counts, and the scenario {told.asked!r}"
            )
            found.append(("summary-mismatch", text))
        for plan in plans:
            found += _terms(said, privacy.get("delta"), plan.body)
    if site in told.sites and not book.released(name) and book.intact:
        text = "its counts arrived by the summary, and the ledger released none"
        found.append(("unrecorded-release", text))
    return plans, found


def _terms(said: Mapping[str, Any], delta: Any, body: Mapping[str, Any]) -> list[Finding]:
    wrong = [
        f"counts need {term} {must!r}, committed {body[term]!r}"
        for term, must in _TERMS.items()
        if body[term] != must
    ]
    for name, claim, committed in (
        ("epsilon of counts", said.get("epsilon"), body["epsilon_asked"]),
        ("noise of counts", said.get("noise_multiplier"), body["noise_multiplier"]),
        ("delta", delta, body["delta"]),
    ):
        if claim != committed:
            wrong.append(f"the summary says {name} {claim!r}, committed {committed!r}")
    found = [("summary-mismatch", text) for text in wrong]
    cost = compose_pld([(Event(body["noise_multiplier"]), 1)], body["delta"])
    if not fits(cost, body["epsilon_asked"]):
        text = f"counts cost epsilon {cost:.6g} by themselves, asked was {body['epsilon_asked']:g}"
        found.append(("summary-understates", text))
    return found


def _names(value: Any) -> frozenset[str]:
    """Return the texts of a list, or the keys of an object."""
    held = value if isinstance(value, list | dict) else ()
    return frozenset(one for one in held if isinstance(one, str))
