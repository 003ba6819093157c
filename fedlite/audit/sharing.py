"""On whom a run says that its epsilon rests, held against the plans that its sites committed to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from fedlite.audit.book import Book, Plan, Policy, by_itself, charge, lowered
from fedlite.audit.cost import fits
from fedlite.audit.rules import Issue
from fedlite.privacy.accounting import table
from fedlite.privacy.admission import order_for
from fedlite.privacy.mechanism import SharedMechanism
from fedlite.privacy.ranges import shares_noise
from fedlite.scenario.keys import Federation
from fedlite.scenario.members import members_of

# What the summary and a ledger's plan call those who share the noise.
_NAMES = {"sites": "members", "least": "least", "honest": "honest", "coordinates": "coordinates"}
# A summary has four digits.
_DIGITS = 1e-4
# What a scenario calls them, by table.
_KEYS = (
    ("federation", "sites", "members"),
    ("federation", "quorum", "least"),
    ("privacy", "honest", "honest"),
    ("privacy", "coordinates", "coordinates"),
    ("privacy", "groups", "groups"),
)
# In what all plans of one run must be alike.
_ALIKE = (
    "group",
    "members",
    "least",
    "honest",
    "coordinates",
    "groups",
    "split",
    "noise_multiplier",
    "clip",
)
# What a scenario that leaves it out has.
_SEED = Federation().seed
_table = lru_cache(maxsize=64)(table)


def mismatches(told: object, plan: Plan, reach: float = 0.0) -> list[str]:
    """Return in what `privacy.shared` of a summary is another than a plan of shared noise.

    reach: as of `SharedMechanism`; no ledger holds it, and the width of sums follows from it.
    """
    said: Mapping[str, Any] = told if isinstance(told, dict) else {}
    wrong = [
        f"shared.{name} {_shown(said.get(name))}, committed {plan.body[row]!r}"
        for name, row in _NAMES.items()
        if not _is(said.get(name), plan.body[row])
    ]
    # A run in one group says nothing of groups, nor does its plan.
    if not _is(said.get("groups", 1), groups_of(plan)):
        wrong.append(f"shared.groups {_shown(said.get('groups'))}, committed {groups_of(plan)}")
    mechanism, real = _real(plan, reach)
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
        if row == "groups":
            # What is left out is one sum, and nothing else settles it.
            said, committed = 1 if said is None else said, groups_of(plan)
            differs = not _is(said, committed)
        else:
            # 0 honest is "two thirds", 0 coordinates "as the model makes": settled elsewhere.
            committed = plan.body[row]
            differs = said not in (None, 0) and not _is(said, committed)
        if differs:
            wrong.append(f"{place}.{key} {_shown(said)}, committed {committed!r}")
    part = tables.get("federation")
    seed = part.get("seed", _SEED) if isinstance(part, dict) else _SEED
    if groups_of(plan) > 1 and not _is(seed, int(plan.body["split"], 16)):
        wrong.append(
            f"federation.seed {_shown(seed)}, committed {int(plan.body['split'], 16)}, by which "
            "the members of a round are divided"
        )
    part = tables.get("privacy")
    if isinstance(part, dict) and (told := part.get("members")):
        try:
            same = members_of(told) == plan.body["group"]
        except (ValueError, TypeError):
            same = False
        if not same:
            wrong.append(f"privacy.members {_shown(told)}, committed {_names(plan.body['group'])}")
    return wrong


def trusted(book: Book) -> list[Issue]:
    """Return where a ledger's plans rest on others more than its policies let them.

    Epsilon if all others collude is computed anew for every plan from the first of shared noise on,
    and for what was reserved after every ceiling that was lowered; so is how many others were
    trusted when steps were reserved.
    """
    issues, shared = [], {plan.number: plan for _, plan in _shared([book])}
    if not shared:
        return []
    for plan in book.plans[min(shared) :]:
        try:
            issues += _collusion(book, plan)
        except (ValueError, OverflowError) as error:
            text = f"what the plan costs if all others collude cannot be computed: {error}"
            issues.append(book.issue("plan-above-alone", text, plan.seq))
    issues += lowered(book, _ceiling, _alone, " if all others collude")
    for seq, body in book.reserves.items():
        reserved, policy = shared.get(body["plan"]), book.policy_at(seq)
        if reserved and reserved.body["honest"] - 1 > policy.get("honest", 0):
            text = (
                f"plan {reserved.number} (run {reserved.run}) takes {reserved.body['honest'] - 1} "
                f"others for honest, and the policy at that row trusts {policy.get('honest', 0)}"
            )
            return [*issues, book.issue("plan-honest", text, seq)]
    return issues


def _collusion(book: Book, plan: Plan) -> list[Issue]:
    policy, plans = book.policy_at(plan.seq), book.plans[: plan.number + 1]
    cost, ceiling = _alone(plans, policy), _ceiling(policy)
    # A plan of local noise says nothing of it, and may be what others' colluding makes too much.
    where, said = f"plan {plan.number} (run {plan.run})", plan.body.get("alone", cost)
    issues = []
    if not fits(cost, ceiling):
        text = (
            f"{where}: if all others collude the ledger costs epsilon {cost:.6g} with it, and the "
            f"ceiling for that at that row is {ceiling:g} (delta {policy['delta']:g})"
        )
        issues.append(book.issue("plan-above-alone", text, plan.seq))
    if not fits(cost, said):
        text = f"{where}: charged {said:.6g} if all others collude, recomputed {cost:.6g}"
        issues.append(book.issue("charge-understated", text, plan.seq))
    return issues


def _alone(plans: Sequence[Plan], policy: Policy, steps: Sequence[int] = ()) -> float:
    if not any(shares_noise(one.body["unit"]) for one in plans):
        return 0.0
    ceiling, delta = _ceiling(policy), policy["delta"]
    order = order_for(ceiling, delta)
    cost, _ = charge([by_itself(one) for one in plans], ceiling, delta, order, steps)
    return cost


def _ceiling(policy: Policy) -> float:
    return max(float(policy.get("alone", 0.0)), float(policy["epsilon"]))


def divided(books: Iterable[Book]) -> list[Issue]:
    """Return where sites committed to different members for one run, or to another's key.

    books: one of each ledger. A server that shows different lists to two sites is found by two
    ledgers, one that brings a site of its own under a name by that site's.
    """
    issues, first = [], dict[str, tuple[Book, Plan]]()
    known = [book for book in books if book.rows]
    told = {(book.site, plan.run) for book, plan in _shared(known)}
    for book, plan in _shared(known):
        other, its = first.setdefault(plan.run, (book, plan))
        if differs := [name for name in _ALIKE if plan.body.get(name) != its.body.get(name)]:
            text = (
                f"run {plan.run}: committed to another {', '.join(differs)} than {other.site} "
                f"({other.path}): "
                f"{_told(plan, its, differs[0])} against {_told(its, plan, differs[0])}"
            )
            issues.append(book.issue("members-differ", text, plan.seq))
        for member in known:
            issues += _key(book, plan, member, (member.site, plan.run) in told)
    return issues


def _shared(books: Iterable[Book]) -> Iterator[tuple[Book, Plan]]:
    """Yield the plans that count on others' noise."""
    for book in books:
        for plan in book.plans:
            if shares_noise(plan.body["unit"]):
                yield book, plan


def _key(book: Book, plan: Plan, member: Book, told: bool) -> list[Issue]:
    """Hold the key that a plan names for a member against that which the member's ledger had then.

    It is the one that signed the member's own plan of shared noise of the run. Where it wrote none,
    it is the last, as a key that was given up may be known to others. told: whether any ledger of
    the member has such a plan; when it was is not known in its others, of which any key is taken.
    """
    key = plan.body["group"].get(member.site)
    own = [member.key_at(one.seq) for _, one in _shared([member]) if one.run == plan.run]
    if not own:
        own = [key for _, key in member.keys] if told else [member.keys[-1][1]]
    if key is None or key in own:
        return []
    text = (
        f"run {plan.run}: {member.site} is a member with the key {key}, and its ledger "
        f"{member.path} was signed by {own[-1]} then"
    )
    return [book.issue("member-key", text, plan.seq)]


def _told(plan: Plan, other: Plan, name: str) -> str:
    """Return what a plan says of `name`; of its members those alone that another has otherwise."""
    said, others = plan.body.get(name, 1), other.body.get(name, 1)
    if name != "group":
        return repr(said)
    return _names({one: key for one, key in said.items() if others.get(one) != key}) or "no more"


def _names(group: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {key}" for name, key in sorted(group.items()))


def _real(plan: Plan, reach: float = 0.0) -> tuple[SharedMechanism | None, Mapping[int, float]]:
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
            groups=groups_of(plan),
            reach=reach,
        )
        return mechanism, _table(mechanism, body["delta"])
    except (ValueError, OverflowError):
        return None, {}


def groups_of(plan: Plan) -> int:
    """Return in how many sums a round of a plan is."""
    return int(plan.body.get("groups", 1))


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
