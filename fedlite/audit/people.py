"""The ceiling for a person, who may appear in several data sets of one site."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from fedlite.audit.book import Book, Plan, charge
from fedlite.audit.cost import fits
from fedlite.audit.rules import Issue
from fedlite.privacy.admission import order_for


def person_ceilings(books: Iterable[Book]) -> list[Issue]:
    """Hold all plans of one site's ledgers together against its ceiling for a person.

    A site's ledgers are those that lie in one folder and name one site. Which of two ledgers'
    plans came first is known by the site's own clock only.
    """
    sites: dict[tuple[Path, str], list[Book]] = {}
    for book in books:
        if book.rows and book.file.home != "run":
            sites.setdefault((book.path.parent, book.site), []).append(book)
    return [issue for ledgers in sites.values() for issue in _site(ledgers)]


def _site(books: Sequence[Book]) -> list[Issue]:
    issues = []
    for book in books:
        for plan in book.plans:
            policy = book.policy_at(plan.seq)
            if policy["person"]:
                before = [p for other in books for p in _until(other, book, plan)]
                issues += _person(book, plan, before, len(books))
    return issues


def _until(other: Book, book: Book, plan: Plan) -> list[Plan]:
    """Return the plans of `other` that were committed before `plan` of `book`, or with it."""
    if other is book:
        return book.plans[: plan.number]
    now = book.rows[plan.seq].time
    return [one for one in other.plans if other.rows[one.seq].time <= now]


def _person(book: Book, plan: Plan, before: Sequence[Plan], ledgers: int) -> list[Issue]:
    policy = book.policy_at(plan.seq)
    person, delta = policy["person"], policy["delta"]
    try:
        cost, bound = charge([*before, plan], person, delta, order_for(person, delta))
    except (ValueError, OverflowError):
        return []  # told where the plan is judged by itself
    if fits(cost, person):
        return []
    text = (
        f"plan {plan.number} (run {plan.run}): with it the {ledgers} ledgers of the site cost a "
        f"person epsilon {cost:.4f} ({bound}), and the ceiling for a person is {person:g}"
    )
    return [book.issue("person-above-ceiling", text, plan.seq)]
