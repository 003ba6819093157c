"""The server of a secure sum: it collects a round's masked vectors and takes the masks off the sum.

It is not trusted with anything: a server that departs from these steps learns no more than the sum
over members on one list, of which at least `least` have signed (`fedlite.secure.member`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from math import comb

import numpy as np

from fedlite.identity import keys
from fedlite.secure import masks, shamir
from fedlite.secure.group import Group
from fedlite.secure.masks import Words
from fedlite.secure.member import CHECK_BYTES, body_bytes, check_of
from fedlite.secure.messages import (
    SIGNATURE_BYTES,
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

log = logging.getLogger("fedlite.server")

# What is asked of whom, by name, and what those answered that did; each note has its own step.
Questions = Mapping[str, bytes]
Answers = Mapping[str, bytes]
# Asks members, and returns the answers that came before it was too late.
Exchange = Callable[[Questions], Answers]
# Whose vectors are summed, and their sum.
Found = tuple[list[str], Words]
# Where shares can be chosen in more ways, not all of them are tried.
_MOST_CHOICES = 500


@dataclass(frozen=True)
class _Masked:
    """One member's vector, what its secret is known by, and its sealed shares by holder."""

    check: bytes
    sealed: Mapping[int, bytes]
    values: Words


@dataclass
class Collector:
    """One round: count values of `bits` bits for a model, from the members of a group.

    dropped: by name, for whom the round went on without, the rule. false: who told what does not
    fit: a signature, a secret or a share. forged: those of them whose own signature or secret it
    was; a share may also be false because it was dealt so.
    """

    group: Group
    round: int
    model: bytes
    count: int
    bits: int
    dropped: dict[str, str] = field(default_factory=dict)
    false: set[str] = field(default_factory=set)
    forged: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Begin without any vector."""
        self._context = context_of(self.group.digest, self.round, self.model)
        self._masked: dict[int, _Masked] = {}
        self._seeds: dict[tuple[int, int], bytes] = {}

    @property
    def body_bytes(self) -> int:
        """The length of a masked vector's body, known beforehand."""
        return body_bytes(len(self.group.cards), self.group.least, self.count, self.bits)

    def add(self, name: str, body: bytes) -> None:
        """Take a member's masked vector; raises Refused "not-a-member", "form" or "one-sum"."""
        me = self._place(name)
        if len(body) != self.body_bytes:
            raise Refused("form", f"{self.body_bytes} bytes are expected, got {len(body)}")
        if me in self._masked:
            raise Refused("one-sum", f"{name} has sent a vector for this round already")
        size = len(self.group.cards)
        holders = [h for h in range(size) if h != me and not derives(self.group, me, h)]
        end = CHECK_BYTES + len(holders) * shamir.BYTES
        sealed = pieces(body[CHECK_BYTES:end], shamir.BYTES, len(holders))
        values = masks.unpack(body[end:], self.count, self.bits)
        shares = dict(zip(holders, sealed, strict=True))
        self._masked[me] = _Masked(body[:CHECK_BYTES], shares, values)

    def finish(self, exchange: Exchange) -> Found:
        """Go through the steps; return whose vectors are summed, and the sum, uint32 [count].

        Raises Refused "too-few" when fewer than `least` are left in any step: nothing is known then
        but masked vectors.
        """
        found, failed = finish_all([self], exchange)
        if failed:
            raise failed[0]
        return found[0]

    def steps(self) -> Generator[Questions, Answers, Found]:
        """Do what `finish` does, but yield what is to be asked, and be sent the answers.

        Answers of members that were not asked are left out.
        """
        left = yield from self._settle()
        flags = to_flags(left, len(self.group.cards))
        signed = yield from self._signatures(left, flags)
        proof = b"".join(bytes([member]) + signature for member, signature in signed.items())
        secrets: dict[int, bytes] = {}
        opened = yield from self._ask(Step.OPEN, left, proof, shamir.BYTES)
        for member, body in opened.items():
            if check_of(body, self._context) == self._masked[member].check:
                secrets[member] = body
            else:
                self._tell_false(member, own=True)
        silent = [member for member in left if member not in secrets]
        if silent:
            secrets |= yield from self._recover(silent, [m for m in left if m in secrets])
        return [self.group.names[m] for m in left], self._unmasked(left, secrets)

    def _settle(self) -> Generator[Questions, Answers, list[int]]:
        """Return who is left once all of them have told the seeds shared with those who are not."""
        left, size = sorted(self._masked), len(self.group.cards)
        while True:
            self._check_enough(left)
            gone = [member for member in range(size) if member not in left]
            if not gone:
                return left
            flags, wanted = to_flags(left, size), masks.SEED_BYTES * len(gone)
            told = yield from self._ask(Step.SEEDS, left, flags, wanted)
            for member, body in told.items():
                seeds = pieces(body, masks.SEED_BYTES, len(gone))
                self._seeds |= {(member, out): seed for out, seed in zip(gone, seeds, strict=True)}
            if [*told] == left:
                return left
            left = [*told]

    def _signatures(
        self, left: list[int], flags: bytes
    ) -> Generator[Questions, Answers, dict[int, bytes]]:
        found, text = {}, signed_list(self._context, flags)
        told = yield from self._ask(Step.SIGN, left, flags, SIGNATURE_BYTES)
        for member, body in told.items():
            if keys.verify(self.group.cards[member].fingerprint, body.hex(), text):
                found[member] = body
            else:
                self._tell_false(member, own=True)
        self._check_enough(found)
        return found

    def _recover(
        self, silent: list[int], holders: list[int]
    ) -> Generator[Questions, Answers, dict[int, bytes]]:
        """Return the secrets of members that have not opened theirs, from the others' shares."""
        self._check_enough(holders)
        flags = to_flags(silent, len(self.group.cards))
        bodies = {}
        for holder in holders:
            none = bytes(shamir.BYTES)
            sealed = (self._masked[member].sealed.get(holder, none) for member in silent)
            bodies[holder] = flags + b"".join(sealed)
        points: dict[int, dict[int, int]] = {member: {} for member in silent}
        wanted = shamir.BYTES * len(silent)
        told = yield from self._ask(Step.SHARES, holders, bodies, wanted)
        for holder, body in told.items():
            for member, share in zip(silent, pieces(body, shamir.BYTES, len(silent)), strict=True):
                points[member][holder + 1] = shamir.number(share)
        return {member: self._together(member, points[member]) for member in silent}

    def _together(self, member: int, points: dict[int, int]) -> bytes:
        """Return the secret that fits a member's check; who told another share is named."""
        self._check_enough(points)
        doubted = {self._place(name) + 1 for name in self.false}
        for polynomial in _candidates(points, self.group.least, doubted):
            secret = shamir.share(shamir.value(polynomial, 0))
            if check_of(secret, self._context) == self._masked[member].check:
                for place, told in points.items():
                    if shamir.value(polynomial, place) != told:
                        self._tell_false(place - 1)
                return secret
        raise Refused(
            "false-share",
            f"no {self.group.least} of the shares told fit the secret of "
            f"{self.group.names[member]}: too many are false, or its own check is",
        )

    def _unmasked(self, left: list[int], secrets: Mapping[int, bytes]) -> Words:
        total = np.zeros(self.count, np.uint32)
        for member in left:
            seed = masks.own_seed(secrets[member], self._context)
            total += self._masked[member].values
            total -= masks.stream(seed, self.count, self.bits)
            for (told, out), pair in self._seeds.items():
                if told == member and out not in left:
                    mask = masks.stream(pair, self.count, self.bits)
                    total = total - mask if member < out else total + mask
        return total & np.uint32(2**self.bits - 1)

    def _ask(
        self,
        step: Step,
        members: list[int],
        body: bytes | Mapping[int, bytes],
        wanted: int,
    ) -> Generator[Questions, Answers, dict[int, bytes]]:
        """Ask members for a step; return what those answered whose answers have the right form."""
        binding, names = binding_of(self._context), self.group.names
        asked = {
            names[m]: Note(
                step, self.round, binding, body if isinstance(body, bytes) else body[m]
            ).encode()
            for m in members
        }
        answers = yield asked
        found: dict[int, bytes] = {}
        for member in members:
            blob = answers.get(names[member])
            if blob is None:
                self.dropped[names[member]] = step.name.lower()
                continue
            try:
                note = Note.decode(blob)
                if (note.step, note.round, note.binding) != (step, self.round, binding):
                    raise Refused("other-round", "the answer is to another question")
                pieces(note.body, wanted, 1)
            except Refused as refused:
                log.warning("%s: %s", names[member], refused)
                self.dropped[names[member]] = refused.rule
                continue
            found[member] = note.body
        return found

    def _tell_false(self, member: int, *, own: bool = False) -> None:
        name = self.group.names[member]
        log.warning("%s: false-share: what it told does not fit; the others' are used", name)
        self.false.add(name)
        if own:
            self.forged.add(name)

    def _check_enough(self, members: Iterable[int]) -> None:
        found = len(list(members))
        if found < self.group.least:
            raise Refused("too-few", f"{self.group.least} members are needed, {found} are left")

    def _place(self, name: str) -> int:
        if name not in self.group.names:
            raise Refused("not-a-member", f"{name!r} is not in the group of this run")
        return self.group.names.index(name)


def finish_all(
    collectors: Sequence[Collector], exchange: Exchange
) -> tuple[list[Found], list[Refused]]:
    """Go through the steps of several groups' sums side by side: return all that were found.

    Members of all groups are asked in one exchange, for whatever step theirs has come to, so that
    one who is silent is waited for once, by all. A group that fails, as `Collector.finish` would,
    has no part in what is returned, but its error, and holds up no other.
    """
    found: list[Found] = []
    failed: list[Refused] = []
    going = [one.steps() for one in collectors]
    answers: Answers | None = None
    while going:
        asked: dict[str, bytes] = {}
        for steps in tuple(going):
            try:
                # The first time nothing is sent, as a generator wants it.
                asked |= next(steps) if answers is None else steps.send(answers)
            except StopIteration as ended:
                found.append(ended.value)
                going.remove(steps)
            except Refused as refused:
                failed.append(refused)
                going.remove(steps)
        if going:
            answers = exchange(asked)
    return found, failed


def _candidates(
    points: dict[int, int], least: int, doubted: Collection[int]
) -> Iterator[list[int]]:
    """Yield polynomials of which one may be the true one: by the member's check its secret says so.

    doubted: places of those who have lied before, who are left out at first. The next is right
    whichever (points - least) / 2 are false. The check allows for more: then those of windows,
    which miss any one liar and liars side by side, and in a small group those of all choices.
    """
    trusted = {place: told for place, told in points.items() if place not in doubted}
    for some in (trusted, points):
        if len(some) >= least and (found := shamir.corrected(some, least)) is not None:
            yield found
    places = list(points)
    turned = [places[start:] + places[:start] for start in range(len(places))]
    choices: list[Iterable[Sequence[int]]] = [(some[:least] for some in turned)]
    if comb(len(places), least) <= _MOST_CHOICES:
        choices.append(combinations(places, least))
    for chosen in chain(*choices):
        through = shamir.corrected({place: points[place] for place in chosen}, least)
        if through is not None:
            yield through
