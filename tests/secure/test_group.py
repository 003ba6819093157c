"""Groups are approved people with keys of their own, or none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedlite.secure.group import Card, Group
from fedlite.secure.member import Member
from fedlite.secure.rules import Refused
from tests.secure.protocol import RUN, Party
from tests.secure.test_masks import SMALL_ORDER


def test_a_group_comes_back_from_its_bytes() -> None:
    group = Party.of(5, 4, 4).group
    assert Group.decode(group.encode()) == group
    assert len(group.encode()) == 11 + 5 * (137 + 8)


@pytest.mark.parametrize(
    ("size", "least", "honest"), [(5, 3, 4), (5, 4, 2), (3, 2, 2), (5, 6, 4), (5, 4, 6), (5, 4, 0)]
)
def test_thresholds_that_let_two_lists_be_signed_are_refused(
    size: int, least: int, honest: int
) -> None:
    with pytest.raises(Refused, match=r"^thresholds: "):
        Party.of(size, least, honest)


def test_two_are_no_group() -> None:
    with pytest.raises(Refused, match=r"^members: must be 3 to 100 members, got 2"):
        Party.of(2, 2, 2)


def test_cards_that_do_not_belong_together_are_refused() -> None:
    party = Party.of(5, 4, 4)
    cards = party.group.cards
    twin = Card.make(RUN, "site-005", party.identities["site-000"], bytes(32))
    key = Card.make(RUN, "site-005", Member.new("x") and _key(), cards[0].agreement)
    later = Member.new("site-005").card(b"run-0002", _key())
    for wrong, why in (
        ((*cards, twin), "'site-000' and 'site-005' have the same identity key"),
        ((*cards, key), "'site-000' and 'site-005' have the same agreement key"),
        ((*cards, later), "of one run"),
        ((*cards[::-1],), "in their order"),
        ((*cards, cards[-1]), "must differ"),
    ):
        with pytest.raises(Refused, match=rf"^members: .*{why}"):
            Group(len(wrong), 4, wrong)


def _key():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()


def test_a_forged_card_is_refused_wherever_it_is_read() -> None:
    group = Party.of(5, 4, 4).group
    card = group.cards[2]
    for forged in (
        replace(card, agreement=bytes(32)),
        replace(card, name="site-009"),
        replace(card, run=b"run-0009"),
        replace(card, identity=group.cards[0].identity),
        replace(card, signature=bytes(64)),
    ):
        with pytest.raises(Refused, match=r"^members: the card of 'site-00[29]' is not signed"):
            Card.decode(forged.encode())
    blob = bytearray(group.encode())
    blob[60] ^= 1
    with pytest.raises(Refused, match=r"^members: "):
        Group.decode(bytes(blob))


@pytest.mark.parametrize("small", SMALL_ORDER, ids=lambda key: key.hex()[:8])
def test_a_signed_key_of_small_order_is_refused_by_its_members_name(small: bytes) -> None:
    """Before anybody joins: later every honest member's mask would fail, and nobody be named."""
    party = Party.of(3, 3, 3)
    card = Card.make(RUN, "site-009", _key(), small)
    group = Group(3, 3, (*party.group.cards[:2], card))
    for read in (lambda: Card.decode(card.encode()), lambda: Group.decode(group.encode())):
        with pytest.raises(Refused, match=r"^members: the card of 'site-009': an agreement key"):
            read()


@pytest.mark.parametrize("cut", [0, 5, 11, 100, -1])
def test_bytes_that_are_no_group_or_card_are_refused(cut: int) -> None:
    group = Party.of(5, 4, 4).group
    with pytest.raises(Refused, match=r"^form: "):
        Group.decode(group.encode()[:cut])
    with pytest.raises(Refused, match=r"^form: "):
        Group.decode(group.encode() + b"x")
    with pytest.raises(Refused, match=r"^form: "):
        Card.decode(group.cards[0].encode()[:cut])
    with pytest.raises(Refused, match=r"^form: "):
        Card.decode(group.cards[0].encode() + b"x")


def test_a_name_that_is_no_site_is_refused() -> None:
    with pytest.raises(Refused, match=r"^form: a card's name must be a site's"):
        Card.decode(Card.make(RUN, "../etc", _key(), bytes(32)).encode())


def test_a_group_is_of_all_who_were_approved_and_of_nobody_else() -> None:
    group = Party.of(5, 4, 4).group
    group.check_approved(group.fingerprints)
    with pytest.raises(Refused, match=r"^unapproved: lacks site-9, approved as members"):
        group.check_approved(group.fingerprints | {"site-9": "f" * 64})
    fewer = {name: key for name, key in group.fingerprints.items() if name != "site-004"}
    with pytest.raises(Refused, match=r"^unapproved: 'site-004' comes with the key"):
        group.check_approved(fewer)
