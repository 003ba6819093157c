"""Sites that share noise, each with a folder and a key of its own, and a server that may be bad.

One process stands for all of them; a site's own part is the real one, without its worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np

from clients.runtime import setup
from clients.runtime.masking import Masking
from fedlite.compression import Envelope, pack
from fedlite.compression.frame import HEADER_BYTES
from fedlite.guard import guardian
from fedlite.guard.guardian import Guardian
from fedlite.guard.policy import DataSet
from fedlite.messages import Instruction, site_id
from fedlite.privacy import SharedMechanism
from fedlite.privacy.ledger import read
from fedlite.scenario import Scenario, from_dict
from fedlite.scenario.members import text_of
from fedlite.secure import masks
from fedlite.secure.collector import Collector
from fedlite.secure.group import Card, Group
from fedlite.secure.masks import Words
from fedlite.secure.messages import SUMMED, Note, Step

NAMES = ("cleveland", "hungary", "switzerland", "va-long-beach")
RUN, OTHER_RUN = bytes(8), b"other-01"
BUNDLE = "b" * 64
MODEL = b"model-01"
COORDINATES = 40


@contextmanager
def _machine(home: Path) -> Iterator[None]:
    """Let a site be on a machine of its own, which knows nothing of the others' records."""
    with patch.dict(os.environ, FEDLITE_REGISTER=str(home.parent / f"register-{home.name}")):
        yield


def init(root: Path, name: str, *, honest: int = 2, alone: float = 20.0) -> str:
    """Make a site that trusts `honest` others; return its public key."""
    with _machine(root / name):
        made = setup.init(root / name, name, data=DataSet("digits", "digits"), epsilon=10.0)
    path = root / name / setup.POLICY
    text = path.read_text().replace('units = ["record"]', 'units = ["record-shared"]')
    text = text.replace("honest = 0\n", f"honest = {honest}\n")
    path.write_text(text.replace("alone = 0.0\n", f"alone = {alone!r}\n"))
    return made["ledger_key"]


def scenario(members: Mapping[str, str], **privacy: object) -> Scenario:
    """Return a plan for these members of which all but one may be honest."""
    size = len(members)
    return from_dict(
        {
            "federation": {"name": "heart", "sites": size, "quorum": size - 1, "rounds": 5},
            "training": {"steps": 1},
            "uplink": {"compressor": "randk", "density": 0.1},
            "privacy": {
                "unit": "record",
                "noise_at": "shared",
                "honest": size - 1,
                "expected_batch": 20,
                "coordinates": COORDINATES,
                "members": text_of(members),
                **privacy,
            },
        }
    )


@dataclass
class Site:
    """One site's own process in a run."""

    home: Path
    guard: Guardian
    masking: Masking

    @classmethod
    def of(cls, home: Path, plan: Scenario, run: bytes = RUN, bundle: str = BUNDLE) -> Site:
        """Open it as its desk does; raises Decline where the plan is beyond its policy."""
        with _machine(home):
            guard = guardian.deployed(plan, home, run.hex())
        masking = Masking.of(guard, home, run.hex(), bundle)
        assert masking is not None
        return cls(home, guard, masking)

    @property
    def rows(self) -> list[str]:
        path = self.home / "ledgers" / "digits.jsonl"
        return [row.kind for row in read(path)] if path.exists() else []

    def ask(self, step: Step, body: bytes, number: int = 0, binding: bytes = bytes(8)) -> bytes:
        return self.masking.step(Note(step, number, binding, body).encode()).body

    def card(self, run: bytes = RUN) -> Card:
        return Card.decode(self.ask(Step.CARD, run))

    def instruction(self, number: int, model: bytes = MODEL) -> Instruction:
        return Instruction(self.masking.run, number, site_id(self.guard.site), 0, model, ())

    def vector(self, number: int, values: Words, model: bytes = MODEL) -> bytes:
        """Return the masked frame's body of a round, reserved and released as the desk does."""
        asked = self.instruction(number, model)
        self.guard.admit(asked)
        if not self.masking.known(asked):
            self.guard.reserve(asked, self.masking.group)
        frame = self.masking.masked(asked, self.open(number, values))
        self.guard.release(asked, frame)
        return frame[HEADER_BYTES:]

    def open(self, number: int, values: Words, **change: int) -> bytes:
        """Return what approved code hands over: the same without masks."""
        mechanism = self.masking.sums.shared
        at = Envelope(self.masking.run, number, site_id(self.guard.site), bytes(8), MODEL)
        body = masks.pack(values, mechanism.bits)
        return pack(at, change.get("codec", SUMMED), body, change.get("records", 0))


class Hospitals:
    """All sites of a run, and what a server does with them."""

    def __init__(self, root: Path, names: tuple[str, ...] = NAMES, **privacy: object) -> None:
        self.root = root
        self.keys = {name: init(root, name, honest=len(names) - 2) for name in names}
        self.plan = scenario(self.keys, **privacy)
        self.sites = {name: Site.of(root / name, self.plan) for name in names}

    @property
    def mechanism(self) -> SharedMechanism:
        return next(iter(self.sites.values())).masking.sums.shared

    def group(self, cards: Mapping[str, Card] | None = None) -> Group:
        """Return the group of these cards, those that all sites have told unless given."""
        found = cards or {name: site.card() for name, site in self.sites.items()}
        made = self.mechanism
        return Group(made.least, made.honest, tuple(found[name] for name in sorted(found)))

    def join(self, group: Group) -> None:
        for site in self.sites.values():
            site.ask(Step.JOIN, group.encode())

    def collector(self, group: Group, number: int = 1, model: bytes = MODEL) -> Collector:
        made = self.mechanism
        return Collector(group, number, model, made.coordinates, made.bits)

    def values(self, seed: int = 1) -> dict[str, Words]:
        rng, top = np.random.default_rng(seed), 2**self.mechanism.bits
        return {n: rng.integers(0, top, COORDINATES).astype(np.uint32) for n in self.sites}

    def exchange(self, silent: Mapping[Step, set[str]]) -> Callable[..., dict[str, bytes]]:
        """Return what a collector asks by; who is silent in a step stays so."""
        gone: set[str] = set()

        def ask(questions: Mapping[str, bytes]) -> dict[str, bytes]:
            steps = {name: Note.decode(blob).step for name, blob in questions.items()}
            gone.update(name for name, step in steps.items() if name in silent.get(step, ()))
            there = {name: blob for name, blob in questions.items() if name not in gone}
            return {n: self.sites[n].masking.step(blob).encode() for n, blob in there.items()}

        return ask
