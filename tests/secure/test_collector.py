"""A secure sum is the plain sum, whoever drops out when. Covers fedlite/secure/messages.py."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from fedlite.secure import shamir
from fedlite.secure.collector import _candidates
from fedlite.secure.messages import Note, Step
from fedlite.secure.rules import Refused
from tests.secure.protocol import Party, plain, vectors


def summed(party: Party, silent: dict[Step, set[str]], absent: set[str] = frozenset()) -> list[str]:
    """Play a round in which these are silent from a step on, and check its sum against numpy's."""
    names = [name for name in party.names if name not in absent]
    values = vectors(party.names, 33, party.bits)
    collector = party.collector(33)
    for name, body in party.masked({name: values[name] for name in names}).items():
        collector.add(name, body)
    used, total = collector.finish(party.exchange(silent))
    assert total.tolist() == plain(values, used, party.bits)
    return used


@pytest.mark.parametrize("bits", [1, 7, 8, 16, 17, 32])
def test_the_sum_is_the_plain_sum_modulo_any_power_of_two(bits: int) -> None:
    party = Party.of(5, 4, 4, bits)
    assert summed(party, {}) == party.names
    assert party.steps == [{Step.SIGN}, {Step.OPEN}], "two exchanges, no more"


@pytest.mark.parametrize(("size", "least", "honest"), [(3, 3, 2), (5, 4, 4), (7, 5, 5), (10, 7, 8)])
def test_none_one_or_as_many_as_may_drop_out_at_any_step(
    size: int, least: int, honest: int
) -> None:
    for step in (None, Step.SEEDS, Step.SIGN, Step.OPEN):
        for lost in {0, min(1, size - least), size - least}:
            party = Party.of(size, least, honest)
            gone = set(party.names[1 : 1 + lost])
            if step is None:
                assert summed(party, {}, gone) == [n for n in party.names if n not in gone]
            else:
                used = summed(party, {step: gone})
                assert used == party.names, f"{lost} lost in {step.name} were summed already"


def test_one_is_absent_and_another_goes_while_the_seeds_are_told() -> None:
    party = Party.of(7, 5, 5)
    used = summed(party, {Step.SEEDS: {"site-003"}}, {"site-001"})
    assert used == [n for n in party.names if n not in ("site-001", "site-003")]
    assert party.steps.count({Step.SEEDS}) == 2, "the list shrinks, once more"


def test_losses_spread_over_all_steps_cost_neither_round_nor_sum() -> None:
    party = Party.of(10, 7, 8)
    silent = {Step.SIGN: {"site-002"}, Step.OPEN: {"site-009"}}
    assert len(summed(party, silent, {"site-005"})) == 9


@pytest.mark.parametrize("step", [None, Step.SEEDS, Step.SIGN, Step.OPEN, Step.SHARES])
def test_with_fewer_than_planned_nothing_is_opened(step: Step | None) -> None:
    party = Party.of(7, 5, 5)
    gone = set(party.names[:3])
    silent = {} if step is None else {step: gone}
    if step is Step.SHARES:
        silent = {Step.OPEN: {"site-006"}, Step.SHARES: set(party.names[:2])}
    absent = gone if step is None else {"site-006"} if step is Step.SEEDS else set()
    with pytest.raises(Refused, match=r"^too-few: 5 members are needed, [34] are left"):
        summed(party, silent, absent)
    assert {Step.OPEN} not in party.steps or step in (Step.OPEN, Step.SHARES)


@pytest.mark.parametrize(("size", "least", "honest"), [(7, 5, 5), (10, 7, 8)])
def test_a_liar_about_shares_is_named_and_left_out(size: int, least: int, honest: int) -> None:
    liar, silent = "site-001", "site-004"

    def spoil(step: Step, name: str, blob: bytes) -> bytes:
        if step is Step.SHARES and name == liar:
            return blob[:-1] + bytes([blob[-1] ^ 1])
        return blob

    party = Party.of(size, least, honest)
    values = vectors(party.names, 33, party.bits)
    collector = party.collector(33)
    for name, body in party.masked(values).items():
        collector.add(name, body)
    used, total = collector.finish(party.exchange({Step.OPEN: {silent}}, spoil))
    assert total.tolist() == plain(values, used, party.bits)
    assert collector.false == {liar}


@pytest.mark.parametrize(
    ("size", "least", "liars", "silent"),
    [
        (20, 14, (1, 10), 1),
        (20, 14, (0, 9), 2),
        (10, 7, (1, 5), 1),
        pytest.param(100, 67, tuple(range(1, 97, 6)), 1, marks=pytest.mark.long),
    ],
)
def test_liars_far_from_each_other_are_named_and_left_out(
    size: int, least: int, liars: tuple[int, ...], silent: int
) -> None:
    party = Party.of(size, least, least)
    lying = {party.names[at] for at in liars}

    def spoil(step: Step, name: str, blob: bytes) -> bytes:
        if step is Step.SHARES and name in lying:
            note = Note.decode(blob)
            return replace(note, body=bytes(len(note.body))).encode()
        return blob

    values = vectors(party.names, 4, party.bits)
    collector = party.collector(4)
    for name, body in party.masked(values).items():
        collector.add(name, body)
    gone = set(party.names[-silent:])
    used, total = collector.finish(party.exchange({Step.OPEN: gone}, spoil))
    assert total.tolist() == plain(values, used, party.bits)
    assert collector.false == lying


def test_shares_that_fit_nothing_cost_seconds_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many lie, however large the group: so many polynomials are tried, and no more."""
    tried = []
    real = shamir.corrected
    monkeypatch.setattr(shamir, "corrected", lambda *given: tried.append(1) or real(*given))
    points = {place: place**20 for place in range(1, 41)}
    assert len(list(_candidates(points, 14, {3}))) <= len(tried) == 2 + 40
    tried.clear()
    list(_candidates({place: place**9 for place in range(1, 10)}, 7, ()))
    assert len(tried) == 2 + 9 + 36


def test_too_many_liars_make_no_sum_rather_than_a_false_one() -> None:
    party = Party.of(5, 4, 4)
    collector = party.collector(3)
    for name, body in party.masked(vectors(party.names, 3, party.bits)).items():
        collector.add(name, body)

    def spoil(step: Step, name: str, blob: bytes) -> bytes:
        lies = step is Step.SHARES and name == "site-000"
        return blob[:-1] + bytes([blob[-1] ^ 1]) if lies else blob

    with pytest.raises(Refused, match=r"^false-share: no 4 of the shares told fit"):
        collector.finish(party.exchange({Step.OPEN: {"site-004"}}, spoil))


def test_a_false_secret_or_signature_is_named_and_the_sum_is_right_without_it() -> None:
    party = Party.of(7, 5, 5)
    values = vectors(party.names, 33, party.bits)
    collector = party.collector(33)
    for name, body in party.masked(values).items():
        collector.add(name, body)

    def spoil(step: Step, name: str, blob: bytes) -> bytes:
        wrong = (step, name) in ((Step.SIGN, "site-000"), (Step.OPEN, "site-006"))
        return blob[:-1] + bytes([blob[-1] ^ 1]) if wrong else blob

    used, total = collector.finish(party.exchange(None, spoil))
    assert used == party.names
    assert total.tolist() == plain(values, used, party.bits)
    assert collector.false == {"site-000", "site-006"}


def test_an_answer_of_another_form_counts_as_none() -> None:
    party = Party.of(5, 4, 4)
    collector = party.collector(3)
    for name, body in party.masked(vectors(party.names, 3, party.bits)).items():
        collector.add(name, body)

    def spoil(step: Step, name: str, blob: bytes) -> bytes:
        return blob + b"x" if (step, name) == (Step.SIGN, "site-002") else blob

    used, _ = collector.finish(party.exchange(None, spoil))
    assert used == party.names
    assert collector.dropped == {"site-002": "form"}


@pytest.mark.parametrize(
    ("name", "change", "rule"),
    [
        ("site-000", lambda body: body[:-1], "form"),
        ("site-000", lambda body: body + b"x", "form"),
        ("stranger", lambda body: body, "not-a-member"),
        ("site-001", lambda body: body, "one-sum"),
    ],
)
def test_a_vector_that_is_none_is_refused(name: str, change: object, rule: str) -> None:
    party = Party.of(5, 4, 4)
    bodies = party.masked(vectors(party.names, 3, party.bits))
    collector = party.collector(3)
    collector.add("site-001", bodies["site-001"])
    with pytest.raises(Refused, match=rf"^{rule}: "):
        collector.add(name, change(bodies.get(name, bodies["site-000"])))


def test_every_choice_of_who_is_lost_leaves_the_plain_sum() -> None:
    for gone in combinations(range(5), 1):
        for step in (None, Step.SIGN, Step.OPEN):
            party = Party.of(5, 4, 4)
            lost = {party.names[at] for at in gone}
            summed(party, {} if step is None else {step: lost}, lost if step is None else set())


@pytest.mark.parametrize(
    "size", [20, pytest.param(100, marks=pytest.mark.long)], ids="{} members".format
)
def test_many_members_of_whom_a_third_is_lost(size: int) -> None:
    least = 2 * size // 3 + 1
    party = Party.of(size, least, least)
    values = vectors(party.names, 40, party.bits)
    collector = party.collector(40)
    lost = size - least
    there = party.names[lost // 2 :]
    for name, body in party.masked({n: values[n] for n in there}).items():
        collector.add(name, body)
    used, total = collector.finish(party.exchange({Step.OPEN: set(there[: lost - lost // 2])}))
    assert used == there
    assert total.tolist() == plain(values, used, party.bits)


def test_a_note_is_read_only_in_its_form() -> None:
    note = Note(Step.SIGN, 3, b"12345678", b"body")
    assert Note.decode(note.encode()) == note
    for blob in (
        b"",
        b"FS",
        note.encode()[:15],
        b"XX" + note.encode()[2:],
        b"FS\x01\x09" + bytes(12),
    ):
        with pytest.raises(Refused, match=r"^form: "):
            Note.decode(blob)
    with pytest.raises(Refused, match=r"^form: .* bytes are read"):
        Note.decode(note.encode() + bytes(60_000))


def test_values_are_packed_to_the_bit() -> None:
    party = Party.of(5, 4, 4, bits=7)
    body = party.masked(vectors(party.names, 592, 7))["site-000"]
    assert len(body) == party.collector(592).body_bytes == 8 + 592 * 7 // 8
    assert np.frombuffer(body, np.uint8).size == 526
