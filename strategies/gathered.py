"""Rules that need every update of a round: kept as they were decoded, then combined."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fedlite.compression import Decoded
from fedlite.parameters import Vector
from fedlite.scenario import Federation, Link
from strategies.base import Mean, weighted_mean
from strategies.fedavg import FedAvg

Values = NDArray[np.float32]

# Values that are dense at once, of all updates together: 16 MB as float32.
_BLOCK = 2**22


class TooFew(ValueError):
    """A round could count with fewer updates than its rule needs.

    least: so many it needs, strategy: its name, rule: why, in words.
    """

    def __init__(self, text: str, least: int, strategy: str, rule: str) -> None:
        """Keep all four as `args`, with which it comes back from another process."""
        super().__init__(text, least, strategy, rule)
        self.least, self.strategy, self.rule = least, strategy, rule

    def __str__(self) -> str:
        """The text alone."""
        return str(self.args[0])


class Gathered(FedAvg):
    """A rule that looks at all updates of a round at once; one method, `combine`, makes it.

    What `combine` returns takes the place of the mean: server momentum and server learning rate
    are FedAvg's. Every site counts the same, whatever it says of its records.

    Memory: every update of a round, as it was decoded, 4 bytes a coordinate: of all of them where
    it came dense or rotated, of those that were sent (and 4 or 8 more for the index) where sparse.

    Privacy: with noise at the sites each update is a release by itself, and what is made of them
    costs no more (post-processing). Where the server adds the noise such a rule is refused.

    >>> class Middle(Gathered):
    ...     "The update that is neither the shortest nor the longest."
    ...     def combine(self, updates):
    ...         return sorted((u.dense() for u in updates), key=np.linalg.norm)[len(updates) // 2]
    >>> rule = Middle(Federation())
    >>> rule.start(1)
    >>> for value in (1.0, 900.0, 2.0):
    ...     rule.add(Decoded(1, None, np.array([value], np.float32)), 0)
    >>> rule.combined()
    array([2.], dtype=float32)
    """

    by_portion = False

    def __init__(
        self,
        federation: Federation,
        mean: Mean = weighted_mean,
        *,
        least: int = 1,
        rule: str = "",
    ) -> None:
        """Keep the settings. least: updates without which the rule, told in words, has no meaning.

        Raises TooFew where a round could count with fewer, ValueError where sites weigh by records.
        """
        super().__init__(federation, mean)
        self.least = least
        self._updates: list[Decoded] = []
        if federation.weighting != "uniform":
            raise ValueError(
                f"federation.weighting: must be uniform with {federation.strategy} (rule: a robust "
                "rule counts every site once, as what a site says of its records is a lever of its "
                f"own), got {federation.weighting!r}; leave it out"
            )
        if federation.quorum < least:
            more = "" if federation.participants >= least else ", with more sites asked in a round"
            text = (
                f"federation.quorum: must be at least {least} with {federation.strategy} (rule: "
                f"{rule}), got {federation.quorum}; raise it{more}"
            )
            raise TooFew(text, least, federation.strategy, rule)

    def start(self, size: int) -> None:
        """Begin a round without any update."""
        super().start(0)
        self._updates = []

    def add(self, update: Decoded, records: int) -> None:
        """Keep one site's update."""
        self._updates.append(update)
        self._weight += 1.0

    def combined(self) -> Vector:
        """Return what `combine` makes of the round's updates, float32 [n], and forget them."""
        updates, self._updates = self._updates, []
        found = self.combine(updates)
        self._check_values(found, updates[0].size, "combine")
        return found.astype(np.float32, copy=False)

    def _check_values(self, found: object, size: int, method: str) -> None:
        """Raise ValueError, naming the rule, unless it returned real numbers, [size]."""
        told = repr(found)[:60]
        if isinstance(found, np.ndarray):
            told = f"{found.dtype} {found.shape}"
            if found.dtype.kind in "fiu" and found.shape == (size,):
                return
        raise ValueError(
            f"federation.strategy: {type(self).__name__}.{method} must return one number for each "
            f"of {size} coordinates, as an array, got {told}"
        )

    def check_updates(self, link: Link, extras: Sequence[str]) -> None:
        """Refuse what travels behind the model: the server takes the mean of it."""
        if extras:
            raise ValueError(
                f"federation.strategy: must not be {self.settings.strategy} where sites send "
                f"{', '.join(extras)} behind the model (rule: the server takes the mean of that, "
                f"and one hostile site moves it), got {self.settings.strategy!r}; take GroupNorm "
                "for BatchNorm, another training.objective, or fedavg"
            )

    def notes(self, size: int) -> tuple[str, ...]:
        """Return one line: what a round takes of the server's memory."""
        asked, each = self.settings.participants, 4e-6 * size
        return (
            f"federation.strategy: {self.settings.strategy} holds every update of a round: up to "
            f"{asked} x {each:.2g} MB",
        )

    @abstractmethod
    def combine(self, updates: Sequence[Decoded]) -> Vector:
        """Return what stands for the updates, float32 [n].

        updates: at least one, in the order of the sites' names; there are fewer than `least` only
        in a round that is void, whose result nobody uses.
        """


class CoordinateWise(Gathered):
    """A rule that looks at one coordinate at a time; one method, `across`, makes it.

    A coordinate that a sparse update did not send counts as zero. Where every site sends other
    coordinates most values of most coordinates are that, and so is their median: such links are
    refused.
    """

    def combine(self, updates: Sequence[Decoded]) -> Vector:
        """Return `across` of all coordinates, taken in blocks."""
        found = np.empty(updates[0].size, np.float32)
        for part, values in blocks(updates):
            one = self.across(values)
            self._check_values(one, part.stop - part.start, "across")
            found[part] = one
        return found

    @abstractmethod
    def across(self, values: Values) -> NDArray[np.floating]:
        """Return one value for each coordinate, [m], of float32 [k, m]: a row for every update."""

    def check_updates(self, link: Link, extras: Sequence[str]) -> None:
        """Refuse top-k, too: its updates have few coordinates in common."""
        super().check_updates(link, extras)
        if link.compressor == "topk" and link.density != 1.0:
            raise ValueError(
                f"uplink.compressor: must not be topk with {self.settings.strategy} (rule: a "
                "coordinate that fewer than half of the sites send has the median zero), got "
                "'topk'; take rotated-topk, eden, randk or dense"
            )


def blocks(updates: Sequence[Decoded]) -> Iterator[tuple[slice, Values]]:
    """Yield ranges of coordinates and their values, float32 [k, m], zero where nothing was sent.

    All updates together are never dense at once. The array is filled anew for each range.

    >>> one = Decoded(3, np.array([2]), np.array([5.0], np.float32))
    >>> [values.tolist() for _, values in blocks([one, one])]
    [[[0.0, 0.0, 5.0], [0.0, 0.0, 5.0]]]
    """
    size, width = updates[0].size, max(1, _BLOCK // len(updates))
    for start in range(0, size, width):
        part = slice(start, min(start + width, size))
        values = np.zeros((len(updates), part.stop - start), np.float32)
        for row, update in zip(values, updates, strict=True):
            if update.indices is None:
                row[:] = update.values[part]
            else:
                first, last = np.searchsorted(update.indices, (start, part.stop))
                row[update.indices[first:last] - start] = update.values[first:last]
        yield part, values


def gram(updates: Sequence[Decoded]) -> NDArray[np.float64]:
    """Return the inner products of every two updates, float64 [k, k]."""
    total = np.zeros((len(updates), len(updates)))
    for _, values in blocks(updates):
        rows = values.astype(np.float64)
        for i, row in enumerate(rows):
            # By products and sums and not by a library's, whose order depends on its threads.
            total[i, i:] += np.einsum("jm,m->j", rows[i:], row)
    return np.triu(total) + np.triu(total, 1).T


def squared_distances(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared distance of every two updates, float64 [k, k], of their products."""
    lengths = np.diag(products)
    return np.maximum(lengths[:, None] + lengths[None, :] - 2 * products, 0.0)


def weighted(updates: Sequence[Decoded], weights: NDArray[np.float64]) -> Vector:
    """Return the sum of the updates, each times its weight, float32 [n]; taken in float64."""
    total = np.zeros(updates[0].size, np.float64)
    for update, weight in zip(updates, weights, strict=True):
        if weight:
            update.add_to(total, float(weight))
    return total.astype(np.float32)


def hostile(federation: Federation, attackers: float) -> int:
    """Return f, the number of updates of a round that may be hostile.

    It is a share of the sites that are asked, and does not shrink with those that answer: whoever
    is missing may have been honest.

    Raises ValueError unless the share is at least 0 and below a half.

    >>> hostile(Federation(sites=20), 0.2), hostile(Federation(sites=5), 0.21)
    (4, 2)
    """
    if not 0 <= attackers < 0.5:
        raise ValueError(
            f"federation.strategy: the share of attackers that {federation.strategy} assumes must "
            f"be at least 0 and less than 0.5, got {attackers!r}; half of the sites can do anything"
        )
    return math.ceil(attackers * federation.participants - 1e-9)
