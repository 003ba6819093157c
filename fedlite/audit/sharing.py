"""On whom a run says that its epsilon rests, held against the plans that its sites committed to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from fedlite.audit.book import Plan
from fedlite.audit.cost import fits
from fedlite.privacy.accounting import table
from fedlite.privacy.mechanism import SharedMechanism

# What the summary and a ledger's plan call those who share the noise.
_NAMES = {"sites": "members", "least": "least", "honest": "honest", "coordinates": "coordinates"}
# A summary has four digits.
_DIGITS = 1e-4
# What a scenario calls them, by table.
_KEYS = (
    ("federation", "sites", "members"),
    ("federation", "quorum", "least"),
    ("privacy", "honest", "honest"),
)
_table = lru_cache(maxsize=64)(table)


def mismatches(told: object, plan: Plan) -> list[str]:
    """Return in what `privacy.shared` of a summary is another than a plan of shared noise."""
    said: Mapping[str, Any] = told if isinstance(told, dict) else {}
    wrong = [
        f"shared.{name} {_shown(said.get(name))}, committed {plan.body[row]!r}"
        for name, row in _NAMES.items()
        if not _is(said.get(name), plan.body[row])
    ]
    mechanism, real = _real(plan)
    if mechanism is None:
        return wrong
    for name, known in (("noise_of", mechanism.carried), ("bits", mechanism.bits)):
        if not _is(said.get(name), known):
            wrong.append(f"shared.{name} {_shown(said.get(name))}, and by the plan it is {known}")
    rows, counts = said.get("epsilon"), [str(count) for count in real]
    if not isinstance(rows, dict) or set(rows) != set(counts):
        wrong.append(f"shared.epsilon of {_keys(rows)}, and by the plan of {', '.join(counts)}")
    return wrong


def understated(told: object, plan: Plan) -> list[str]:
    """Return which figures of the summary's table are less than the plan's noise makes them."""
    said: Mapping[str, Any] = told if isinstance(told, dict) else {}
    _, real = _real(plan)
    if not real:
        return []
    rows = said.get("epsilon")
    claims = {count: rows.get(str(count)) for count in real} if isinstance(rows, dict) else {}
    wrong = [
        f"shared.epsilon {_shown(claims[count])} if {count} are honest, which cost {loss:.6g}"
        for count, loss in real.items()
        if count in claims and not _covers(claims[count], loss)
    ]
    alone = real[min(real)]
    if not _covers(said.get("alone"), alone):
        shown = _shown(said.get("alone"))
        wrong.append(f"shared.alone {shown}, and with all others colluding it is {alone:.6g}")
    return wrong


def planned_otherwise(tables: Mapping[str, Any], plan: Plan) -> list[str]:
    """Return in what a run's scenario names other members than a plan; it leaves defaults out."""
    wrong = []
    for place, key, row in _KEYS:
        part = tables.get(place)
        said = part.get(key) if isinstance(part, dict) else None
        # 0 honest is "two thirds", and is settled by the code that runs.
        if said not in (None, 0) and not _is(said, plan.body[row]):
            wrong.append(f"{place}.{key} {_shown(said)}, committed {plan.body[row]!r}")
    return wrong


def _real(plan: Plan) -> tuple[SharedMechanism | None, Mapping[int, float]]:
    """Return a plan's mechanism and table; none where it has no such, told where it is judged."""
    body = plan.body
    try:
        mechanism = SharedMechanism(
            clip=body["clip"],
            noise_multiplier=body["noise_multiplier"],
            sampling_rate=body["sampling_rate"],
            # Those that were admitted: what was asked for beyond them was never spent.
            steps=body["steps"],
            expected_batch=body["expected_batch"],
            coordinates=body["coordinates"],
            sites=body["members"],
            least=body["least"],
            honest=body["honest"],
            unit="client" if body["unit"].startswith("client") else "record",
        )
        return mechanism, _table(mechanism, body["delta"])
    except (ValueError, OverflowError):
        return None, {}


def _is(said: object, real: int) -> bool:
    return type(said) is int and said == real


def _covers(said: object, real: float) -> bool:
    # Compared as it stands: NaN covers nothing.
    if isinstance(said, bool) or not isinstance(said, int | float):
        return False
    return fits(real, said + _DIGITS)


def _shown(said: object) -> str:
    return f"{said!r:.40}"


def _keys(rows: object) -> str:
    return (
        ", ".join(str(row)[:8] for row in sorted(rows)[:20]) if isinstance(rows, dict) else "none"
    )
