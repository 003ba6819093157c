"""A member of a secure sum: what it tells in which step, and what it never tells.

In a round a member masks its vector by streams that it shares with each other member, which cancel
in the sum, and by one of its own. Then the server says who is left. Of those who are not, members
tell the pairwise seeds; of those who are, the own secrets. Never both of one member:

1. Lists of a round only shrink, and no seed is told of a member that is still on the list.
2. A member signs one list a round. Afterwards it tells no seed any more.
3. It tells its own secret, and shares of others' on that list, only when `least` members of it have
   signed the very same: the same group, round, model and members. Two lists cannot have as many
   signatures each, because `2 least > members + colluders`, and the honest sign once.

So of each member that is summed the server lacks a pairwise seed with an honest member of the list,
through which all honest ones on it are connected (docs/secure-sum.md has the proof); of each that
is not it lacks the own secret. Double masks, shares and the check of consistency are those of
Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth 2017. Other than there
each pairwise seed is told by its survivor and is not shared itself: lists shrink until all on them
have told. That takes no key a round, and a drop-out costs one more exchange in place of K shares a
round from everybody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from fedlite.identity import keys
from fedlite.secure import masks, shamir
from fedlite.secure.group import Card, Group, Terms, new_agreement
from fedlite.secure.masks import Words
from fedlite.secure.messages import (
    SIGNATURE_BYTES,
    Note,
    Step,
    binding_of,
    context_of,
    of_flags,
    pieces,
    signed_list,
    to_flags,
)
from fedlite.secure.rules import Refused
from fedlite.secure.seat import Seat

CHECK_BYTES = 8
_group_of = lru_cache(maxsize=8)(Group.decode)


def body_bytes(members: int, least: int, count: int, bits: int) -> int:
    """Return how long the body of a masked vector is: a check, sealed shares, packed numbers.

    members, least: of the group. count: of the vector's values, each of `bits`.
    """
    sealed = members - 1 - min(least, members - 1)
    return CHECK_BYTES + sealed * shamir.BYTES + masks.packed_bytes(count, bits)


@dataclass
class Member:
    """What a member keeps of one run, on its own disk, before any answer leaves.

    name: its own. private: its X25519 key, of this run alone. group: as joined, its wire form; ""
    before. round, model, body: what it masked last, and for which model. listed: who was left
    when it was last told. signed, opened: how far it has gone in that round. Bytes are kept as hex.
    """

    name: str
    private: str
    group: str = ""
    round: int = 0
    model: str = ""
    body: str = ""
    listed: tuple[int, ...] = ()
    signed: bool = False
    opened: bool = False

    @classmethod
    def new(cls, name: str) -> Member:
        """Return a member with a new key, before it has joined."""
        return cls(name, new_agreement().hex())

    def dump(self) -> bytes:
        """Return it as JSON; it holds secrets."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def load(cls, data: bytes) -> Member:
        """Read what `dump` wrote; raises ValueError."""
        told: dict[str, Any] = json.loads(data)
        return cls(**told | {"listed": tuple(told["listed"])})

    def card(self, run: bytes, identity: keys.Key) -> Card:
        """Return its card for a run of 8 bytes."""
        return Card.make(run, self.name, identity, masks.public_of(self._private))

    def join(
        self,
        blob: bytes,
        identity: keys.Key,
        terms: Terms,
        approved: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the group, or find that it is the one that is kept.

        identity: its own. terms: as planned. approved: fingerprints by name that people have
        approved; None where nobody is there to do so, as in a simulation. Raises Refused.
        """
        if self.group and self.group != blob.hex():
            raise Refused("keys-changed", "the group is not the one that this run began with")
        joined = replace(self, group=blob.hex())
        joined.check_group(identity, terms, approved)
        self.group = joined.group

    def check_group(
        self,
        identity: keys.Key,
        terms: Terms,
        approved: Mapping[str, str] | None = None,
    ) -> None:
        """Raise Refused unless the group that it has joined, if any, may be joined by these terms.

        They are those of `join`, as they are now: what is approved may have changed since.
        """
        if not self.group:
            return
        group = self._group
        group.check_for(self.card(group.run, identity), terms)
        if approved is not None:
            group.check_approved(approved)

    @property
    def joined_run(self) -> bytes:
        """The run of the group that it has joined; empty before."""
        return self._group.run if self.group else b""

    @property
    def fingerprints(self) -> dict[str, str]:
        """The members of the group that it has joined, by name; nobody before."""
        return self._group.fingerprints if self.group else {}

    def check_may_mask(self, number: int, model: bytes) -> None:
        """Raise Refused where `mask` would, before anything is spent on the vector."""
        if not self.group:
            raise Refused("order", "a group is joined before anything is masked")
        if number < self.round or (number == self.round and model.hex() != self.model):
            raise Refused(
                "one-sum",
                f"round {number} was asked for after round {self.round} was masked"
                + (" for another model" if number == self.round else ""),
            )

    def masked(self, number: int) -> bytes:
        """Return what it sent for a round, if that is the last that it masked; else nothing."""
        return bytes.fromhex(self.body) if number == self.round else b""

    def mask(self, number: int, model: bytes, values: Words, bits: int) -> bytes:
        """Return its masked vector for a round: check, shares that must be sent, packed values.

        number: the round, from 1. model: digest of the model it belongs to, 8 bytes. values:
        uint32 [n] below 2^bits. Asked again for the same it returns the same.

        Raises Refused "one-sum" for an earlier round or another model, "range".
        """
        self.check_may_mask(number, model)
        if known := self.masked(number):
            return known
        if not 1 <= bits <= masks.MOST_BITS or (values >> np.uint32(bits - 1) > 1).any():
            raise Refused("range", f"must be below 2^{bits}, bits from 1 to {masks.MOST_BITS}")
        seat = self._seat(number)
        context = context_of(seat.group.digest, number, model)
        points = seat.points(context)
        secret = shamir.share(shamir.at(points, 0))
        total = values + masks.stream(masks.own_seed(secret, context), values.size, bits)
        for other in seat.others():
            mask = masks.stream(seat.seed(other, context), values.size, bits)
            total = total + mask if seat.number < other else total - mask
        packed = masks.pack(total & np.uint32(2**bits - 1), bits)
        body = check_of(secret, context) + seat.sealed(points, context) + packed
        self.round, self.model, self.body = number, model.hex(), body.hex()
        self.listed, self.signed, self.opened = (), False, False
        return body

    def answer(self, note: Note, identity: keys.Key) -> Note:
        """Return the answer to a step of the round that it masked; raises Refused."""
        if not self.group or not self.round:
            raise Refused("order", "nothing has been masked yet")
        if note.round != self.round or note.binding != binding_of(self._context):
            raise Refused(
                "other-round",
                f"round {note.round} or its group or model is not what was masked last, which was "
                f"round {self.round}",
            )
        steps = {
            Step.SEEDS: self._tell_seeds,
            Step.OPEN: self._open,
            Step.SHARES: self._tell_shares,
        }
        if note.step is Step.SIGN:
            told = self._sign(note.body, identity)
        elif note.step in steps:
            told = steps[note.step](note.body)
        else:
            raise Refused("order", f"{note.step.name} is no step of a round")
        return Note(note.step, note.round, note.binding, told)

    def _tell_seeds(self, body: bytes) -> bytes:
        left = self._shrunk(body)
        if self.signed:
            raise Refused(
                "both-masks", "no pairwise seed is told once a list of the round has been signed"
            )
        self.listed = left
        seat, context = self._seat(self.round), self._context
        gone = (other for other in seat.others() if other not in left)
        return b"".join(seat.seed(other, context) for other in gone)

    def _sign(self, body: bytes, identity: keys.Key) -> bytes:
        left = self._shrunk(body)
        if self.signed and left != self.listed:
            raise Refused("member-list", "another list of this round has been signed already")
        self.listed, self.signed = left, True
        return bytes.fromhex(keys.sign(identity, signed_list(self._context, body)))

    def _open(self, body: bytes) -> bytes:
        seat = self._seat(self.round)
        group = seat.group
        if not self.signed:
            raise Refused("order", "a list is signed before anything is opened")
        if len(body) % (1 + SIGNATURE_BYTES):
            raise Refused("form", "a proof holds a number and a signature for each member")
        told = signed_list(self._context, to_flags(self.listed, len(group.cards)))
        found = set()
        for one in pieces(body, 1 + SIGNATURE_BYTES, len(body) // (1 + SIGNATURE_BYTES)):
            member, signature = one[0], one[1:]
            if member in self.listed and keys.verify(
                group.cards[member].fingerprint, signature.hex(), told
            ):
                found.add(member)
        if len(found) < group.least:
            raise Refused(
                "member-list",
                f"{group.least} members must have signed the list that this one has, and "
                f"{len(found)} have; others were shown another list or another group",
            )
        self.opened = True
        return shamir.share(shamir.at(seat.points(self._context), 0))

    def _tell_shares(self, body: bytes) -> bytes:
        seat, context = self._seat(self.round), self._context
        members = len(seat.group.cards)
        size = -(-members // 8)
        if not self.opened:
            raise Refused("order", "a list is proven before any share is told")
        silent = of_flags(body[:size], members)
        if not set(silent) <= set(self.listed) - {seat.number}:
            raise Refused(
                "both-masks",
                "shares are told of members on the signed list alone: of the others the pairwise "
                "seeds may be known",
            )
        sent = pieces(body[size:], shamir.BYTES, len(silent))
        return b"".join(
            seat.held(other, one, context) for other, one in zip(silent, sent, strict=True)
        )

    def _shrunk(self, body: bytes) -> tuple[int, ...]:
        seat = self._seat(self.round)
        left = of_flags(body, len(seat.group.cards))
        if seat.number not in left or (self.listed and not set(left) <= set(self.listed)):
            raise Refused("shrinking", "a later list holds its reader, and nobody new")
        if len(left) < seat.group.least:
            raise Refused("too-few", f"{seat.group.least} members are needed, {len(left)} are left")
        return left

    @property
    def _private(self) -> bytes:
        return bytes.fromhex(self.private)

    @property
    def _group(self) -> Group:
        return _group_of(bytes.fromhex(self.group))

    def _seat(self, number: int) -> Seat:
        """Return its place among those with whom it sums in a round."""
        return Seat(self._group.part(number, self.name), self.name, self._private)

    @property
    def _context(self) -> bytes:
        digest = self._seat(self.round).group.digest
        return context_of(digest, self.round, bytes.fromhex(self.model))


def check_of(secret: bytes, context: bytes) -> bytes:
    """Return the 8 bytes by which a server knows a secret that it was told or has put together."""
    return masks.own_seed(secret, b"check" + context)[:CHECK_BYTES]
