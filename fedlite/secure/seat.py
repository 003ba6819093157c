"""What one member shares with each other one of the group that a round's sum is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from fedlite.secure import masks, shamir
from fedlite.secure.group import Group

# The same pairs in many rounds, and every question of them.
_pair_key = lru_cache(maxsize=4 * 4096)(masks.pair_key)


@dataclass(frozen=True)
class Seat:
    """A member's place in a group, and what follows from its private key; nothing is told here.

    group: of one sum. name: the member's. private: its X25519 key, 32 bytes.
    """

    group: Group
    name: str
    private: bytes

    @property
    def number(self) -> int:
        """The member's place."""
        return self.group.names.index(self.name)

    def others(self) -> list[int]:
        """Return the places of all others."""
        me = self.number
        return [other for other in range(len(self.group.cards)) if other != me]

    def pair(self, other: int) -> bytes:
        """Return the key shared with the member at a place."""
        cards, me = self.group.cards, self.number
        ends = (me, cards[me].agreement), (other, cards[other].agreement)
        return _pair_key(self.private, *ends, self.group.digest)

    def seed(self, other: int, context: bytes) -> bytes:
        """Return the seed of the mask shared with another in a round."""
        return masks.derive(self.pair(other), "mask", context)

    def points(self, context: bytes) -> dict[int, int]:
        """Return the values that name the polynomial of the own secret, by place; 0 is its own."""
        group, me, points = self.group, self.number, {}
        for other in self.others():
            if derives(group, me, other):
                value = masks.derive(self.pair(other), "share", context, me)
                points[other + 1] = shamir.number(value)
        if len(points) < group.least:
            # All have to be there, so no share is ever needed.
            points[0] = shamir.number(masks.derive(self.private, "secret", context))
        return points

    def sealed(self, points: Mapping[int, int], context: bytes) -> bytes:
        """Return the shares that their holders cannot derive, each under a pad of its own."""
        told, me = [], self.number
        for other in self.others():
            if not derives(self.group, me, other):
                pad = shamir.number(masks.derive(self.pair(other), "pad", context, me))
                told.append(shamir.share((shamir.at(points, other + 1) + pad) % shamir.PRIME))
        return b"".join(told)

    def held(self, other: int, sent: bytes, context: bytes) -> bytes:
        """Return the own share of another's secret; sent: as it was sealed, where it was."""
        key = self.pair(other)
        value = shamir.number(masks.derive(key, "share", context, other))
        if not derives(self.group, other, self.number):
            pad = shamir.number(masks.derive(key, "pad", context, other))
            value = (shamir.number(sent) - pad) % shamir.PRIME
        return shamir.share(value)


def derives(group: Group, dealer: int, holder: int) -> bool:
    """Whether a holder's share of a dealer's secret is derived, and not sent: of the first ones."""
    return holder - (holder > dealer) < min(group.least, len(group.cards) - 1)
