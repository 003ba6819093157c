"""Sites that want to spoil the model, for studies of what a strategy withstands.

They act together and know what the others train in the round, as in the papers. What they send
goes through their own site's codec: valid frames, no longer than the server lets pass uncut. Where
noise is shared it goes under masks, where nothing is cut: no longer than the modulus has room for.
Only one process may hold them all, so they need the engine `serial`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from clients import opening
from fedlite import compression
from fedlite.data import Dataset
from fedlite.messages import site_id
from fedlite.parameters import Kept, Vector
from fedlite.plan import Plan
from fedlite.privacy import Mechanism, SharedMechanism
from fedlite.privacy.noise import Integers
from fedlite.training import Learner, Share
from fedlite.training.bench import Bench

# Standard deviations from the mean (Baruch, Baruch, Goldberg 2019, where MNIST is attacked by 1.5).
_ALIE = 1.5
# How far against the mean: short enough to look honest (Xie, Koyejo, Gupta 2019, epsilon).
_INNER = 0.5
_SUPPORT = 0.01
# Of the length from which the server cuts: what it reads differs a little from what was meant.
_JUST_BELOW = 0.95


@dataclass(frozen=True)
class View:
    """What an attacker knows when he chooses.

    own: float32 [n], what his own site has trained. honest: float32 [k, n], what the others have.
    """

    own: Vector
    honest: NDArray[np.float32]

    @property
    def mean(self) -> Vector:
        """The mean of the honest deltas, float32 [n]."""
        found: Vector = self.honest.mean(axis=0, dtype=np.float64).astype(np.float32)
        return found


@dataclass(frozen=True)
class Attack:
    """What hostile sites send in the place of what they train.

    chooses: from what is known to a delta, float32 [n]. longest: stretch it to the longest that the
    server does not cut. flips: train on records of class c as if of class C - 1 - c.
    """

    what: str
    chooses: Callable[[View], Vector]
    longest: bool = False
    flips: bool = False


def _alie(view: View) -> Vector:
    deviation: Vector = view.honest.std(axis=0)
    return view.mean - np.float32(_ALIE) * deviation


def _support(view: View) -> Vector:
    mean = view.mean
    pushed = np.argsort(-np.abs(mean), kind="stable")[: max(1, round(_SUPPORT * mean.size))]
    delta = np.zeros_like(mean)
    delta[pushed] = -np.sign(mean[pushed])
    return delta


ATTACKS: dict[str, Attack] = {
    "label-flip": Attack(
        "they train honestly on labels C - 1 - c", lambda view: view.own, flips=True
    ),
    "sign-flip": Attack("what they trained, backwards", lambda view: -view.own),
    "long-sign-flip": Attack(
        "the same, as long as is let pass", lambda view: -view.own, longest=True
    ),
    "alie": Attack(f"the mean less {_ALIE} standard deviations in each coordinate", _alie),
    "inner-product": Attack(
        f"the mean backwards, times {_INNER}", lambda view: np.float32(-_INNER) * view.mean
    ),
    "support": Attack(
        f"the same {100 * _SUPPORT:g} % of the coordinates, against the mean, as long as is let "
        "pass",
        _support,
        longest=True,
    ),
    "silence": Attack("zeros", lambda view: np.zeros_like(view.own)),
}


class Coalition:
    """The hostile sites of one run, and what they have seen of the others in its round."""

    def __init__(self, attack: Attack, names: Collection[str]) -> None:
        """Gather the sites called `names`."""
        self.attack = attack
        self._numbers = {site_id(name) for name in names}
        self._round, self._honest = 0, dict[int, Vector]()
        self._lengths: list[float] = []

    def has(self, site: int) -> bool:
        """Whether the site of this number is one of them."""
        return site in self._numbers

    def see(
        self, plan: Plan, delta: Vector, round_number: int, site: int, *, read: bool = True
    ) -> None:
        """Note what an honest site has trained in a round; read: its length is seen as well."""
        if round_number != self._round:
            self._round, self._honest, self._lengths = round_number, {}, []
        self._honest[site] = delta
        if self.attack.longest and read:
            self._lengths.append(read_length(plan, delta, round_number, site))

    def delta(self, plan: Plan, own: Vector, round_number: int, site: int) -> Vector:
        """Return what a hostile site sends, float32 [n].

        Raises RuntimeError when the honest sites of the round have not trained before.
        """
        delta = self._chosen(own, round_number)
        if self.attack.longest and (read := read_length(plan, delta, round_number, site)):
            delta = np.float32(self._longest(plan) / read) * delta
        return delta

    def units(self, own: Integers, round_number: int, mechanism: SharedMechanism) -> Integers:
        """Return what a hostile site adds to a sum, int64 [k], under masks that nobody sees below.

        The longest has its largest value at half of what the modulus has room for, so that honest
        parts do not bring it round to the other side.
        """
        chosen = self._chosen(own.astype(np.float32), round_number).astype(np.float64)
        largest = float(np.abs(chosen).max(initial=0.0))
        if self.attack.longest and largest:
            chosen *= 2.0 ** (mechanism.bits - 2) / largest
        found: Integers = np.rint(chosen).astype(np.int64)
        return found

    def _chosen(self, own: Vector, round_number: int) -> Vector:
        if round_number != self._round or not self._honest:
            raise RuntimeError(
                f"round {round_number}: a hostile site was asked before the honest ones; let the "
                "names of hostile sites be the last, and take the engine serial"
            )
        return self.attack.chooses(View(own, np.stack(list(self._honest.values()))))

    def _longest(self, plan: Plan) -> float:
        """Return the length up to which the server does not cut an update."""
        usual = float(np.median(self._lengths))
        bound = plan.update_norm or plan.scenario.federation.outlier_factor * usual
        return _JUST_BELOW * (bound or 100.0 * usual)


def read_length(plan: Plan, delta: Vector, round_number: int, site: int) -> float:
    """Return how long a delta is where it is read, after a codec that keeps no residual."""
    envelope = compression.Envelope(
        run=bytes(8),
        round=round_number,
        site=site,
        layout=plan.layout.digest,
        base=bytes(8),
        seed=plan.scenario.federation.seed,
    )
    sent = compression.compress(plan.up(round_number), delta, context=envelope.context)
    return float(np.sqrt(np.square(sent.update.values, dtype=np.float64).sum()))


class _Watched(Learner):
    """A site's training, which the coalition sees, or replaces where the site is its own."""

    def __init__(
        self, coalition: Coalition, plan: Plan, train: Dataset, bench: Bench | None = None
    ) -> None:
        super().__init__(plan, train, bench)
        if plan.whole is not None or plan.weak:
            raise ValueError(
                "federation.weak: must be 0 with attackers, and federation.weak_sites empty (rule: "
                "they see updates of one model), got some; leave them out"
            )
        if plan.scenario.uplink.error_feedback or plan.extras:
            raise ValueError(
                "uplink.error_feedback: must be false with attackers, and nothing may travel "
                "behind the model (rule: they must know how long their update is where it is "
                "read), got otherwise; set it to false, and take a plain training.objective"
            )
        if coalition.attack.flips and self.labels.dtype.is_floating_point:
            raise ValueError(
                "task.name: must be classification where labels are flipped, got numbers; take "
                "another attack"
            )
        self._coalition, self._flipped = coalition, False

    def share(
        self,
        received: Vector,
        round_number: int,
        site: int,
        mechanism: Mechanism | None,
        kept: Kept | None = None,
    ) -> Share:
        hostile = self._is_hostile(site)
        own = super().share(received, round_number, site, mechanism, kept)
        if hostile:
            delta = self._coalition.delta(self.plan, own.delta, round_number, site)
            return replace(own, delta=delta)
        self._coalition.see(self.plan, own.delta, round_number, site)
        return own

    def units(
        self, received: Vector, round_number: int, site: int, mechanism: SharedMechanism
    ) -> Integers:
        hostile = self._is_hostile(site)
        own = super().units(received, round_number, site, mechanism)
        if hostile:
            return self._coalition.units(own, round_number, mechanism)
        seen = own.astype(np.float32)
        self._coalition.see(self.plan, seen, round_number, site, read=False)
        return own

    def _is_hostile(self, site: int) -> bool:
        """Whether the site is one of them; its labels are turned then, where that is the attack."""
        hostile = self._coalition.has(site)
        if hostile and self._coalition.attack.flips and not self._flipped:
            self.labels, self._flipped = self.plan.classes - 1 - self.labels, True
        return hostile


@contextmanager
def hostile(attack: Attack, names: Collection[str]) -> Iterator[Coalition]:
    """Let the simulated sites called `names` be hostile in whatever this process runs meanwhile."""
    coalition = Coalition(attack, names)
    with patch.object(opening, "Learner", partial(_Watched, coalition)):
        yield coalition
