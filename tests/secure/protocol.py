"""A group of members in one process, for tests: what the network would carry, and who is silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedlite.secure.collector import Collector, Exchange
from fedlite.secure.group import Group, Terms, split
from fedlite.secure.masks import Words
from fedlite.secure.member import Member
from fedlite.secure.messages import Note, Step
from fedlite.secure.rules import Refused

RUN, MODEL = b"run-0001", b"model-01"


@dataclass
class Party:
    """Members by name, their identities, and of each exchange who was asked for which step."""

    group: Group
    members: dict[str, Member]
    identities: dict[str, Ed25519PrivateKey]
    bits: int = 8
    asked: list[dict[str, Step]] = field(default_factory=list)

    @classmethod
    def of(
        cls, size: int, least: int, honest: int, bits: int = 8, *, parts: int = 1, seed: int = 0
    ) -> Party:
        names = [f"site-{number:03d}" for number in range(size)]
        members = {name: Member.new(name) for name in names}
        identities = {name: Ed25519PrivateKey.generate() for name in names}
        cards = tuple(members[name].card(RUN, identities[name]) for name in names)
        group = Group(least, honest, cards, parts, seed)
        terms = Terms(size, least, honest, parts, seed)
        for card in cards:
            members[card.name].join(group.encode(), identities[card.name], terms)
        return cls(group, members, identities, bits)

    @property
    def steps(self) -> list[set[Step]]:
        """The steps that were asked for in each exchange."""
        return [set(asked.values()) for asked in self.asked]

    @property
    def names(self) -> list[str]:
        return list(self.group.names)

    def collector(self, count: int, number: int = 1) -> Collector:
        return Collector(self.group, number, MODEL, count, self.bits)

    def collectors(self, count: int, number: int = 1) -> list[Collector]:
        """One for each part of a round."""
        parts = split(self.group, number)
        return [Collector(part, number, MODEL, count, self.bits) for part in parts]

    def masked(
        self, values: Mapping[str, Words], number: int = 1, model: bytes = MODEL
    ) -> dict[str, bytes]:
        return {
            name: self.members[name].mask(number, model, vector, self.bits)
            for name, vector in values.items()
        }

    def reload(self) -> None:
        """Let every member come back from its disk, as between two messages."""
        self.members = {name: Member.load(one.dump()) for name, one in self.members.items()}

    def exchange(
        self,
        silent: Mapping[Step, set[str]] | None = None,
        spoil: Callable[[Step, str, bytes], bytes] | None = None,
    ) -> Exchange:
        """Return what a server asks by; who is silent in a step stays so."""
        gone: set[str] = set()

        def ask(questions: Mapping[str, bytes]) -> dict[str, bytes]:
            notes = {name: Note.decode(blob) for name, blob in questions.items()}
            self.asked.append({name: note.step for name, note in notes.items()})
            answers = {}
            for name, note in notes.items():
                if name in (silent or {}).get(note.step, ()):
                    gone.add(name)
                if name not in gone:
                    answer = self.members[name].answer(note, self.identities[name]).encode()
                    answers[name] = spoil(note.step, name, answer) if spoil else answer
            self.reload()
            return answers

        return ask

    def exchange_refusing(self) -> Exchange:
        """Return what a server asks by whose members answer what they may, and else nothing."""

        def ask(questions: Mapping[str, bytes]) -> dict[str, bytes]:
            answers = {}
            for name, blob in questions.items():
                try:
                    note = Note.decode(blob)
                    answers[name] = self.members[name].answer(note, self.identities[name]).encode()
                except Refused:
                    continue
            return answers

        return ask


def vectors(names: list[str], count: int, bits: int, seed: int = 1) -> dict[str, Words]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 2**bits, count).astype(np.uint32) for name in names}


def plain(values: Mapping[str, Words], names: list[str], bits: int) -> list[int]:
    total = sum((values[name].astype(np.int64) for name in names), np.zeros(1, np.int64))
    return [int(value) % 2**bits for value in total]
