"""A member whose card has a key made of another's: with the server it reads nobody's vector.

Covers fedlite/secure/masks.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedlite.identity import keys
from fedlite.secure import masks
from fedlite.secure.group import Card, Group, Terms
from fedlite.secure.masks import Words, own_seed, stream, unpack
from fedlite.secure.member import CHECK_BYTES, Member
from fedlite.secure.messages import Note, Step, binding_of, context_of, signed_list, to_flags
from tests.secure.protocol import MODEL, RUN, vectors
from tests.secure.test_masks import same_keys

COUNT, BITS, SIZE, HONEST = 12, 8, 5, 4
HOW = ["flipped", "inverse"]


class Thief:
    """A server with the last of five members, whose card has a key made of the first one's.

    It has no private key of its own: all that it knows is what the honest ones tell by the rules.
    """

    def __init__(self, how: str, least: int) -> None:
        self.names = [f"site-{number}" for number in range(HONEST)]
        self.members = {name: Member.new(name) for name in self.names}
        self.own = {name: Ed25519PrivateKey.generate() for name in [*self.names, "thief"]}
        cards = [self.members[name].card(RUN, self.own[name]) for name in self.names]
        stolen = same_keys(cards[0].agreement)[how]
        cards.append(Card.make(RUN, "thief", self.own["thief"], stolen))
        group = Group(least, HONEST, tuple(cards))
        for name, one in self.members.items():
            one.join(group.encode(), self.own[name], Terms(SIZE, least, HONEST))
        self.values = vectors(self.names, COUNT, BITS)
        self.context = context_of(group.digest, 1, MODEL)
        bodies = {n: self.members[n].mask(1, MODEL, self.values[n], BITS) for n in self.names}
        packed = masks.packed_bytes(COUNT, BITS)
        self.seen = {n: unpack(body[-packed:], COUNT, BITS) for n, body in bodies.items()}
        assert all(len(body) >= packed + CHECK_BYTES for body in bodies.values())

    def ask(self, name: str, step: Step, body: bytes) -> bytes:
        note = Note(step, 1, binding_of(self.context), body)
        return self.members[name].answer(note, self.own[name]).body

    def secrets(self, *listed: int) -> dict[str, bytes]:
        """Let the honest sign a list, and open it by their signatures and the thief's own."""
        flags = to_flags(listed, SIZE)
        proof = b"".join(
            bytes([at]) + self.ask(name, Step.SIGN, flags) for at, name in enumerate(self.names)
        )
        signed = keys.sign(self.own["thief"], signed_list(self.context, flags))
        proof += bytes([HONEST]) + bytes.fromhex(signed)
        return {name: self.ask(name, Step.OPEN, proof) for name in self.names}

    def bare(self, name: str, secret: bytes) -> Words:
        """Return what was sent without the mask of its own."""
        return self.seen[name] - stream(own_seed(secret, self.context), COUNT, BITS)


@pytest.mark.parametrize("how", HOW)
def test_seeds_told_of_a_thief_are_not_those_of_the_pair_that_it_copied(how: str) -> None:
    """The thief drops out, by the rules: all tell the seeds shared with it, and open the others."""
    thief = Thief(how, least=4)
    flags = to_flags(range(HONEST), SIZE)
    told = {name: thief.ask(name, Step.SEEDS, flags) for name in thief.names}
    victim = thief.names[0]
    found = thief.bare(victim, thief.secrets(*range(HONEST))[victim])
    for name in thief.names:
        found = found - stream(told[name], COUNT, BITS)
    assert (found & np.uint32(255)).tolist() != thief.values[victim].tolist()
    # What the seeds would have to be for it, which each pair keeps.
    pairs = [thief.members[victim]._seat(1).seed(at, thief.context) for at in range(1, HONEST)]
    assert not set(pairs) & set(told.values())


@pytest.mark.parametrize("how", HOW)
def test_nobody_but_all_honest_ones_cancels_in_a_sum(how: str) -> None:
    """Nobody drops out: without its copied key the thief's mask with a site is that of a pair."""
    thief = Thief(how, least=5)
    secrets = thief.secrets(*range(SIZE))
    for left_out in thief.names:
        rest = [name for name in thief.names if name != left_out]
        total = sum((thief.bare(name, secrets[name]) for name in rest), np.zeros(COUNT, np.uint32))
        wanted = sum((thief.values[name] for name in rest), np.zeros(COUNT, np.uint32))
        assert ((total - wanted) & np.uint32(255)).any()
