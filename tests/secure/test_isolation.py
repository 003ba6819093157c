"""Fewer honest members than planned: a server and colluders that read one member's vector alone.

By the members' own steps. It is why a row of the table of epsilon counts the noise of one site
where no more honest ones are left in a sum than may be missing in it.
Covers fedlite/privacy/shared/mechanism.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from fedlite.identity import keys
from fedlite.privacy import SharedMechanism, accounting
from fedlite.secure import masks, shamir
from fedlite.secure.group import split
from fedlite.secure.member import CHECK_BYTES
from fedlite.secure.messages import (
    Note,
    Step,
    binding_of,
    context_of,
    pieces,
    signed_list,
    to_flags,
)
from fedlite.secure.rules import Refused
from fedlite.secure.seat import derives
from tests.privacy.shared.planned import MECHANISM
from tests.secure.protocol import MODEL, Party, vectors

SIZE, LEAST, HONEST, COUNT, BITS = 10, 8, 5, 12, 8
AWAY = SIZE - LEAST


class Server:
    """A server with the last members of a group of ten, of which two may be missing.

    honest: how many members follow the rules, the first ones; five are planned for.
    """

    def __init__(self, honest: int, parts: int) -> None:
        self.party = Party.of(
            SIZE * parts, LEAST + (parts - 1) * SIZE, SIZE * parts - 5, BITS, parts=parts, seed=7
        )
        self.group = split(self.party.group, 1)[0]
        assert (self.group.least, self.group.honest) == (LEAST, HONEST)
        self.names, self.honest = self.group.names, range(honest)
        self.colluding = range(honest, SIZE)
        self.context = context_of(self.group.digest, 1, MODEL)
        self.values = vectors(list(self.names), COUNT, BITS)
        self.bodies = self.party.masked(self.values)
        # What a colluder knows of everybody by its own key.
        self.seats = {at: self.party.members[self.names[at]]._seat(1) for at in self.colluding}

    def ask(self, at: int, step: Step, body: bytes) -> bytes:
        assert at in self.honest
        name, note = self.names[at], Note(step, 1, binding_of(self.context), body)
        return self.party.members[name].answer(note, self.party.identities[name]).body

    def flags(self, listed: Iterable[int]) -> bytes:
        return to_flags(sorted(listed), SIZE)

    def sealed(self, dealer: int, holder: int) -> bytes:
        holders = [h for h in range(SIZE) if h != dealer and not derives(self.group, dealer, h)]
        if holder not in holders:
            return bytes(shamir.BYTES)
        start = CHECK_BYTES + shamir.BYTES * holders.index(holder)
        return self.bodies[self.names[dealer]][start : start + shamir.BYTES]

    def open(self, signers: Iterable[int], victim: int) -> bytes:
        """Have a list signed that `victim` is on, and return its secret by shares of it."""
        flags = self.flags([*signers, victim, *self.colluding])
        text = signed_list(self.context, flags)
        proof = {at: self.ask(at, Step.SIGN, flags) for at in signers}
        for at in self.colluding:
            own = self.party.identities[self.names[at]]
            proof[at] = bytes.fromhex(keys.sign(own, text))
        told = b"".join(bytes([at]) + signature for at, signature in proof.items())
        points = {}
        for at in signers:
            self.ask(at, Step.OPEN, told)
            body = self.flags([victim]) + self.sealed(victim, at)
            points[at + 1] = shamir.number(self.ask(at, Step.SHARES, body))
        for at, seat in self.seats.items():
            share = seat.held(victim, self.sealed(victim, at), self.context)
            points[at + 1] = shamir.number(share)
        polynomial = shamir.corrected(points, LEAST)
        assert polynomial is not None
        return shamir.share(shamir.value(polynomial, 0))

    def single_out(self) -> np.ndarray:
        """Return the vector of the third member less all masks that can be taken off.

        The first two sign it with all colluders, and it is told that these two are gone: so it
        tells the seeds that it shares with them, and the others those that they share with it.
        """
        first, second, victim = 0, 1, 2
        others = [at for at in self.honest if at > victim]
        seeds = {at: seat.seed(victim, self.context) for at, seat in self.seats.items()}
        told = self.ask(victim, Step.SEEDS, self.flags([victim, *others, *self.colluding]))
        seeds |= dict(zip((first, second), pieces(told, masks.SEED_BYTES, AWAY), strict=True))
        for at in others:
            # To each of the others it is the victim that is gone, and one more.
            told = self.ask(at, Step.SEEDS, self.flags({*range(SIZE)} - {second, victim}))
            seeds[at] = pieces(told, masks.SEED_BYTES, AWAY)[1]
        own = masks.own_seed(self.open((first, second), victim), self.context)
        packed = masks.packed_bytes(COUNT, BITS)
        bare = masks.unpack(self.bodies[self.names[victim]][-packed:], COUNT, BITS)
        bare = bare - masks.stream(own, COUNT, BITS)
        for at, seed in seeds.items():
            mask = masks.stream(seed, COUNT, BITS)
            bare = bare - mask if victim < at else bare + mask
        return bare & np.uint32(2**BITS - 1)

    @property
    def target(self) -> np.ndarray:
        return self.values[self.names[2]]


def mechanism(parts: int) -> SharedMechanism:
    sites = SIZE * parts
    return replace(
        MECHANISM, sites=sites, least=sites - AWAY, honest=sites - 5, groups=parts, steps=3
    )


@pytest.mark.parametrize("parts", [1, 2])
def test_where_no_more_honest_ones_are_left_than_may_be_missing_one_is_read_alone(
    parts: int,
) -> None:
    """With four honest of ten the noise of two is in the sum, and that of one in what is read."""
    server = Server(4, parts)
    assert server.single_out().tolist() == server.target.tolist()
    made = mechanism(parts)
    table, alone = accounting.table(made, 1e-5), accounting.seen_with(made, 1, 1e-5)
    four = made.sites - 6
    assert table[four] == table[four - 1] == alone, "what its own noise gives, and no more"
    assert table[four + 1] == accounting.seen_with(made, 3, 1e-5) < alone


def test_as_many_honest_ones_as_planned_tell_no_such_thing() -> None:
    """The same with five of them: two signatures and five colluders' are one too few."""
    server = Server(HONEST, 1)
    with pytest.raises(Refused, match="member-list"):
        server.single_out()


@pytest.mark.parametrize("parts", [1, 2])
def test_a_row_is_of_several_sites_only_where_the_rule_of_its_proof_holds(parts: int) -> None:
    """2 t > g + c, for the c that the row takes for dishonest, in the worst group."""
    for away in range(4):
        made = replace(mechanism(parts), least=SIZE * parts - away, honest=SIZE * parts - 2)
        group, inside, _ = made.summed
        for count in range(1, made.carried + 1):
            false = inside - count
            proven = 2 * inside > group + false
            assert made.hidden_among(count) == (count if proven else 1), (away, count)
        assert made.hidden_among(made.carried) == made.carried
    with pytest.raises(ValueError, match="count"):
        made.hidden_among(0)
