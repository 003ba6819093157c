"""Which version of a model answers: the one in use, a candidate, or either all deep.

What runs here runs in the one thread that computes; what is asked from elsewhere takes the lock.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.inference.bundle import Answers, Bundle
from fedlite.inference.serving.pairs import Pairs
from fedlite.inference.serving.refused import Refused
from fedlite.inference.watching import TooOften, Worse

# Digits of the SHA-256 of a bundle's manifest that make a version.
_DIGITS = 12


@dataclass
class Version:
    """A bundle in use. drift: None where the bundle promises nothing that could be watched.

    requests, rows, early: that it has answered. deep: whether all go deep until a reset.
    """

    bundle: Bundle
    name: str
    drift: TooOften | None
    deep: bool = False
    requests: int = 0
    rows: int = 0
    early: int = 0

    @classmethod
    def of(cls, bundle: Bundle, delta: float, limit: float | None = None) -> Version:
        """Return a loaded bundle as a version; see `watched` for `limit`."""
        found = watched(bundle) if limit is None else limit
        drift = None if found is None or bundle.threshold is None else TooOften(found, delta)
        return cls(bundle, bundle.sha256[:_DIGITS], drift)


def watched(bundle: Bundle) -> float | None:
    """Return the share of inputs that a bundle says may be harmed; None where it says none."""
    told = bundle.told.get("calibrated")
    alpha = told.get("alpha") if isinstance(told, dict) else None
    good = isinstance(alpha, float) and 0 < alpha < 1
    return alpha if good else None


@dataclass(frozen=True)
class Mix:
    """How a candidate takes part, and when it is withdrawn.

    share: of requests that it answers. shadow: it answers none, and every one for itself. delta:
    the chance of withdrawing one that is as good. tolerance: the share of inputs that it may answer
    otherwise; None: any. watch: the share of inputs of which it is looked whether they should have
    gone deep. alarm: the chance of an alarm that is false.
    """

    share: float = 0.0
    shadow: bool = False
    delta: float = 0.02
    tolerance: float | None = None
    watch: float = 0.01
    alarm: float = 0.01

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be."""
        for name, low in (("share", 0), ("watch", 0)):
            if not low <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"--{name}: must be from 0 to 1, got {value}")
        for name in ("delta", "alarm", "tolerance"):
            given = getattr(self, name)
            if given is not None and not 0 < given < 1:
                raise ValueError(f"--{name}: must be above 0 and below 1, got {given}")
        if self.shadow and self.share:
            raise ValueError(
                f"--share: must be left out with --shadow, got {self.share}; a shadow answers none"
            )


@dataclass(eq=False)
class Work:
    """One request on its way. whose: the client's name, with the request's id.

    named: whether it asks for this version. fell: whether a candidate had no answer, and the
    version in use answers instead.
    """

    inputs: NDArray[np.float32]
    version: Version
    whose: tuple[str, str]
    named: bool = False
    fell: bool = False


class Versions:
    """The version in use and a candidate, both watched.

    tell: called in the computing thread with what happened and its figures.
    """

    def __init__(
        self,
        current: Version,
        candidate: Version | None,
        mix: Mix,
        tell: Callable[[str, dict[str, Any]], None],
    ) -> None:
        """Raise ValueError for a candidate that cannot stand in for the version in use."""
        if candidate is not None:
            _fits(current, candidate)
        self.current, self.candidate, self.mix = current, candidate, mix
        self.worse = Worse(mix.delta)
        self.apart = None if mix.tolerance is None else TooOften(mix.tolerance, mix.delta)
        self.compared = self.differed = self.failed = 0
        self.pairs = Pairs()
        self._tell = tell
        # From the operating system: whoever asks must not foresee what is looked at.
        self._random = random.SystemRandom()
        self.lock = threading.RLock()

    def all(self) -> tuple[Version, ...]:
        """Return the versions that there are."""
        return (self.current,) if self.candidate is None else (self.current, self.candidate)

    def choose(self, wanted: str) -> Version:
        """Return the version that answers a request; `wanted`: by its name, or empty.

        Raises Refused for an unknown one.
        """
        candidate = self.candidate
        if not wanted:
            if candidate is not None and self._random.random() < self.mix.share:
                return candidate
            return self.current
        for one in self.all():
            if one.name == wanted:
                return one
        known = ", ".join(one.name for one in self.all())
        raise Refused("NOT_FOUND", f"model_version: must be empty or {known}, got {wanted!r:.80}")

    def run(self, works: Sequence[Work]) -> list[Answers | Refused]:
        """Return the answers to requests, in their order; one that has none gets a Refused."""
        found: dict[int, Answers | Refused] = {}
        for version in {id(work.version): work.version for work in works}.values():
            mine = [work for work in works if work.version is version]
            found |= zip(map(id, mine), _answered(version, mine), strict=True)
        for work in works:
            answers = found[id(work)]
            by_chance = not work.named and work.version is not self.current
            if by_chance and not isinstance(answers, Answers):
                # Nobody has asked for the candidate, so nobody is refused because of it.
                work.version, work.fell = self.current, True
                (found[id(work)],) = _answered(self.current, [work])
        with self.lock:
            for work in works:
                answers = found[id(work)]
                if isinstance(answers, Answers):
                    self._count(work, answers)
        return [found[id(work)] for work in works]

    def _count(self, work: Work, answers: Answers) -> None:
        work.version.requests += 1
        work.version.rows += len(answers)
        work.version.early += int(answers.early.sum())
        if self.candidate is not None:
            self.pairs.answered(work.whose, work.version is self.candidate, answers.classes)

    def look(self, works: Sequence[Work], results: Sequence[Any]) -> None:
        """Look after requests that were answered: whether they went right, and the candidate."""
        done = [(w, r) for w, r in zip(works, results, strict=True) if isinstance(r, Answers)]
        for version in {id(work.version): work.version for work, _ in done}.values():
            self._watch(version, [work for work, _ in done if work.version is version])
        if self.candidate is not None:
            for work, answers in done:
                if work.version is self.candidate or work.fell or self.mix.shadow:
                    self._compare(work, answers.classes)

    def _watch(self, version: Version, works: Sequence[Work]) -> None:
        """Take a share of all inputs: of those that left early, the deep answer is asked for."""
        if version.drift is None or not self.mix.watch:
            return
        # Rows of one request may be alike, so each request is a bet of its own, on its mean.
        for work in works:
            draws = [self._random.random() < self.mix.watch for _ in range(len(work.inputs))]
            if any(draws):
                self._looked(version, work.inputs[draws])

    def _looked(self, version: Version, chosen: NDArray[np.float32]) -> None:
        harmed = sum(_differs(version.bundle, chosen[at : at + 1]) for at in range(len(chosen)))
        with self.lock:
            if version.drift is None:
                return
            before = version.drift.fired
            if version.drift.see(len(chosen), harmed) and not before:
                version.deep = True
                drift = version.drift
                told: dict[str, Any] = {"seen": drift.seen, "differed": drift.happened}
                told |= {"limit": drift.limit, "delta": drift.delta}
                self._tell("alarm", {"version": version.name, **told})

    def _compare(self, work: Work, classes: NDArray[np.int64]) -> None:
        """Let the version that did not answer a request answer it, too."""
        candidate = self.candidate
        if candidate is None:
            return
        other = self.current if work.version is candidate else candidate
        (found,) = _answered(other, [work])
        answered = found.classes if isinstance(found, Answers) else None
        with self.lock:
            if answered is None:
                self.failed += 1
                if other is not candidate:
                    return
                # No answer of the candidate differs from any that there is, and is nowhere right.
                answered = np.full(len(classes), -1, np.int64)
            differed = int((answered != classes).sum())
            self.compared += len(classes)
            self.differed += differed
            if self.apart is not None and self.apart.see(len(classes), differed):
                told = {"compared": self.compared, "differed": self.differed}
                self.withdraw("answers otherwise too often", told | {"tolerance": self.apart.limit})
                return
            self._score(self.pairs.answered(work.whose, other is candidate, answered))

    def feedback(self, whose: tuple[str, str], labels: Sequence[str]) -> int:
        """Take the right labels of an answered request, a label a row; return of how many rows.

        Raises Refused where there is no such request, or labels that are no labels.
        """
        with self.lock:
            known = {label: at for at, label in enumerate(self.current.bundle.labels)}
            unknown = [label for label in labels if label not in known]
            if unknown:
                told = f"labels: must be among the model's, got {unknown[0]!r:.80}"
                raise Refused("INVALID_ARGUMENT", told)
            if self.candidate is None:
                text = "feedback: is taken while there is a candidate, and there is none now"
                raise Refused("FAILED_PRECONDITION", text)
            truth = np.array([known[label] for label in labels], np.int64)
            self._score(self.pairs.labelled(whose, truth))
            return len(labels)

    def _score(self, pair: tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None) -> None:
        """Take a request that both versions have answered and whose labels are known."""
        if pair is None or self.candidate is None:
            return
        current, candidate, truth = pair
        was, new = current == truth, candidate == truth
        won, lost = int((new & ~was).sum()), int((was & ~new).sum())
        if self.worse.see(won=won, lost=lost, ties=len(truth) - won - lost):
            told = {"pairs": self.worse.pairs, "won": self.worse.won, "lost": self.worse.lost}
            self.withdraw("is worse", told | {"delta": self.worse.delta})

    def withdraw(self, why: str, told: dict[str, Any]) -> None:
        """End the candidate's part; requests that it has taken are still answered by it."""
        with self.lock:
            gone, self.candidate = self.candidate, None
            if gone is not None:
                self.pairs = Pairs()
                self._tell("withdraw", {"version": gone.name, "why": why, **told})

    def reset(self) -> list[str]:
        """Begin the watch of drift anew, and return which versions may answer early again."""
        with self.lock:
            found = [one.name for one in self.all() if one.deep]
            for one in self.all():
                if one.drift is not None:
                    one.drift = TooOften(one.drift.limit, one.drift.delta)
                one.deep = False
            return found


def _differs(bundle: Bundle, one: NDArray[np.float32]) -> bool:
    """Return whether the early answer to an input [1, *shape] is another than the deep one."""
    found = bundle.answer(one)
    if not found.early[0]:
        return False
    try:
        return bool(bundle.answer(one, deep=True).classes[0] != found.classes[0])
    except ValueError:
        # No deep answer at all: whoever leaves early with it must not escape the watch.
        return True


def _answered(version: Version, works: Sequence[Work]) -> list[Answers | Refused]:
    """Return the answers of one version; a request that has none spoils no other's."""
    inputs = [work.inputs for work in works]
    try:
        whole = version.bundle.answer(np.concatenate(inputs), deep=version.deep)
    except ValueError as error:
        if len(works) > 1:
            return [one for work in works for one in _answered(version, [work])]
        return [Refused("INVALID_ARGUMENT", str(error))]
    found: list[Answers | Refused] = []
    at = 0
    for one in inputs:
        part = slice(at, at + len(one))
        found.append(
            Answers(whole.names, whole.shares[part], whole.early[part], whole.scores[part])
        )
        at += len(one)
    return found


def _fits(current: Version, candidate: Version) -> None:
    for name, one, other in (
        ("labels", current.bundle.labels, candidate.bundle.labels),
        ("shape", current.bundle.shape, candidate.bundle.shape),
        (
            "preparation of inputs",
            current.bundle.told["preprocessing"],
            candidate.bundle.told["preprocessing"],
        ),
    ):
        if one != other:
            raise ValueError(
                f"--candidate {candidate.bundle.directory}: must have the same {name} as "
                f"{current.bundle.directory}, as either may answer; serve it by itself"
            )
    if candidate.name == current.name:
        raise ValueError(
            f"--candidate {candidate.bundle.directory}: must be another bundle than the one that "
            "is served; leave it out"
        )
