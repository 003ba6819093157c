"""Counts, means and histograms of a table's columns, as one vector that sites sum under noise.

What one record adds is known beforehand, whatever it holds: of each column a 1 in one cell (a bin
of its public range, or "missing"), and its value mapped to -1..1, 0 where it is missing. So its
length is at most sqrt(2 d) with d columns, and nothing has to be cut but values beyond their range.
The privacy unit is one record; adding or removing it moves the sum by that length. All that is
told beside the sum is computed from it and from public numbers: post-processing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlite.privacy.ranges import MOST_BINS, MOST_COLUMNS, figures_size
from fedlite.privacy.shared.mechanism import SharedMechanism

Values = NDArray[np.float64]
Z = 1.959963984540054
"""Deviations between which 95 of 100 Gaussians lie."""
# Mapped values are added as whole multiples of this, so that no rounding of a long sum lets one
# record move it by more than its length.
_GRAIN = 2.0**-20


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of a table: columns by name, float64 [d] ranges low < high, bins of each.

    All of it is public. Raises ValueError for a range or number that cannot be.
    """

    columns: tuple[str, ...]
    low: Values
    high: Values
    bins: int

    def __post_init__(self) -> None:
        """Check every range."""
        if not 1 <= len(self.columns) <= MOST_COLUMNS:
            raise ValueError(
                f"columns: must be from 1 to {MOST_COLUMNS:,}, got {len(self.columns)}"
            )
        if not 2 <= self.bins <= MOST_BINS:
            raise ValueError(
                f"bins: must be from 2 to {MOST_BINS:,} (rule: one bin counts all values, which is "
                f"told anyway), got {self.bins}; 10 suit most columns"
            )
        for name, low, high in zip(self.columns, self.low, self.high, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(
                    f"data.ranges: must be a low end below a high one, got {low:g}:{high:g} for "
                    f"{name!r}"
                )
        with np.errstate(over="ignore", invalid="ignore"):
            rising = np.isfinite(self.high - self.low) & (np.diff(self.edges) > 0).all(axis=1)
        if not rising.all():
            at = int(np.argmin(rising))
            raise ValueError(
                "data.ranges: must be so wide that bins have edges of their own, and no wider than "
                f"a float holds, got {self.low[at]:g}:{self.high[at]:g} for {self.columns[at]!r} "
                f"in {self.bins} bins"
            )

    @property
    def coordinates(self) -> int:
        """Length of a record's vector: of each column its bins, one for missing, and its value."""
        return figures_size(len(self.columns), self.bins)[0]

    @property
    def length(self) -> float:
        """The most that a record's vector is long."""
        return figures_size(len(self.columns), self.bins)[1]

    @property
    def edges(self) -> Values:
        """The edges of the bins, float64 [d, bins + 1]."""
        steps = np.linspace(0.0, 1.0, self.bins + 1)
        return self.low[:, None] + (self.high - self.low)[:, None] * steps

    def answer(self, table: Values) -> Values:
        """Return the sum of the records' vectors, float64 [coordinates]; as clear as they are.

        table: float64 [n, d], NaN where a value is missing. What lies beyond its range is taken for
        its end, infinity too.
        """
        if table.ndim != 2 or table.shape[1] != len(self.columns):
            raise ValueError(
                f"table: must have {len(self.columns)} columns, got shape {table.shape}"
            )
        missing = np.isnan(table)
        share = (np.clip(table, self.low, self.high) - self.low) / (self.high - self.low)
        cells = np.minimum((share * self.bins), self.bins - 1)
        cells = np.where(missing, self.bins, cells).astype(np.int64)
        counts = np.stack(
            [np.bincount(column, minlength=self.bins + 1) for column in cells.T]
        ).astype(np.float64)
        grains = np.rint(np.where(missing, 0.0, 2.0 * share - 1.0) / _GRAIN).astype(np.int64)
        return np.concatenate([counts.ravel(), grains.sum(axis=0) * _GRAIN])

    def scale(self, mechanism: SharedMechanism) -> float:
        """Return by what a sum is multiplied to be noised: a record then moves it by the clip."""
        return mechanism.clip_bound(self.coordinates) / self.length


@dataclass(frozen=True)
class Figure:
    """A number with its standard error; nan where the noise leaves none.

    ends: between which the truth lies in 95 of 100 cases, where that is not by the error.
    """

    value: float
    error: float
    ends: tuple[float, float] | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """The ends between which the truth lies in 95 of 100 cases."""
        return self.ends or (self.value - Z * self.error, self.value + Z * self.error)


@dataclass(frozen=True, eq=False)
class Summary:
    """What a sum of answers tells of one column.

    records: of all sites, by all columns together. present, missing: counts. share: of records that
    miss the value. mean: of the values, cut to their range. histogram: float64 [bins], each with
    the error `histogram_error`. quantiles: by probability, value and the two ends; the value is nan
    where there may be none.
    """

    name: str
    records: Figure
    present: Figure
    missing: Figure
    share: Figure
    mean: Figure
    edges: Values
    histogram: Values
    histogram_error: float
    quantiles: dict[float, tuple[float, float, float]]


def summarize(
    question: Question, total: Values, error: float, quantiles: tuple[float, ...]
) -> list[Summary]:
    """Return what a noised sum tells of every column.

    total: the sum of all sites' answers, float64 [coordinates]. error: the standard deviation of
    the noise on each of its values, which is known; the errors of what is computed from several are
    by the first order of their noise. quantiles: probabilities above 0 and below 1.
    """
    d, bins = len(question.columns), question.bins
    counts, sums = total[: d * (bins + 1)].reshape(d, bins + 1), total[d * (bins + 1) :]
    # Every record is in one cell of each column.
    records = Figure(float(counts.sum()) / d, error * math.sqrt((bins + 1) / d))
    found = []
    for at, name in enumerate(question.columns):
        low, high = float(question.low[at]), float(question.high[at])
        missing = Figure(float(counts[at, bins]), error)
        # The count of all and that of the missing share a dth of their noise.
        present = Figure(records.value - missing.value, error * math.sqrt(1.0 + (bins - 1.0) / d))
        middle = _ratio(Figure(float(sums[at]), error), present, 0.0, (-1.0, 1.0))
        half, any_at_all = (high - low) / 2.0, present.value > Z * present.error
        ends = middle.interval
        found.append(
            Summary(
                name,
                records,
                present,
                missing,
                _ratio(missing, records, error**2 / d, (0.0, 1.0)),
                Figure(
                    low + half * (1.0 + middle.value),
                    half * middle.error,
                    (low + half * (1.0 + ends[0]), low + half * (1.0 + ends[1])),
                ),
                question.edges[at],
                counts[at, :bins].copy(),
                error,
                {
                    q: (value if any_at_all else math.nan, first, last)
                    for q in quantiles
                    for value, first, last in [
                        _quantile(counts[at, :bins], question.edges[at], q, error)
                    ]
                },
            )
        )
    return found


def _ratio(over: Figure, under: Figure, together: float, within: tuple[float, float]) -> Figure:
    """Return a quotient, cut to the range that it lies in, with the error of the first order.

    Its ends are those of all r with |over - r under| at most Z deviations of that difference
    (Fieller 1954, "Some Problems in Interval Estimation"), which hold for noise of any size; nan
    where these have no end, so the truth is outside of what is told in at most 5 of 100 cases.
    together: the covariance of the two.
    """
    square = under.value**2 - (Z * under.error) ** 2
    if under.value <= 0.0 or square <= 0.0:
        return Figure(math.nan, math.nan)
    value = over.value / under.value
    variance = over.error**2 + value**2 * under.error**2 - 2.0 * value * together
    middle = over.value * under.value - Z**2 * together
    root = math.sqrt(max(0.0, middle**2 - square * (over.value**2 - (Z * over.error) ** 2)))
    low, high = (float(np.clip(end / square, *within)) for end in (middle - root, middle + root))
    return Figure(
        float(np.clip(value, *within)), math.sqrt(max(0.0, variance)) / under.value, (low, high)
    )


def _quantile(
    counts: Values, edges: Values, probability: float, error: float
) -> tuple[float, float, float]:
    """Return a quantile of binned values and the two ends between which it surely lies.

    An edge is below the quantile if so many deviations of noise say it, and all edges before it
    are; in the same way from above. The first edge that is wrongly taken stops a walk, so each end
    is wrong in at most 2.5 of 100 cases, however many edges there are.
    """
    bins = len(counts)
    at = np.arange(bins + 1)
    # How many more values lie below an edge than the quantile has below it.
    excess = np.concatenate([[0.0], np.cumsum(counts)]) - probability * counts.sum()
    spread = error * np.sqrt(at * (1.0 - probability) ** 2 + (bins - at) * probability**2)
    below = excess[1:-1] < -Z * spread[1:-1]
    above = excess[1:-1] > Z * spread[1:-1]
    first = 0 if below.size == 0 else int(np.argmin(np.append(below, False)))
    last = 0 if above.size == 0 else int(np.argmin(np.append(above[::-1], False)))
    low, high = float(edges[first]), float(edges[bins - last])
    rising = np.maximum.accumulate(np.append(excess, math.inf))[: bins + 1]
    rising += 1e-9 * max(1.0, abs(float(rising[-1]))) * at / bins
    value = float(np.clip(np.interp(0.0, rising, edges), low, high))
    return value, low, high
