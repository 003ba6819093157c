"""Who sums with whom: cards that members sign, and the group that all of them must see alike."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedlite.identity import keys
from fedlite.identity.names import site_problem
from fedlite.privacy.ranges import worst_group
from fedlite.secure import masks
from fedlite.secure.rules import Refused

LEAST_MEMBERS, MOST_MEMBERS = 3, 100
_CARD = struct.Struct("<8s32s32s64sB")
_GROUP = struct.Struct("<8sBBB")
# Of members that sum in parts: the zero stands where a group has its size, which is none.
_DIVIDED = struct.Struct("<8sBBBBBQ")
_MOST_NAME = 255
MOST_CARD_BYTES = _CARD.size + _MOST_NAME
MOST_GROUP_BYTES = _DIVIDED.size + MOST_MEMBERS * MOST_CARD_BYTES
_PURPOSE = b"fedlite secure sum, card 1\0"
_SPLIT = b"fedlite secure sum, parts 1\0"


@dataclass(frozen=True)
class Card:
    """What a member says of itself for one run, signed by the key that people know it by.

    run: 8 bytes. name: a site's. identity: its Ed25519 key, agreement: its X25519 key for this run,
    32 bytes each. signature: of the identity over run, name and agreement, 64 bytes.
    """

    run: bytes
    name: str
    identity: bytes
    agreement: bytes
    signature: bytes

    @classmethod
    def make(cls, run: bytes, name: str, identity: keys.Key, agreement: bytes) -> Card:
        """Return a signed card."""
        signature = keys.sign(identity, _signed(run, name, agreement))
        public = bytes.fromhex(keys.public_hex(identity))
        return cls(run, name, public, agreement, bytes.fromhex(signature))

    def encode(self) -> bytes:
        """Return the wire form: 137 bytes and the name."""
        name = self.name.encode()
        head = _CARD.pack(self.run, self.identity, self.agreement, self.signature, len(name))
        return head + name

    @classmethod
    def decode(cls, blob: bytes) -> Card:
        """Read and check a card; raises Refused "form" or "members"."""
        card, used = cls._read(blob, 0)
        if used != len(blob):
            raise Refused("form", f"a card has {used} bytes, got {len(blob)}")
        return card

    @classmethod
    def _read(cls, blob: bytes, start: int) -> tuple[Card, int]:
        if len(blob) < start + _CARD.size:
            raise Refused("form", f"a card has at least {_CARD.size} bytes, got {len(blob)}")
        run, identity, agreement, signature, length = _CARD.unpack_from(blob, start)
        end = start + _CARD.size + length
        text = blob[start + _CARD.size : end]
        try:
            name = text.decode()
        except UnicodeDecodeError:
            raise Refused("form", "a card's name must be UTF-8") from None
        if len(text) != length or site_problem(name):
            raise Refused("form", f"a card's name must be a site's, got {name!r:.80}")
        card = cls(run, name, identity, agreement, signature)
        signed = _signed(run, name, agreement)
        if not keys.verify(identity.hex(), signature.hex(), signed):
            raise Refused("members", f"the card of {name!r} is not signed by the key that it names")
        try:
            # Later every honest member's masking would fail, and nobody could say by whose fault.
            masks.check_public(agreement)
        except Refused as refused:
            raise Refused("members", f"the card of {name!r}: {refused.text}") from None
        return card, end

    @property
    def fingerprint(self) -> str:
        """The identity, for people: 64 hex digits."""
        return self.identity.hex()


def _signed(run: bytes, name: str, agreement: bytes) -> bytes:
    text = name.encode()
    return _PURPOSE + run + len(text).to_bytes(2, "little") + text + agreement


@dataclass(frozen=True)
class Terms:
    """What a member agrees to of a group before it joins it.

    members, least, honest: how many, as in `Group`; so are parts, the groups of a round, and the
    seed that divides into them, which is none of an undivided one's.
    """

    members: int
    least: int
    honest: int
    parts: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Group:
    """All members of a run's sums, in the order of their names, and how many have to be there.

    least: members in every sum, and the threshold of the shares. honest: how many are taken to be.
    With c = members - honest that collude with the server, the rule `2 least > members + c` (which
    is `2 least > 2 members - honest`) makes two different lists with `least` signatures each
    impossible, and with them all that a server could gain by splitting the group.

    parts > 1: in each round the members are divided into as many groups of their own, each with a
    sum, by `seed` and the round alone (`part`). Then the rule holds in each part, with all who may
    be missing and all who collude in it. of: the digest of the whole that a part is of; empty of a
    whole.

    Raises Refused "members", "thresholds" or "split".
    """

    least: int
    honest: int
    cards: tuple[Card, ...]
    parts: int = 1
    seed: int = 0
    of: bytes = b""

    def __post_init__(self) -> None:
        """Check it as a whole; signatures were checked when the cards were read."""
        size, names = len(self.cards), [card.name for card in self.cards]
        if not LEAST_MEMBERS <= size <= MOST_MEMBERS:
            raise Refused(
                "members", f"must be {LEAST_MEMBERS} to {MOST_MEMBERS} members, got {size}"
            )
        if names != sorted(set(names)):
            raise Refused("members", "names must differ and be in their order")
        if len({card.run for card in self.cards}) != 1:
            raise Refused("members", "all cards must be of one run")
        for what in ("identity", "agreement"):
            found: dict[bytes, str] = {}
            for card in self.cards:
                twin = found.setdefault(getattr(card, what), card.name)
                if twin != card.name:
                    told = f"{twin!r} and {card.name!r} have the same {what} key"
                    raise Refused("members", told)
        if not 1 <= self.honest <= size or not self.least <= size:
            raise Refused("thresholds", f"{self.least} least and {self.honest} honest of {size}")
        if self.parts != 1 and (
            self.parts < 1 or size % self.parts or size // self.parts < LEAST_MEMBERS
        ):
            raise Refused("split", f"{size} members make no {self.parts} groups of {LEAST_MEMBERS}")
        members, least, honest = self.each
        if 2 * least <= 2 * members - honest:
            where = f" in each of {self.parts} groups" if self.parts > 1 else ""
            raise Refused(
                "thresholds",
                f"least must be more than members - honest / 2, got {least} with {members} "
                f"members and {honest} honest{where}",
            )

    @property
    def each(self) -> tuple[int, int, int]:
        """Of a part of it: its members, least and honest, with all that is amiss in that one."""
        return worst_group(len(self.cards), self.least, self.honest, self.parts)

    @property
    def run(self) -> bytes:
        """The run, 8 bytes."""
        return self.cards[0].run

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names; a member's number is its place."""
        return tuple(card.name for card in self.cards)

    def encode(self) -> bytes:
        """Return the wire form: run, three counts, where it has parts their number, the cards."""
        counts = len(self.cards), self.least, self.honest
        head = _GROUP.pack(self.run, *counts)
        if self.parts > 1:
            head = _DIVIDED.pack(self.run, 0, *counts, self.parts, self.seed)
        return head + b"".join(card.encode() for card in self.cards)

    @classmethod
    def decode(cls, blob: bytes) -> Group:
        """Read it and check every signature; raises Refused."""
        if not _GROUP.size <= len(blob) <= MOST_GROUP_BYTES:
            raise Refused("form", f"a group has at most {MOST_GROUP_BYTES} bytes, got {len(blob)}")
        run, size, least, honest = _GROUP.unpack_from(blob)
        start, parts, seed = _GROUP.size, 1, 0
        if not size:
            if len(blob) < _DIVIDED.size:
                raise Refused("form", f"a group in parts has at least {_DIVIDED.size} bytes")
            run, _, size, least, honest, parts, seed = _DIVIDED.unpack_from(blob)
            start = _DIVIDED.size
            if parts < 2:
                raise Refused("form", f"a group in parts has two or more, got {parts}")
        cards = []
        for _ in range(size):
            card, start = Card._read(blob, start)
            cards.append(card)
        if start != len(blob):
            raise Refused("form", f"{len(blob) - start} bytes too many after the group")
        group = cls(least, honest, tuple(cards), parts, seed)
        if group.run != run:
            raise Refused("members", "the cards are of another run than the group")
        return group

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the wire form: what all members must see alike; of a part, of both."""
        return hashlib.sha256(self.encode() + self.of).digest()

    def part(self, number: int, name: str) -> Group:
        """Return with whom a member sums in a round, from 1: a group as any; undivided, itself.

        Raises Refused "not-a-member".
        """
        for one in split(self, number):
            if name in one.names:
                return one
        raise Refused("not-a-member", f"{name!r} is not in the group of this run")

    def check_for(self, card: Card, terms: Terms) -> None:
        """Raise Refused unless it is the group that a member agreed to: its numbers, its card."""
        seed = terms.seed if terms.parts > 1 else 0
        if (self.parts, self.seed) != (terms.parts, seed):
            raise Refused(
                "split",
                f"must be divided into {terms.parts} by the seed {terms.seed} as planned, got "
                f"{self.parts} by {self.seed}",
            )
        planned = terms.members, terms.least, terms.honest
        if (len(self.cards), self.least, self.honest) != planned:
            raise Refused(
                "thresholds",
                "must be {} members, {} least and {} honest as planned, got ".format(*planned)
                + f"{len(self.cards)}, {self.least} and {self.honest}",
            )
        if card not in self.cards:
            raise Refused("not-a-member", f"the group does not hold the card of {card.name!r}")

    def check_approved(self, approved: Mapping[str, str]) -> None:
        """Raise Refused "unapproved" unless it is of those approved, with their fingerprints."""
        for card in self.cards:
            if approved.get(card.name) != card.fingerprint:
                raise Refused(
                    "unapproved",
                    f"{card.name!r} comes with the key {card.fingerprint[:16]}..., which nobody "
                    "approved; compare fingerprints with its operator",
                )
        if missing := approved.keys() - set(self.names):
            raise Refused("unapproved", f"lacks {', '.join(sorted(missing))}, approved as members")

    @property
    def fingerprints(self) -> dict[str, str]:
        """The members' identities by name, 64 hex digits each."""
        return {card.name: card.fingerprint for card in self.cards}


@lru_cache(maxsize=64)
def split(group: Group, number: int) -> tuple[Group, ...]:
    """Return the groups in which members sum in a round, from 1; each member is in one of them.

    Members stand in the order of a SHA-256 of seed, round and their place, and are cut into equal
    parts: whoever knows the seed knows all rounds' parts beforehand, and with the seed approved
    nobody changes them.
    """
    if group.parts == 1:
        return (group,)
    text = _SPLIT + group.seed.to_bytes(8, "little") + number.to_bytes(4, "little")
    places = range(len(group.cards))
    order = sorted(places, key=lambda at: hashlib.sha256(text + at.to_bytes(2, "little")).digest())
    size, least, honest = group.each
    return tuple(
        Group(
            least,
            honest,
            tuple(group.cards[at] for at in sorted(order[start : start + size])),
            of=group.digest,
        )
        for start in range(0, len(order), size)
    )


def new_agreement() -> bytes:
    """Return a new X25519 private key, 32 bytes from the operating system."""
    return X25519PrivateKey.generate().private_bytes_raw()
