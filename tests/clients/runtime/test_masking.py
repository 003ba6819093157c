"""A site's own process in secure sums, and a coordinator that does what it should not.

Covers clients/sums.py, fedlite/guard/trust.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedlite.audit import audit
from fedlite.guard import egress
from fedlite.guard.guardian import Decline
from fedlite.identity import keys
from fedlite.messages import Code
from fedlite.privacy.ledger import read
from fedlite.scenario import with_values
from fedlite.secure import masks
from fedlite.secure.group import Card, Group
from fedlite.secure.member import Member
from fedlite.secure.messages import Step, binding_of, context_of, to_flags
from fedlite.secure.rules import Refused
from tests.clients.runtime.hospitals import (
    MODEL,
    NAMES,
    OTHER_RUN,
    RUN,
    Hospitals,
    Site,
    init,
    scenario,
)

FIRST = NAMES[0]


@pytest.fixture
def four(tmp_path: Path) -> Hospitals:
    return Hospitals(tmp_path)


def spent(four: Hospitals) -> set[str]:
    return {kind for site in four.sites.values() for kind in site.rows}


# What should happen.


@pytest.mark.long
@pytest.mark.parametrize(
    ("silent", "used"),
    [
        ({}, NAMES),
        ({None: {NAMES[1]}}, (NAMES[0], NAMES[2], NAMES[3])),
        ({Step.SEEDS: {NAMES[1]}, None: set()}, NAMES),
        ({Step.SIGN: {NAMES[2]}}, NAMES),
        ({Step.OPEN: {NAMES[3]}}, NAMES),
    ],
    ids=["nobody", "before its vector", "seeds unasked", "signing", "opening"],
)
def test_the_sum_is_that_of_the_vectors_and_every_ledger_is_clean(
    four: Hospitals, silent: dict[Step | None, set[str]], used: tuple[str, ...]
) -> None:
    group, values = four.group(), four.values()
    four.join(group)
    assert spent(four) == set(), "keys cost nothing"
    collector = four.collector(group)
    for name, site in four.sites.items():
        body = site.vector(1, values[name])
        if name not in silent.get(None, ()):
            collector.add(name, body)
    steps = {step: names for step, names in silent.items() if step is not None}
    found, total = collector.finish(four.exchange(steps))
    assert tuple(found) == used
    top = 2**four.mechanism.bits
    expected = np.sum([values[name].astype(np.int64) for name in used], axis=0) % top
    np.testing.assert_array_equal(total, expected)
    for site in four.sites.values():
        assert site.rows == ["genesis", "reserve", "settle", "release"]
        plan = read(site.home / "ledgers" / "digits.jsonl")[0].body["plan"]
        assert plan["group"] == four.keys and (plan["honest"], plan["members"]) == (3, 4)
        assert plan["charged"] < plan["alone"] <= 20.0
    checked = audit([site.home / "ledgers" for site in four.sites.values()])
    assert not checked.findings, [issue.text for issue in checked.findings]


@pytest.mark.long
def test_what_leaves_is_masked(tmp_path: Path) -> None:
    """And what approved code handed over without masks is written nowhere."""
    four = Hospitals(tmp_path)
    four.join(four.group())
    site, values = four.sites[FIRST], four.values()[FIRST]
    asked = site.instruction(1)
    site.guard.reserve(asked, site.masking.group)
    frame = site.masking.masked(asked, site.open(1, values))
    bare = masks.pack(values, four.mechanism.bits)
    assert len(frame) > len(bare) and bare not in frame
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert bare not in path.read_bytes() and bare.hex().encode() not in path.read_bytes(), path
    # Asked again, it is the same, whatever approved code says the second time.
    assert site.masking.masked(asked, site.open(1, values ^ np.uint32(1))) == frame
    assert site.masking.sums.path.stat().st_mode & 0o077 == 0
    assert site.masking.sums.path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.long
@pytest.mark.parametrize(
    "spoil",
    [
        lambda site, values: site.open(2, values),
        lambda site, values: site.open(1, values, codec=1),
        lambda site, values: site.open(1, values, records=7),
        lambda site, values: site.open(1, values)[:-1],
        lambda site, values: site.open(1, values) + b"x",
        lambda site, values: site.open(1, values[:-9]),
        lambda site, values: b"FL",
        lambda site, values: b"",
    ],
    ids=["round", "codec", "records", "short", "long", "fewer", "no header", "nothing"],
)
def test_approved_code_that_hands_over_something_else_is_not_masked(
    four: Hospitals, spoil: Callable[..., bytes]
) -> None:
    four.join(four.group())
    site = four.sites[FIRST]
    with pytest.raises(egress.NotAllowed, match=r"^sum: "):
        site.masking.masked(site.instruction(1), spoil(site, four.values()[FIRST]))
    assert not site.masking.known(site.instruction(1))


# Who is in the group.


def test_a_server_that_brings_a_site_of_its_own_is_refused_before_anything_is_spent(
    four: Hospitals,
) -> None:
    """Three of four are its inventions: the fourth would hand it its vector."""
    honest = four.sites[FIRST].card()
    invented = {}
    for name in NAMES[1:]:
        invented[name] = Member.new(name).card(RUN, Ed25519PrivateKey.generate())
    group = four.group({FIRST: honest, **invented})
    with pytest.raises(Decline, match=r"^unapproved: 'hungary' comes with the key") as caught:
        four.sites[FIRST].ask(Step.JOIN, group.encode())
    assert caught.value.code is Code.BAD_INSTRUCTION
    with pytest.raises(Decline, match=r"^order: no group of this run was joined"):
        four.sites[FIRST].vector(1, four.values()[FIRST])
    assert spent(four) == set()


def test_a_server_that_drops_a_member_is_refused(four: Hospitals, tmp_path: Path) -> None:
    cards = {name: site.card() for name, site in four.sites.items()}
    del cards[NAMES[3]]
    group = Group(3, 3, tuple(cards[name] for name in sorted(cards)))
    with pytest.raises(Decline, match=r"^thresholds: must be 4 members, 3 least and 3 honest"):
        four.sites[FIRST].ask(Step.JOIN, group.encode())
    # Another of its own in its place, under a name that nobody approved.
    cards["zurich"] = Member.new("zurich").card(RUN, Ed25519PrivateKey.generate())
    with pytest.raises(Decline, match=r"^unapproved: 'zurich' comes with"):
        four.sites[FIRST].ask(Step.JOIN, four.group(cards).encode())
    assert spent(four) == set()


def test_a_server_that_changes_a_key_is_refused(four: Hospitals) -> None:
    """The X25519 key of a run is signed by the site's own key, which the server does not have."""
    cards = {name: site.card() for name, site in four.sites.items()}
    known = cards[NAMES[1]]
    mine = Member.new(NAMES[1]).card(RUN, Ed25519PrivateKey.generate())
    spliced = replace(known, agreement=mine.agreement)
    for card, why in (
        (mine, r"^unapproved: 'hungary'"),
        (spliced, r"^members: the card of 'hungary' is not signed"),
        (replace(mine, identity=known.identity), r"^members: the card of 'hungary' is not signed"),
    ):
        group = replace(four.group(cards), cards=_with(four.group(cards).cards, card))
        with pytest.raises(Decline, match=why):
            four.sites[FIRST].ask(Step.JOIN, group.encode())
    assert spent(four) == set()


def _with(cards: tuple[Card, ...], one: Card) -> tuple[Card, ...]:
    return tuple(one if card.name == one.name else card for card in cards)


@pytest.mark.long
def test_different_lists_for_two_sites_do_not_make_a_sum(tmp_path: Path) -> None:
    """Each has approved another list; neither joins the group of the other's, whatever is shown."""
    four = Hospitals(tmp_path)
    other = init(tmp_path / "server", NAMES[3])
    forked = scenario(four.keys | {NAMES[3]: other})
    split = {
        name: Site.of(tmp_path / name, four.plan if name in NAMES[:2] else forked)
        for name in NAMES[:3]
    }
    real = Site.of(tmp_path / NAMES[3], four.plan)
    false = Site.of(tmp_path / "server" / NAMES[3], forked)
    cards = {name: site.card() for name, site in split.items()}
    for last, refusing in ((real, NAMES[2]), (false, NAMES[0])):
        group = four.group({**cards, NAMES[3]: last.card()})
        with pytest.raises(Decline, match=r"^unapproved: 'va-long-beach'"):
            split[refusing].ask(Step.JOIN, group.encode())
    # Both sides join the group that they approved; they share no keys, and sign no common list.
    first = four.group({**cards, NAMES[3]: real.card()})
    second = four.group({**cards, NAMES[3]: false.card()})
    for name in NAMES[:2]:
        split[name].ask(Step.JOIN, first.encode())
    split[NAMES[2]].ask(Step.JOIN, second.encode())
    values = four.values()
    for name, site in split.items():
        site.vector(1, values[name])
    flags = to_flags([0, 1, 2], 4)
    for group, deaf in ((first, NAMES[2]), (second, NAMES[0])):
        binding = binding_of(context_of(group.digest, 1, MODEL))
        with pytest.raises(Decline, match=r"^other-round: "):
            split[deaf].ask(Step.SEEDS, flags, 1, binding)
    # And two ledgers show it, whatever became of it.
    found = audit([split[name].home / "ledgers" for name in split])
    assert {issue.rule for issue in found.findings} == {"members-differ"}
    assert "committed to another group than" in found.findings[0].text


@pytest.mark.long
def test_a_site_that_is_no_member_or_not_by_its_key_takes_no_part(tmp_path: Path) -> None:
    four = Hospitals(tmp_path)
    init(tmp_path, "zurich")
    with pytest.raises(Decline, match=r"privacy\.members: must hold this site, 'zurich', got") as c:
        Site.of(tmp_path / "zurich", four.plan)
    assert c.value.code is Code.POLICY
    forged = scenario(four.keys | {FIRST: "f" * 64})
    with pytest.raises(Decline, match=r"privacy\.members: has the key ffffffffffffffff\.\.\. for"):
        Site.of(tmp_path / FIRST, forged)
    with pytest.raises(Decline, match=r"privacy\.members: must name those who share the noise"):
        Site.of(tmp_path / FIRST, with_values(four.plan, "privacy", members=""))


# How many are trusted.


@pytest.mark.long
def test_a_plan_that_counts_on_more_than_the_policy_trusts_is_refused(tmp_path: Path) -> None:
    four = Hospitals(tmp_path)
    more = scenario(four.keys, honest=4)
    with pytest.raises(Decline, match=r"budget\.honest: trusts 2 others, and the plan takes 3"):
        Site.of(tmp_path / FIRST, more)
    path = tmp_path / FIRST / "site.toml"
    path.write_text(path.read_text().replace("honest = 2\n", "honest = 0\n"))
    with pytest.raises(Decline, match=r"budget\.honest: trusts 0 others, and the plan takes 2"):
        Site.of(tmp_path / FIRST, four.plan)


@pytest.mark.long
@pytest.mark.parametrize("most", [1.0, 3.0])
def test_the_ceiling_for_collusion_is_held_before_anything_is_spent(
    most: float, tmp_path: Path
) -> None:
    """As that of the budget: what does not fit is cut, and where no round fits refused."""
    four = Hospitals(tmp_path)
    four.join(four.group())
    path = tmp_path / FIRST / "site.toml"
    path.write_text(path.read_text().replace("alone = 20.0\n", "alone = 0.0\n"))
    path.write_text(path.read_text().replace("epsilon = 10.0\n", f"epsilon = {most}\n"))
    site = four.sites[FIRST]
    if most == 1.0:
        with pytest.raises(Decline, match=r"^ceiling: .*; alone 1\) at delta") as caught:
            site.vector(1, four.values()[FIRST])
        assert caught.value.code is Code.BUDGET and site.rows == []
        return
    site.vector(1, four.values()[FIRST])
    plan = read(site.home / "ledgers" / "digits.jsonl")[0].body["plan"]
    assert 0 < plan["steps"] < plan["asked"] == 5 and plan["alone"] <= most


@pytest.mark.long
def test_a_policy_without_the_unit_answers_no_step(four: Hospitals) -> None:
    path = four.sites[FIRST].home / "site.toml"
    path.write_text(path.read_text().replace('units = ["record-shared"]', 'units = ["record"]'))
    with pytest.raises(Decline, match=r"budget\.units lacks 'record-shared'"):
        four.sites[FIRST].card()


# Rounds.


@pytest.mark.long
def test_a_round_is_masked_once_and_never_an_earlier_one(four: Hospitals) -> None:
    four.join(four.group())
    site, values = four.sites[FIRST], four.values()[FIRST]
    body, rows = site.vector(2, values), site.rows
    assert site.vector(2, values + np.uint32(1)) == body and site.rows == rows
    for number, model in ((1, MODEL), (2, b"model-02")):
        with pytest.raises(Decline, match=r"^one-sum: "):
            site.vector(number, values, model)
    assert site.rows == rows


def test_keys_of_members_are_not_swapped_between_rounds(four: Hospitals) -> None:
    group = four.group()
    four.join(group)
    four.sites[FIRST].vector(1, four.values()[FIRST])
    # The same people with a new key each: all signed, and another group.
    for path in (four.sites[NAMES[1]].home / "sums").rglob(f"{RUN.hex()}.*"):
        path.unlink()
    fresh = _with(group.cards, four.sites[NAMES[1]].card())
    with pytest.raises(Decline, match=r"^keys-changed: "):
        four.sites[FIRST].ask(Step.JOIN, replace(group, cards=fresh).encode())


@pytest.mark.long
def test_both_kinds_of_a_members_masks_are_never_told(four: Hospitals) -> None:
    group = four.group()
    four.join(group)
    for name, site in four.sites.items():
        site.vector(1, four.values()[name])
    binding, site = binding_of(context_of(group.digest, 1, MODEL)), four.sites[FIRST]
    without = to_flags([0, 1, 2], 4)
    assert len(site.ask(Step.SEEDS, without, 1, binding)) == masks.SEED_BYTES
    with pytest.raises(Decline, match=r"^shrinking: "):
        site.ask(Step.SIGN, to_flags(range(4), 4), 1, binding)
    site.ask(Step.SIGN, without, 1, binding)
    with pytest.raises(Decline, match=r"^(too-few|both-masks): "):
        site.ask(Step.SEEDS, to_flags([0, 1], 4), 1, binding)
    with pytest.raises(Decline, match=r"^order: "):
        site.ask(Step.SHARES, to_flags([3], 4) + bytes(16), 1, binding)


@pytest.mark.long
def test_a_card_is_told_for_its_own_run_only(four: Hospitals) -> None:
    """Otherwise the key of this run could be brought into a group of another."""
    with pytest.raises(Decline, match=r"^other-round: a card is asked for of another run"):
        four.sites[FIRST].card(OTHER_RUN)
    for wrong in (b"", RUN + b"x"):
        with pytest.raises(Decline, match=r"^other-round: "):
            four.sites[FIRST].card(wrong)


@pytest.mark.long
def test_runs_have_keys_apart(four: Hospitals) -> None:
    second = Site.of(four.sites[FIRST].home, four.plan, OTHER_RUN)
    one, other = four.sites[FIRST].card(), second.card(OTHER_RUN)
    assert one.identity == other.identity and one.agreement != other.agreement


@pytest.mark.long
def test_clocks_apart_change_nothing(four: Hospitals, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step has a time in it: sites whose clocks are days apart make the same sum."""
    import time

    group, values = four.group(), four.values()
    four.join(group)
    collector, real = four.collector(group), time.time
    for at, (name, site) in enumerate(four.sites.items()):
        monkeypatch.setattr(time, "time", lambda at=at: real() + 86_400.0 * 40 * (-1) ** at * at)
        collector.add(name, site.vector(1, values[name]))
    found, total = collector.finish(four.exchange({}))
    top = 2**four.mechanism.bits
    expected = np.sum([v.astype(np.int64) for v in values.values()], axis=0) % top
    np.testing.assert_array_equal(total, expected)
    assert found == list(NAMES)


def test_a_member_that_leaves_ends_the_run_s_sums_where_too_few_stay(four: Hospitals) -> None:
    group, values = four.group(), four.values()
    four.join(group)
    for number, there in ((1, NAMES[:3]), (2, NAMES[:2])):
        collector = four.collector(group, number)
        for name in there:
            collector.add(name, four.sites[name].vector(number, values[name]))
        gone = {Step.SEEDS: set(NAMES) - set(there)}
        if len(there) >= 3:
            assert collector.finish(four.exchange(gone))[0] == list(there)
        else:
            with pytest.raises(Refused, match=r"^too-few: 3 members are needed, 2 are left"):
                collector.finish(four.exchange(gone))
    assert four.sites[NAMES[2]].rows.count("reserve") == 1
    assert four.sites[NAMES[3]].rows == []


def test_a_file_of_keys_that_is_damaged_is_said_to_be(four: Hospitals) -> None:
    path = four.sites[FIRST].masking.sums.path
    four.sites[FIRST].card()
    path.write_bytes(json.dumps({"name": "x"}).encode())
    with pytest.raises(ValueError, match=r"what the site keeps of its sums is damaged"):
        four.sites[FIRST].card()


@pytest.mark.long
def test_the_key_that_signs_a_card_is_the_one_that_signs_the_ledger(four: Hospitals) -> None:
    for name, site in four.sites.items():
        own = keys.public_hex(keys.load(site.home / "keys" / "ledger.pem"))
        assert site.card().fingerprint == own == four.keys[name]
