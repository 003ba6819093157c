"""Noise that is shared in groups: enough in each of them, wherever the dishonest are."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from fedlite.privacy import SharedMechanism, accounting
from fedlite.privacy.budget.plans import asked_plan
from fedlite.privacy.ledger.bodies import check_body
from fedlite.privacy.ledger.rules import LedgerError
from fedlite.privacy.ranges import sharing_problem, surely_honest, worst_group
from tests.privacy.shared.planned import MECHANISM

WHOLE = replace(MECHANISM, sites=15, least=15, honest=14)
THREE = replace(WHOLE, groups=3)


@pytest.mark.parametrize(
    ("sites", "away", "false", "groups"),
    [(9, 0, 1, 3), (9, 0, 2, 3), (12, 1, 1, 3), (12, 1, 1, 2), (12, 0, 3, 3), (10, 1, 1, 2)],
)
def test_what_is_surely_there_is_the_least_over_all_ways_to_place_who_is_not(
    sites: int, away: int, false: int, groups: int
) -> None:
    """By going through all of them: who is dishonest, and who of the honest is missing."""
    size = sites // groups
    least = size
    for liars in combinations(range(sites), false):
        honest = [site for site in range(sites) if site not in liars]
        for missing in combinations(honest, away):
            there = [site for site in honest if site not in missing]
            each = [sum(site // size == group for site in there) for group in range(groups)]
            least = min(least, *each)
    assert surely_honest(sites, sites - away, sites - false, groups) == least
    assert worst_group(sites, sites - away, sites - false, groups)[0] == size


@pytest.mark.parametrize(("sites", "groups"), [(9, 3), (12, 3), (15, 5), (20, 4)])
def test_what_is_allowed_is_the_rule_of_one_sum_in_the_worst_group(sites: int, groups: int) -> None:
    size = sites // groups
    for away in range(4):
        for false in range(size + 1):
            told = sharing_problem(sites, sites - away, sites - false, groups)
            # Two lists of it, each signed by the least of its members, of whom `false` sign twice.
            assert (told == "") == (2 * (size - away) > size + false), (away, false)
            if not told:
                assert surely_honest(sites, sites - away, sites - false, groups) >= 1


def test_a_sum_of_a_group_is_one_of_as_many_sites() -> None:
    """In noise, bits, divisor and bounds it is the mechanism of a federation of its size."""
    alone = replace(MECHANISM, sites=5, least=5, honest=4)
    assert THREE.carried == alone.carried == 4
    for name in ("own_std", "own_multiplier", "noise_std", "unit_width", "most_cells", "bits"):
        assert getattr(THREE, name) == getattr(alone, name), name
    assert THREE.divisor == alone.divisor == 5 * MECHANISM.expected_batch
    assert THREE.event == WHOLE.event == alone.event
    # The whole in one sum: 14 sites carry what 4 do here.
    assert WHOLE.own_multiplier == pytest.approx(THREE.own_multiplier * (4 / 14) ** 0.5)


def test_the_table_tells_what_is_left_when_all_that_collude_are_in_one_group() -> None:
    quick = replace(THREE, steps=5)
    alone = replace(MECHANISM, sites=5, least=5, honest=4, steps=5)
    of_five = accounting.table(alone, 1e-5)
    # Of 15, ten more are honest that are elsewhere.
    assert accounting.table(quick, 1e-5) == {10 + count: loss for count, loss in of_five.items()}


@pytest.mark.parametrize(
    "terms",
    [
        {"groups": 4},
        {"groups": 15},
        {"groups": 0},
        {"groups": 3, "honest": 10},
        {"groups": 3, "least": 13},
        {"groups": 5, "honest": 12},
        {"groups": True},
        {"groups": 3, "split": 2**64},
        {"groups": 3, "split": -1},
    ],
    ids=str,
)
def test_groups_that_are_not_proven_make_no_mechanism(terms: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"groups|split"):
        replace(WHOLE, **terms)


def test_a_plan_in_groups_says_so_in_its_row_and_others_are_written_as_ever() -> None:
    def body(mechanism: SharedMechanism) -> dict[str, object]:
        group = {f"site-{at:02d}": f"{at:064x}" for at in range(1, 16)}
        asked = asked_plan("0" * 16, mechanism, epsilon=3.0, delta=1e-5, code="0" * 64, group=group)
        assert asked.carried == mechanism.carried
        own = asked.by_itself.noise_multiplier
        assert own == pytest.approx(mechanism.own_multiplier)
        assert asked.slack(3.0, 9) == pytest.approx(mechanism.delta_slack(3.0) / 10)
        return asked.body()

    divided, whole = body(replace(THREE, steps=90, split=7)), body(replace(WHOLE, steps=90))
    assert divided == whole | {"groups": 3, "split": f"{7:016x}"}
    assert not {"groups", "split"} & {*whole}
    check_body("plan", {"plan": divided})
    for split in (7, "7", "-" + "0" * 15, f"{7:016X}g", None):
        with pytest.raises(LedgerError, match="split"):
            check_body("plan", {"plan": divided | {"split": split}})
    with pytest.raises(LedgerError, match="split"):
        check_body("plan", {"plan": {k: v for k, v in divided.items() if k != "split"}})
    for value in (1, 0, 34, 3.0, "3"):
        with pytest.raises(LedgerError, match="groups"):
            check_body("plan", {"plan": divided | {"groups": value}})
    local = {**divided, "unit": "record"}
    with pytest.raises(LedgerError, match="not allowed"):
        check_body("plan", {"plan": local})
