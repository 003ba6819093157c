"""From which score on an input may leave early, and what that is known to cost.

Harm is an answer that the deep branch has right and the shallow one, which was given, wrong; gain
is the other way round. What routing costs of the deep branch's accuracy, the loss, is the share of
harm less that of gain. A user states how much he accepts (`alpha`) and how sure he wants to be
(`confidence`), and says of what (`risk`): of harm, which bounds the loss from above and each input
for itself, or of the loss. The threshold follows from records that neither trained the model nor
judge it.

The thresholds of a fixed public grid are tested from the strictest to the loosest, each by a test
of "it is alpha or more", and the testing ends with the first that does not reject: of harm by an
exact binomial one, of the loss by `fedlite.inference.net_loss`. So the chance that the last
rejected one costs more than alpha is at most 1 - confidence, over the draw of the calibration
records. Source: Angelopoulos, Bates, Candes, Jordan and Lei 2021,
"Learn then Test", fixed-sequence testing (section 2.3); Clopper and Pearson 1934 for the test.

What a site tells are counts on that grid, nothing else; counts of several sites add up to those of
their records together.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedlite.inference import net_loss

Integers = NDArray[np.int64]

# Finer near 1, where the scores of a trained model lie. Strictest first.
GRID: NDArray[np.float64] = np.array(
    [1 - at / 10_000 for at in range(1, 10)]
    + [1 - at / 1_000 for at in range(1, 10)]
    + [at / 100 for at in range(99, -1, -1)]
).round(4)
GRID.setflags(write=False)

RISKS = ("harm", "loss")

# How many records of the others weigh as much as a site's own under `shrunk`.
TOWARDS_POOL = 100

PROMISES = {
    "pooled": "holds for inputs drawn as all sites' records together are; at one site, whose "
    "inputs differ from them, more may be lost",
    "site": "holds for inputs of that site, for each site by itself",
    "shrunk": "is no guarantee for a site: it is tested on a mixture of its records and the "
    "others', and is only as good as they are alike",
}


@dataclass(frozen=True)
class Counts:
    """What calibration needs of a site's records: integers alone, by class.

    records: int64 [classes]. harm, shallow, gain: int64 [classes, len(GRID)], how many records are
    harmed, leave early, and gain, where the threshold is that of the grid. The class of a record is
    its label; where labels are not used it is the deep answer, and nothing gains.
    """

    records: Integers
    harm: Integers
    shallow: Integers
    gain: Integers

    @property
    def total(self) -> int:
        """How many records were counted."""
        return int(self.records.sum())


def count(
    scores: NDArray[np.float64],
    shallow: Integers,
    deep: Integers,
    classes: int,
    truth: Integers | None = None,
) -> Counts:
    """Return the counts of n records.

    scores: in [0, 1], [n]. shallow, deep: the classes that the branches answer, [n]. truth: the
    right ones; without them every answer in which the branches differ counts as harm, which bounds
    the other from above.

    >>> zeros = np.zeros(2, int)
    >>> found = count(np.array([0.95, 0.5]), np.array([0, 1]), zeros, 2, zeros)
    >>> found.total, found.harm.sum(axis=0)[[0, -1]].tolist(), found.shallow[:, -1].tolist()
    (2, [0, 1], [2, 0])
    """
    of = deep if truth is None else truth
    harmed = shallow != deep if truth is None else (deep == truth) & (shallow != truth)
    gained = np.zeros(len(of), np.bool_) if truth is None else (deep != truth) & (shallow == truth)
    # The strictest threshold that a score reaches; looser ones it reaches, too.
    place = np.searchsorted(-GRID, -scores, side="left")
    return Counts(
        np.bincount(of, minlength=classes).astype(np.int64),
        _reached(place[harmed], of[harmed], classes),
        _reached(place, of, classes),
        _reached(place[gained], of[gained], classes),
    )


def _reached(place: Integers, of: Integers, classes: int) -> Integers:
    flat = np.bincount(of * len(GRID) + place, minlength=classes * len(GRID))
    found: Integers = flat.reshape(classes, len(GRID)).cumsum(axis=1).astype(np.int64)
    return found


def pooled(parts: Iterable[Counts]) -> Counts:
    """Return the counts of several sites' records together; there must be one at least."""
    every = list(parts)
    return Counts(
        np.sum([part.records for part in every], axis=0),
        np.sum([part.harm for part in every], axis=0),
        np.sum([part.shallow for part in every], axis=0),
        np.sum([part.gain for part in every], axis=0),
    )


def p_value(harm: float, records: float, alpha: float) -> float:
    """Return the chance of so few harmed among the records, if the share of harm were alpha.

    It is `P(Bin(records, alpha) <= harm)`; between whole numbers the incomplete beta function that
    it is goes on.

    >>> round(p_value(0, 299, 0.01), 4), p_value(0, 0, 0.01)
    (0.0495, 1.0)
    """
    from scipy.special import betainc

    if harm >= records:
        return 1.0
    return float(betainc(records - harm, harm + 1, 1 - alpha))


def least(alpha: float, confidence: float, risk: str = "harm") -> int:
    """Return how many records any guarantee needs: with fewer not even no harm at all is enough.

    >>> least(0.01, 0.95), least(0.05, 0.95), least(0.01, 0.95, "loss")
    (299, 59, 417)
    """
    if risk == "loss":
        return net_loss.least(alpha, 1 - confidence)
    # Of an alpha near the smallest number there is, it would be infinity.
    wanted = min(math.log(1 - confidence) / math.log1p(-alpha), sys.float_info.max)
    return max(1, math.ceil(wanted))


@dataclass(frozen=True)
class Choice:
    """A threshold, and what it was chosen by.

    threshold: an input whose score is at least that leaves early; None: none does, all go deep.
    records, harm, shallow: how many were counted, and of these at the threshold; whole numbers, but
    for `shrunk`, whose counts are weighed. missing: how many records more would be needed before
    any threshold can be chosen. gain: how many gain at the threshold, where a loss is promised.
    """

    threshold: float | None
    records: float
    harm: float
    shallow: float
    missing: int
    gain: float = field(default=0, kw_only=True)


def choose(counts: Counts, alpha: float, confidence: float, risk: str = "harm") -> Choice:
    """Return the loosest threshold that a site's counts, or those of all, allow.

    alpha: the share of harm, or the loss, that is accepted, above 0 and below 1. confidence: above
    0, below 1. risk: a name in RISKS.

    >>> perfect = count(np.full(300, 0.7), np.zeros(300, int), np.zeros(300, int), 2)
    >>> choose(perfect, 0.01, 0.95).threshold, choose(perfect, 0.005, 0.95)
    (0.0, Choice(threshold=None, records=300, harm=0, shallow=0, missing=298, gain=0))
    """
    harm, shallow, gain = (of.sum(axis=0) for of in (counts.harm, counts.shallow, counts.gain))
    total = counts.total

    def kept(at: int) -> bool:
        return net_loss.keeps(int(harm[at]), int(gain[at]), total, alpha, 1 - confidence)

    def safe(at: int) -> bool:
        return _harms_less(float(harm[at]), total, alpha, confidence)

    at = _last(kept if risk == "loss" else safe)
    missing = max(0, least(alpha, confidence, risk) - total)
    if at is None:
        return Choice(None, counts.total, 0, 0, missing)
    gained = int(gain[at]) if risk == "loss" else 0
    return Choice(float(GRID[at]), total, int(harm[at]), int(shallow[at]), missing, gain=gained)


def choose_shrunk(own: Counts, others: Counts, alpha: float, confidence: float) -> Choice:
    """Return a site's threshold where its own harm is drawn towards that of the others.

    The harm that is tested is `w h_own + (1 - w) h_others` with `w = n / (n + TOWARDS_POOL)`, on
    as many records as its variance is worth, `1 / (w^2 / n + (1 - w)^2 / N)` (Kish 1965). With many
    records of its own this is the site's own test, with none it is the others'.

    **A heuristic.** What is bounded, and that about, is the harm on the mixture. The site's own may
    be above alpha whenever the others' is below the site's, and no number of the others' records
    mends that. The idea is that of arXiv 2606.20115 (2026).
    """
    n, rest = own.total, others.total
    if not n or not rest:
        return choose(own if n else others, alpha, confidence)
    weight = n / (n + TOWARDS_POOL)
    worth = 1 / (weight**2 / n + (1 - weight) ** 2 / rest)

    def mixed(mine: Integers, theirs: Integers) -> NDArray[np.float64]:
        found: NDArray[np.float64] = worth * (weight * mine / n + (1 - weight) * theirs / rest)
        return found

    harm = mixed(own.harm.sum(axis=0), others.harm.sum(axis=0))
    at = _last(lambda at: _harms_less(float(harm[at]), worth, alpha, confidence))
    missing = max(0, math.ceil(least(alpha, confidence) - worth))
    if at is None:
        return Choice(None, worth, 0, 0, missing)
    shallow = mixed(own.shallow.sum(axis=0), others.shallow.sum(axis=0))
    return Choice(float(GRID[at]), worth, float(harm[at]), float(shallow[at]), missing)


def by_site(
    counts: Mapping[str, Counts], kind: str, alpha: float, confidence: float, risk: str = "harm"
) -> dict[str, Choice]:
    """Return the threshold of each site; `kind` is a name in PROMISES, `risk` one in RISKS.

    Raises ValueError when no site has told anything, and for a loss under `shrunk`: the test of a
    loss is of whole records.
    """
    if kind == "shrunk" and risk != "harm":
        raise ValueError(f"risk: must be harm where kind is shrunk, got {risk!r}")
    if not counts:
        raise ValueError("counts: must be those of one site at least, got none")
    whole = pooled(counts.values())
    if kind == "pooled":
        return dict.fromkeys(counts, choose(whole, alpha, confidence, risk))
    if kind == "site":
        return {name: choose(own, alpha, confidence, risk) for name, own in counts.items()}
    return {
        name: choose_shrunk(own, _less(whole, own), alpha, confidence)
        for name, own in counts.items()
    }


def _less(whole: Counts, own: Counts) -> Counts:
    names = ("records", "harm", "shallow", "gain")
    return Counts(*(getattr(whole, name) - getattr(own, name) for name in names))


def _harms_less(harm: float, records: float, alpha: float, confidence: float) -> bool:
    chance = p_value(harm, records, alpha)
    # What is certain rejects nothing, though 1 - confidence may be rounded to 1.
    return chance <= 1 - confidence and chance < 1


def _last(safe: Callable[[int], bool]) -> int | None:
    """Return the place in the grid of the last threshold before the first that is not safe."""
    found = None
    for at in range(len(GRID)):
        if not safe(at):
            break
        found = at
    return found
