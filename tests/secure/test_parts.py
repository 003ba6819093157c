"""Members that sum in parts: who is with whom, and that a part is a group as any.

Covers fedlite/secure/group.py, fedlite/secure/seat.py.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest

from fedlite.secure.collector import Collector, finish_all
from fedlite.secure.group import Group, Terms, split
from fedlite.secure.messages import Step
from fedlite.secure.rules import RULES, Refused
from tests.secure.protocol import MODEL, Party, plain, vectors

SIZE, PARTS, SEED = 12, 3, 7
COUNT = 40


def party(least: int = SIZE, honest: int = SIZE - 1) -> Party:
    return Party.of(SIZE, least, honest, parts=PARTS, seed=SEED)


def test_who_is_with_whom_is_what_anybody_computes_from_the_seed() -> None:
    group = party().group
    for number in (1, 2, 77):
        text = b"fedlite secure sum, parts 1\0" + struct.pack("<QI", SEED, number)
        ranks = [hashlib.sha256(text + struct.pack("<H", at)).digest() for at in range(SIZE)]
        order = sorted(range(SIZE), key=ranks.__getitem__)
        expected = [sorted(order[start : start + 4]) for start in (0, 4, 8)]
        found = [[group.names.index(n) for n in part.names] for part in split(group, number)]
        assert found == expected


def test_every_member_is_in_one_part_of_a_round_and_meets_all_others_over_the_rounds() -> None:
    group, met = party().group, Counter[tuple[str, str]]()
    rounds = 600
    for number in range(1, rounds + 1):
        parts = split(group, number)
        assert sorted(name for part in parts for name in part.names) == list(group.names)
        assert {len(part.names) for part in parts} == {SIZE // PARTS}
        for part in parts:
            met.update(combinations(part.names, 2))
    # A pair meets in 3 of 11 rounds: 164 of 600, with a deviation of 11.
    assert len(met) == SIZE * (SIZE - 1) // 2
    assert 164 - 5 * 11 < min(met.values()) <= max(met.values()) < 164 + 5 * 11


def test_a_part_is_a_group_with_all_that_is_amiss_in_it() -> None:
    group = Party.of(15, 14, 14, parts=3).group
    for part in split(group, 1):
        assert (len(part.cards), part.least, part.honest) == (5, 4, 4)
        assert part.of == group.digest
    whole = Party.of(5, 4, 4).group
    assert split(whole, 3) == (whole,) and whole.part(3, "site-000") is whole


def test_parts_of_other_groups_rounds_and_seeds_have_other_digests() -> None:
    group = party().group
    found = {part.digest for number in range(1, 20) for part in split(group, number)}
    assert len(found) == 19 * PARTS
    # The same cards by themselves make another group than as a part.
    one = split(group, 1)[0]
    assert replace(one, of=b"").digest != one.digest
    assert replace(group, seed=SEED + 1).digest != group.digest


def test_each_part_comes_to_the_plain_sum_of_its_members() -> None:
    made = party()
    for number in (1, 2):
        values = vectors(made.names, COUNT, made.bits, seed=number)
        bodies = made.masked(values, number)
        collectors = made.collectors(COUNT, number)
        for one in collectors:
            for name in one.group.names:
                one.add(name, bodies[name])
        found, failed = finish_all(collectors, made.exchange())
        assert not failed and len(found) == PARTS
        for names, total in found:
            assert total.tolist() == plain(values, names, made.bits)
        # All parts are asked at once, step by step.
        assert made.steps[-2:] == [{Step.SIGN}, {Step.OPEN}]
        assert all(len(asked) == SIZE for asked in made.asked[-2:])


@pytest.mark.parametrize("step", [None, Step.SIGN, Step.OPEN])
def test_a_part_that_lacks_a_member_tells_nothing_and_the_others_go_on(step: Step | None) -> None:
    made = party()
    values = vectors(made.names, COUNT, made.bits)
    bodies, collectors = made.masked(values), made.collectors(COUNT)
    lost = collectors[1].group.names[0]
    for one in collectors:
        for name in one.group.names:
            if step is not None or name != lost:
                one.add(name, bodies[name])
    silent = {step: {lost}} if step else {}
    found, failed = finish_all(collectors, made.exchange(silent))
    assert [refused.rule for refused in failed] == ["too-few"]
    assert [names for names, _ in found] == [
        list(collectors[0].group.names),
        list(collectors[2].group.names),
    ]
    for names, total in found:
        assert total.tolist() == plain(values, names, made.bits)
    told = [made.members[name].opened for name in collectors[1].group.names]
    assert not any(told) or step is Step.OPEN


@pytest.mark.parametrize("step", [None, Step.SIGN, Step.OPEN])
def test_a_part_bears_the_drop_outs_that_it_is_planned_for(step: Step | None) -> None:
    """Of 15 in three one may be missing, and so one of each part."""
    made = Party.of(15, 14, 14, parts=3, seed=SEED)
    values = vectors(made.names, COUNT, made.bits)
    bodies, collectors = made.masked(values), made.collectors(COUNT)
    lost = {one.group.names[2] for one in collectors}
    for one in collectors:
        for name in one.group.names:
            if step is not None or name not in lost:
                one.add(name, bodies[name])
    found, failed = finish_all(collectors, made.exchange({step: lost} if step else {}))
    assert not failed
    for names, total in found:
        assert total.tolist() == plain(values, names, made.bits)
        # Who signed is in the sum, whoever tells its secret.
        assert bool(lost & {*names}) == (step is not None)


def test_a_part_that_is_a_step_behind_is_asked_with_the_others_and_not_after_them() -> None:
    """Each exchange may last until the deadline: three of them do for the longest way."""
    made = Party.of(15, 14, 14, parts=3, seed=SEED)
    bodies, collectors = made.masked(vectors(made.names, COUNT, made.bits)), made.collectors(COUNT)
    behind = collectors[1].group.names
    for one in collectors:
        for name in one.group.names:
            if name != behind[2]:
                one.add(name, bodies[name])
    found, failed = finish_all(collectors, made.exchange())
    assert not failed and len(found) == 3
    steps = [{(name in behind, step) for name, step in asked.items()} for asked in made.asked]
    assert steps == [
        {(True, Step.SEEDS), (False, Step.SIGN)},
        {(True, Step.SIGN), (False, Step.OPEN)},
        {(True, Step.OPEN)},
    ]


def test_a_server_that_divides_otherwise_learns_nothing() -> None:
    """It puts one member with three others of its choice."""
    made = party()
    values = vectors(made.names, COUNT, made.bits)
    bodies = made.masked(values)
    first, second, _ = split(made.group, 1)
    chosen = sorted([*first.cards[:1], *second.cards[:3]], key=lambda card: card.name)
    false = Collector(replace(first, cards=tuple(chosen)), 1, MODEL, COUNT, made.bits)
    for card in chosen:
        false.add(card.name, bodies[card.name])
    with pytest.raises(Refused, match="too-few"):
        false.finish(made.exchange_refusing())
    assert set(false.dropped) == {card.name for card in chosen}
    assert not any(made.members[name].signed for name in made.names)


@pytest.mark.parametrize(
    ("terms", "rule"),
    [
        ({"parts": 4}, "split"),
        ({"parts": 1}, "split"),
        ({"seed": SEED + 1}, "split"),
        ({"members": SIZE + 3}, "thresholds"),
        ({"least": SIZE - 1}, "thresholds"),
        ({"honest": SIZE}, "thresholds"),
    ],
)
def test_a_member_joins_no_group_of_other_parts_or_numbers_than_planned(
    terms: dict[str, int], rule: str
) -> None:
    made = party()
    name = made.names[0]
    again = replace(made.members[name], group="")
    planned = Terms(SIZE, SIZE, SIZE - 1, PARTS, SEED)
    with pytest.raises(Refused) as refused:
        again.join(made.group.encode(), made.identities[name], replace(planned, **terms))
    assert refused.value.rule == rule and rule in RULES
    again.join(made.group.encode(), made.identities[name], planned)


def test_a_seed_that_divides_nothing_is_not_asked_for() -> None:
    whole = Party.of(5, 4, 4)
    for name, member in whole.members.items():
        fresh = replace(member, group="")
        fresh.join(whole.group.encode(), whole.identities[name], Terms(5, 4, 4, seed=SEED))
        assert fresh.group == member.group


def test_what_is_written_is_read_and_undivided_groups_are_written_as_ever() -> None:
    group = party().group
    assert Group.decode(group.encode()) == group
    assert group.encode()[8:13] == bytes([0, SIZE, SIZE, SIZE - 1, PARTS])
    whole = Party.of(5, 4, 4).group
    assert whole.encode()[8:11] == bytes([5, 4, 4])
    for blob in (
        group.encode()[:13],
        group.encode()[:12] + b"\1" + group.encode()[13:],
        group.encode() + b"\0",
    ):
        with pytest.raises(Refused, match="form"):
            Group.decode(blob)


@pytest.mark.parametrize(
    ("size", "least", "honest", "parts", "rule"),
    [
        (12, 12, 12, 5, "split"),
        (12, 12, 12, 6, "split"),
        (12, 12, 12, 0, "split"),
        (12, 12, 8, 3, "thresholds"),
        (12, 10, 11, 3, "thresholds"),
    ],
    ids=["do not divide", "of two", "none", "all of one may collude", "too few of one may be left"],
)
def test_parts_that_are_not_proven_are_refused(
    size: int, least: int, honest: int, parts: int, rule: str
) -> None:
    cards = Party.of(size, size, size).group.cards
    with pytest.raises(Refused) as refused:
        Group(least, honest, cards, parts)
    assert refused.value.rule == rule
