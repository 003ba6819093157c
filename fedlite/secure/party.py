"""A whole group in one process: for simulations and for attacks on what a real group shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedlite.identity import keys
from fedlite.secure.collector import Collector
from fedlite.secure.group import Group, Terms
from fedlite.secure.masks import Words
from fedlite.secure.member import Member
from fedlite.secure.messages import Note


@dataclass(frozen=True)
class Party:
    """Members that have joined one group, with the keys that they are known by, by name."""

    group: Group
    members: Mapping[str, Member]
    identities: Mapping[str, keys.Key]

    @classmethod
    def of(
        cls, run: bytes, identities: Mapping[str, keys.Key], *, least: int, honest: int
    ) -> Party:
        """Return a new group of those who are named, for a run of 8 bytes; raises Refused."""
        members = {name: Member.new(name) for name in identities}
        cards = tuple(members[name].card(run, key) for name, key in identities.items())
        group = Group(least, honest, cards)
        for name, key in identities.items():
            members[name].join(group.encode(), key, Terms(len(members), least, honest))
        return cls(group, members, identities)

    def mask(self, name: str, number: int, model: bytes, values: Words, bits: int) -> bytes:
        """Return what a member sends in a round; see `Member.mask`."""
        return self.members[name].mask(number, model, values, bits)

    def sum(
        self, bodies: Mapping[str, bytes], number: int, model: bytes, count: int, bits: int
    ) -> Words:
        """Return the sum of what members have sent, uint32 [count]; raises Refused."""
        collector = Collector(self.group, number, model, count, bits)
        for name, body in bodies.items():
            collector.add(name, body)
        return collector.finish(self._exchange)[1]

    def _exchange(self, questions: Mapping[str, bytes]) -> dict[str, bytes]:
        return {
            name: self.members[name].answer(Note.decode(blob), self.identities[name]).encode()
            for name, blob in questions.items()
        }
