"""What a member never tells, whatever it is asked. Covers fedlite/secure/rules.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy import stats

from fedlite.identity import keys
from fedlite.secure import masks
from fedlite.secure.group import Group, Terms
from fedlite.secure.masks import unpack
from fedlite.secure.member import CHECK_BYTES, Member, check_of
from fedlite.secure.messages import (
    Note,
    Step,
    binding_of,
    context_of,
    signed_list,
    to_flags,
)
from fedlite.secure.rules import RULES, Refused
from tests.secure.protocol import MODEL, RUN, Party, vectors


class Server:
    """A server that asks one member what it likes, in a round that all have masked."""

    def __init__(self, size: int = 5, least: int = 4, honest: int = 4, number: int = 1) -> None:
        self.party = Party.of(size, least, honest)
        self.values = vectors(self.party.names, 8, self.party.bits)
        self.bodies = self.party.masked(self.values, number)
        self.number, self.size = number, size
        self.context = context_of(self.party.group.digest, number, MODEL)

    def ask(self, name: str, step: Step, body: bytes) -> bytes:
        note = Note(step, self.number, binding_of(self.context), body)
        return self.party.members[name].answer(note, self.party.identities[name]).body

    def flags(self, *members: int) -> bytes:
        return to_flags(members, self.size)

    def sign(self, *members: int) -> bytes:
        """Return a proof that these have signed the list of themselves."""
        proof = b""
        for member in members:
            name = self.party.names[member]
            proof += bytes([member]) + self.ask(name, Step.SIGN, self.flags(*members))
        return proof


def refuses(rule: str) -> Callable[..., object]:
    assert rule in RULES
    return lambda: pytest.raises(Refused, match=rf"^{rule}: ")


def test_a_server_that_asks_for_both_kinds_gets_one() -> None:
    server = Server()
    proof = server.sign(0, 1, 2, 3)
    with refuses("both-masks")():
        server.ask("site-000", Step.SEEDS, server.flags(0, 1, 2, 3))
    server.ask("site-000", Step.OPEN, proof)
    with refuses("both-masks")():
        server.ask("site-000", Step.SHARES, server.flags(4) + bytes(16))
    with refuses("both-masks")():
        server.ask("site-000", Step.SHARES, server.flags(0) + bytes(16))


def test_a_seed_told_bars_that_member_from_the_list_for_good() -> None:
    server = Server()
    server.ask("site-000", Step.SEEDS, server.flags(0, 1, 2, 3))
    for body in (server.flags(0, 1, 2, 4), server.flags(0, 1, 2, 3, 4)):
        for step in (Step.SEEDS, Step.SIGN):
            with refuses("shrinking")():
                server.ask("site-000", step, body)
    with refuses("shrinking")():
        server.ask("site-001", Step.SIGN, server.flags(0, 2, 3, 4))


def test_two_lists_shown_to_two_sites_open_nothing() -> None:
    server = Server()
    for name in server.party.names[:4]:
        server.ask(name, Step.SIGN, server.flags(0, 1, 2, 3, 4))
    one = server.ask("site-004", Step.SIGN, server.flags(1, 2, 3, 4))
    with refuses("member-list")():
        server.ask("site-000", Step.SIGN, server.flags(0, 1, 2, 3))
    signatures = b"".join(
        bytes([at]) + server.ask(f"site-00{at}", Step.SIGN, server.flags(0, 1, 2, 3, 4))
        for at in range(4)
    )
    # The four that agree may open; the one that was shown another list may not.
    assert len(server.ask("site-000", Step.OPEN, signatures)) == 16
    with refuses("member-list")():
        server.ask("site-004", Step.OPEN, signatures + bytes([4]) + one)


def test_a_group_shown_otherwise_to_some_opens_nothing() -> None:
    """A server that swaps a member's keys for some of the others: their signatures differ."""
    party = Party.of(5, 4, 4)
    mallory, other = Ed25519PrivateKey.generate(), Member.new("site-004")
    swapped = (*party.group.cards[:4], other.card(RUN, mallory))
    split = Group(4, 4, swapped)
    for name in ("site-002", "site-003"):
        fresh = Member.new(name)
        with refuses("not-a-member")():
            fresh.join(split.encode(), party.identities[name], Terms(5, 4, 4))
        # One that had not joined yet sees the other group alone.
        party.members[name].group = split.encode().hex()
    party.masked(vectors(party.names, 8, 8))
    context = context_of(party.group.digest, 1, MODEL)
    flags, proof = to_flags(range(5), 5), b""
    for at, name in enumerate(party.names):
        own = party.members[name]
        seen = split if own.group == split.encode().hex() else party.group
        binding = binding_of(context_of(seen.digest, 1, MODEL))
        note = Note(Step.SIGN, 1, binding, flags)
        proof += bytes([at]) + own.answer(note, party.identities[name]).body
    with pytest.raises(Refused, match=r"^member-list: 4 members must have signed .* and 3 have"):
        note = Note(Step.OPEN, 1, binding_of(context), proof)
        party.members["site-000"].answer(note, party.identities["site-000"])


def test_signatures_that_are_repeated_foreign_or_of_another_round_do_not_count() -> None:
    server = Server()
    proof = server.sign(0, 1, 2, 3)
    one = proof[:65]
    stranger = Ed25519PrivateKey.generate()
    text = signed_list(server.context, server.flags(0, 1, 2, 3))
    forged = bytes([1]) + bytes.fromhex(keys.sign(stranger, text))
    old = context_of(server.party.group.digest, 7, MODEL)
    identity = server.party.identities["site-001"]
    replayed = bytes([1]) + bytes.fromhex(
        keys.sign(identity, signed_list(old, server.flags(0, 1, 2, 3)))
    )
    outside = bytes([4]) + bytes.fromhex(keys.sign(server.party.identities["site-004"], text))
    for spoilt in (one * 4, proof[:195] + forged, proof[:195] + replayed, proof[:195] + outside):
        with refuses("member-list")():
            server.ask("site-000", Step.OPEN, spoilt)
    with refuses("form")():
        server.ask("site-000", Step.OPEN, proof[:-1])
    assert len(server.ask("site-000", Step.OPEN, proof)) == 16


def test_steps_come_in_their_order() -> None:
    server = Server()
    with refuses("order")():
        server.ask("site-000", Step.OPEN, b"")
    with refuses("order")():
        server.ask("site-000", Step.SHARES, server.flags(1) + bytes(16))
    server.sign(0, 1, 2, 3)
    with refuses("order")():
        server.ask("site-000", Step.SHARES, server.flags(1) + bytes(16))
    for step in (Step.CARD, Step.JOIN):
        with refuses("order")():
            server.ask("site-000", step, b"")
    with refuses("order")():
        Member.new("site-000").answer(
            Note(Step.SIGN, 1, bytes(8)), server.party.identities["site-000"]
        )
    with refuses("order")():
        Member.new("site-000").mask(1, MODEL, np.zeros(3, np.uint32), 8)


def test_fewer_than_planned_are_neither_signed_for_nor_told_about() -> None:
    server = Server()
    for step in (Step.SEEDS, Step.SIGN):
        with refuses("too-few")():
            server.ask("site-000", step, server.flags(0, 1, 2))


def test_a_round_is_masked_once_and_a_replayed_one_not_at_all() -> None:
    server = Server(number=5)
    member, values = server.party.members["site-000"], server.values["site-000"]
    assert member.mask(5, MODEL, values + 0, 8) == server.bodies["site-000"]
    assert member.mask(5, MODEL, values ^ 1, 8) == server.bodies["site-000"], "the stored one"
    with refuses("one-sum")():
        member.mask(5, b"model-02", values, 8)
    with refuses("one-sum")():
        member.mask(4, MODEL, values, 8)
    old = Note(Step.SIGN, 4, binding_of(server.context), server.flags(0, 1, 2, 3))
    for note in (old, replace(old, round=5, binding=bytes(8))):
        with refuses("other-round")():
            member.answer(note, server.party.identities["site-000"])
    assert member.mask(6, MODEL, values, 8) != server.bodies["site-000"]
    with refuses("other-round")():
        server.ask("site-000", Step.SIGN, server.flags(0, 1, 2, 3))


@pytest.mark.parametrize("bits", [0, 33])
def test_values_beyond_the_modulus_are_refused(bits: int) -> None:
    party = Party.of(5, 4, 4)
    with refuses("range")():
        party.members["site-000"].mask(1, MODEL, np.zeros(3, np.uint32), bits)
    with refuses("range")():
        party.members["site-000"].mask(1, MODEL, np.array([256], np.uint32), 8)


def test_a_group_is_joined_once_and_as_planned() -> None:
    party = Party.of(5, 4, 4)
    member, own = party.members["site-000"], party.identities["site-000"]
    plan = Terms(5, 4, 4)
    member.join(party.group.encode(), own, plan)
    fresh = Member.new("site-004").card(RUN, party.identities["site-004"])
    later = Group(4, 4, (*party.group.cards[:4], fresh))
    with refuses("keys-changed")():
        member.join(later.encode(), own, plan)
    other = replace(member, group="")
    for wrong in ({"members": 6}, {"least": 5}, {"honest": 5}):
        with refuses("thresholds")():
            other.join(party.group.encode(), own, replace(plan, **wrong))
    approved = {card.name: card.fingerprint for card in party.group.cards}
    other.join(party.group.encode(), own, plan, approved=approved)
    for lacking in ({"site-003": "0" * 64}, {}):
        told = {name: key for name, key in approved.items() if name != "site-003"} | lacking
        with pytest.raises(Refused, match=r"^unapproved: 'site-003' comes with the key"):
            other.join(party.group.encode(), own, plan, approved=told)


def test_what_a_member_keeps_comes_back_from_its_disk() -> None:
    server = Server()
    server.sign(0, 1, 2, 3)
    member = server.party.members["site-000"]
    assert Member.load(member.dump()) == member


def test_what_a_server_and_its_colluders_see_is_uniform() -> None:
    """All but the last unknown mask off: with every key of K - honest members, all is noise still.

    5 members, 4 least, 1 colludes. Site 0's vector is zero; the server has site 4's private key,
    and is told every pairwise seed that one honest member would tell of it.
    """
    party, count = Party.of(5, 4, 4), 40_000
    zeros = {name: np.zeros(count, np.uint32) for name in party.names}
    bodies = party.masked(zeros)
    context = context_of(party.group.digest, 1, MODEL)
    seen = unpack(bodies["site-000"][CHECK_BYTES:], count, 8)
    private = bytes.fromhex(party.members["site-004"].private)
    ends = [(at, party.group.cards[at].agreement) for at in (4, 0)]
    pair = masks.pair_key(private, *ends, party.group.digest)
    with_one = seen - masks.stream(masks.derive(pair, "mask", context), count, 8)
    note = Note(Step.SEEDS, 1, binding_of(context), to_flags((1, 2, 3, 4), 5))
    told = party.members["site-001"].answer(note, party.identities["site-001"]).body
    with_two = with_one - masks.stream(told, count, 8)
    for view in (seen, with_one & np.uint32(255), with_two & np.uint32(255)):
        counts = np.bincount(view, minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6
        pairs = np.bincount((view[:-1] >> 5) * 8 + (view[1:] >> 5), minlength=64)
        assert stats.chisquare(pairs).pvalue > 1e-6
    # All masks that are known to the five together leave the vector: the view was masks alone.
    points = party.members["site-000"]._seat(1).points(context)
    from fedlite.secure import shamir

    secret = shamir.share(shamir.at(points, 0))
    assert check_of(secret, context) == bodies["site-000"][:CHECK_BYTES]
    bare = with_two - masks.stream(masks.own_seed(secret, context), count, 8)
    for other in ("site-002", "site-003"):
        key = party.members["site-000"]._seat(1).pair(party.names.index(other))
        bare = bare - masks.stream(masks.derive(key, "mask", context), count, 8)
    assert not (bare & np.uint32(255)).any()


def test_fewer_shares_than_the_threshold_say_nothing_of_a_secret() -> None:
    """For every secret there is a polynomial through least - 1 shares: all are as likely."""
    from fedlite.secure import shamir

    party = Party.of(7, 5, 5)
    context = context_of(party.group.digest, 1, MODEL)
    points = party.members["site-000"]._seat(1).points(context)
    known = dict(list(points.items())[:4])
    for guess in (0, 1, shamir.PRIME - 1):
        there = shamir.at({0: guess, **known}, 6)
        assert shamir.at({**known, 6: there}, 0) == guess


def test_a_member_that_lost_its_key_is_in_no_group() -> None:
    party = Party.of(5, 4, 4)
    with refuses("not-a-member")():
        Member.new("site-000").join(
            party.group.encode(), party.identities["site-000"], Terms(5, 4, 4)
        )
