"""A site's part in the secure sums of one run, in its own process and out of approved code's reach.

Approved code hands over its noised numbers; here they are masked by keys that it never sees, and
only what is masked is written down and leaves. Who the other members are was approved with the
bundle: another group is refused before anything is spent.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from clients.sums import Sums
from fedlite.compression.frame import HEADER_BYTES, disclosed_records, round_and_codec, with_body
from fedlite.guard import egress
from fedlite.guard.guardian import Decline, Guardian
from fedlite.messages import Code, Instruction
from fedlite.privacy import SharedMechanism
from fedlite.secure import masks
from fedlite.secure.messages import SUMMED, Note, Step
from fedlite.secure.rules import Refused

# Below a seat: BUNDLE/RUN.json holds the keys of a run's sums, RUN.joined what was joined.
FOLDER = "sums"


@dataclass(frozen=True)
class Masking:
    """What masks one run's vectors. run: its 8 bytes."""

    run: bytes
    sums: Sums

    @classmethod
    def of(cls, guard: Guardian, seat: Path, run: str, bundle: str) -> Masking | None:
        """Return who masks what the run with these 16 hex digits sends; None where nobody does.

        bundle: SHA-256 of what was approved, hex. The coordinator says which run it is, so keys are
        those of a run of this bundle alone.
        """
        if not isinstance(guard.mechanism, SharedMechanism):
            return None
        folder, members = seat / FOLDER, guard.scenario.members
        path, joined = folder / bundle / f"{run}.json", folder / f"{run}.joined"
        sums = Sums(guard.mechanism, guard.site, path, guard, members, joined)
        return cls(bytes.fromhex(run), sums)

    @property
    def group(self) -> dict[str, str]:
        """The members that were approved, and their keys; no other group is joined."""
        return dict(self.sums.approved or {})

    def step(self, blob: bytes) -> Note:
        """Answer a step of a sum; raises Decline where it breaks a rule or the policy."""
        if not self.sums.guardian.policy().allows(self.sums.guardian.unit):
            raise Decline(Code.POLICY, f"site.toml: budget.units lacks {self.sums.guardian.unit!r}")
        try:
            note = Note.decode(blob)
        except Refused as refused:
            raise Decline(Code.BAD_INSTRUCTION, str(refused)) from None
        if note.step is Step.CARD and note.body != self.run:
            # A card is a signature: one for another run would let this run's key into that.
            raise Decline(Code.BAD_INSTRUCTION, "other-round: a card is asked for of another run")
        for folder in (self.sums.path.parent.parent, self.sums.path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.sums.step(note)

    def known(self, asked: Instruction) -> bytes:
        """Return what was masked for this round before, or nothing; raises Decline if none may be.

        Asked before a round is reserved, so that nothing is spent on what may not be masked.
        """
        return self.sums.check(asked.run, asked.round, asked.model)

    def masked(self, asked: Instruction, frame: bytes) -> bytes:
        """Return the frame with its numbers under masks; the same for the same round.

        Raises egress.NotAllowed when it is no frame of so many numbers: nothing of it leaves.
        """
        mechanism = self.sums.shared
        count, bits = mechanism.coordinates, mechanism.bits
        try:
            number, codec = round_and_codec(frame)
            if (number, codec, disclosed_records(frame)) != (asked.round, SUMMED, 0):
                raise ValueError(f"frame must be of round {asked.round} and codec {SUMMED}")
            values = masks.unpack(frame[HEADER_BYTES:], count, bits)
        except ValueError as error:
            raise egress.NotAllowed(f"sum: {error}") from None
        return with_body(frame, self.sums.mask(asked.round, asked.model, values, bits))

    def forget(self) -> None:
        """Remove the keys of a run that is over; that it was joined stays known."""
        self.sums.forget()


def remove_keys(seat: Path, bundle: str) -> None:
    """Remove the keys of all runs of a bundle that may not run any more."""
    if (folder := seat / FOLDER / bundle).is_dir():
        shutil.rmtree(folder)
