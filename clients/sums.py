"""A site's part in secure sums: its keys and what it told, on its own disk before it leaves.

It is the site's own process that takes it, never approved code: who has these keys could tell what
is under the masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlite.guard.guardian import Decline, Guardian
from fedlite.identity import keys
from fedlite.messages import Code
from fedlite.privacy import SharedMechanism
from fedlite.secure.group import Terms
from fedlite.secure.member import Member
from fedlite.secure.messages import Note, Step
from fedlite.secure.rules import Refused
from fedlite.storage import write_atomic

RUN_BYTES = 8


@dataclass(frozen=True)
class Sums:
    """One site in one run. path: the file of what it keeps, secrets among them.

    approved: fingerprints by name of those who may be its members; None in a simulation, where
    nobody is there to approve them. joined: where the digest of the run's group stays when its keys
    are gone, so that none is joined after it; None in a simulation.
    """

    shared: SharedMechanism
    name: str
    path: Path
    guardian: Guardian
    approved: Mapping[str, str] | None = None
    joined: Path | None = None

    def step(self, note: Note) -> Note:
        """Answer one step of a sum; the file at `path` must be held.

        Raises Decline: the step breaks a rule, as an unapproved member does.
        """
        with _declined():
            member = self._member()
            if note.step is Step.CARD:
                told = Note(note.step, 0, note.binding, self._card(member, note.body))
            elif note.step is Step.JOIN:
                self._join(member, note.body)
                told = Note(note.step, 0, note.binding)
            else:
                told = member.answer(note, self._identity())
        self._save(member)
        return told

    def check(self, run: bytes, number: int, model: bytes) -> bytes:
        """Return the vector that was masked for this round before, or nothing where none was.

        Raises Decline where none may be, before anything is spent.
        """
        with _declined():
            member = self._member()
            if member.joined_run != run:
                raise Refused("order", "no group of this run was joined")
            member.check_may_mask(number, model)
            return member.masked(number)

    def mask(self, number: int, model: bytes, values: NDArray[np.uint32], bits: int) -> bytes:
        """Return the masked vector of a round that was checked; it is on disk then.

        Raises Decline as `check` does: the policy may have changed while the round was trained.
        """
        with _declined():
            member = self._member()
            body = member.mask(number, model, values, bits)
        self._save(member)
        return body

    def group(self) -> dict[str, str]:
        """Return the fingerprints of the members that it has joined, by name."""
        return self._load().fingerprints

    def forget(self) -> None:
        """Remove its keys of the run, once no sum of it is to come."""
        self.path.unlink(missing_ok=True)

    def _card(self, member: Member, run: bytes) -> bytes:
        if len(run) != RUN_BYTES:
            raise Refused("form", f"a run has {RUN_BYTES} bytes, got {len(run)}")
        return member.card(run, self._identity()).encode()

    def _join(self, member: Member, group: bytes) -> None:
        member.join(group, self._identity(), self._terms, self.approved)
        if self.joined is None:
            return
        digest = hashlib.sha256(group).hexdigest()
        if self.joined.exists() and self.joined.read_text() != digest:
            raise Refused("keys-changed", "another group of this run was joined before")
        # Before the group itself: what is known to be joined is never forgotten.
        write_atomic(self.joined, digest.encode(), 0o600)

    def _member(self) -> Member:
        """Return what it keeps, held against what is approved now; raises Refused."""
        if self.joined is not None and self.joined.exists() and not self.path.exists():
            raise Refused(
                "keys-changed",
                "the run was joined, and its keys were removed (it is over, its approval was taken "
                "back, or its folder cleaned); a run is joined once, so start another",
            )
        member = self._load()
        member.check_group(self._identity(), self._terms, self.approved)
        return member

    @property
    def _terms(self) -> Terms:
        """What it agrees to; the seed is that of the settings, as they were approved."""
        shared, seed = self.shared, self.guardian.scenario.federation.seed
        return Terms(shared.sites, shared.least, shared.honest, shared.groups, seed)

    def _identity(self) -> keys.Key:
        if self.guardian.home is not None:
            return self.guardian.home.key()
        # A run that claims nothing has no home.
        return keys.load_or_generate(self.path.with_suffix(".identity"))

    def _load(self) -> Member:
        if not self.path.exists():
            return Member.new(self.name)
        try:
            return Member.load(self.path.read_bytes())
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self.path}: what the site keeps of its sums is damaged "
                f"({type(error).__name__}); leave this run, as a new key would be refused"
            ) from None

    def _save(self, member: Member) -> None:
        write_atomic(self.path, member.dump(), 0o600)


@contextmanager
def _declined() -> Iterator[None]:
    try:
        yield
    except Refused as refused:
        raise Decline(Code.BAD_INSTRUCTION, str(refused)) from None
