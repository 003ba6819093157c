"""Figures of columns: numpy's without noise, and within their intervals as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedlite.privacy.ranges import MOST_BINS, MOST_COLUMNS, figures_size
from fedlite.privacy.shared.tables import Question, Summary, summarize
from fedlite.scenario import ScenarioError, from_dict
from fedlite.scenario.question import columns_of, text_of

ASKED = Question(("age", "dose"), np.array([0.0, -1.0]), np.array([100.0, 3.0]), 20)
QUANTILES = (0.05, 0.5, 0.95)


def table(n: int = 400, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = np.stack([rng.uniform(20, 90, n), rng.exponential(0.7, n)], axis=1)
    found[rng.random((n, 2)) < [0.1, 0.3]] = np.nan
    return found


def test_without_noise_all_is_as_numpy_has_it() -> None:
    given = table()
    cut = np.clip(given, ASKED.low, ASKED.high)
    for at, one in enumerate(summarize(ASKED, ASKED.answer(given), 0.0, QUANTILES)):
        values = cut[:, at][~np.isnan(cut[:, at])]
        assert one.records.value == 400
        assert one.present.value == len(values)
        assert one.missing.value == 400 - len(values)
        assert one.share.value == pytest.approx(1 - len(values) / 400)
        assert one.mean.value == pytest.approx(values.mean())
        counts, edges = np.histogram(values, 20, (ASKED.low[at], ASKED.high[at]))
        assert one.histogram.tolist() == counts.tolist()
        np.testing.assert_allclose(one.edges, edges)
        width = edges[1] - edges[0]
        for q, (value, low, high) in one.quantiles.items():
            true = np.quantile(values, q, method="inverted_cdf")
            assert low <= true <= high and low <= value <= high
            assert abs(value - true) <= width and high - low <= 2 * width + 1e-9


@pytest.mark.parametrize("row", [[np.nan, np.nan], [-1e300, 1e300], [np.inf, -np.inf], [100, -1]])
def test_a_record_moves_the_sum_by_the_length_at_most_whatever_it_holds(row: list[float]) -> None:
    """Against the same table without it."""
    given = table()
    moved = ASKED.answer(np.vstack([given, row])) - ASKED.answer(given)
    assert np.linalg.norm(moved) <= ASKED.length * (1 + 1e-12)
    assert moved[: 2 * 21].sum() == 2, "one cell of each column"
    if not np.isnan(row[0]):
        assert np.linalg.norm(moved) == pytest.approx(ASKED.length), "the bound is met at the ends"


@pytest.mark.parametrize(("columns", "bins"), [(1, 2), (3, 10), (7, MOST_BINS)])
def test_what_a_question_sums_is_as_many_and_as_long_as_is_charged(columns: int, bins: int) -> None:
    """Against the answer of one record that is at the end of every range."""
    names = tuple(f"c{at}" for at in range(columns))
    asked = Question(names, np.zeros(columns), np.ones(columns), bins)
    answer = asked.answer(np.ones((1, columns)))
    values, length = figures_size(columns, bins)
    assert (values, values) == (answer.size, asked.coordinates)
    assert length == asked.length == pytest.approx(np.linalg.norm(answer), abs=0, rel=1e-15)


def test_no_question_is_larger_by_one_rule_than_by_another() -> None:
    ends = np.zeros(1), np.ones(1)
    Question(("a",), *ends, MOST_BINS)
    with pytest.raises(ValueError, match=f"bins: must be from 2 to {MOST_BINS:,}"):
        Question(("a",), *ends, MOST_BINS + 1)
    with pytest.raises(
        ScenarioError, match=f"statistics.bins: must be 0, or from 2 to {MOST_BINS}"
    ):
        from_dict({"statistics": {"bins": MOST_BINS + 1}})
    many = {f"c{at}": (0.0, 1.0) for at in range(MOST_COLUMNS + 1)}
    with pytest.raises(ValueError, match=f"must have at most {MOST_COLUMNS:,} columns"):
        columns_of(text_of(many))
    low, high = np.array([*many.values()]).T
    with pytest.raises(ValueError, match=f"columns: must be from 1 to {MOST_COLUMNS:,}"):
        Question(tuple(many), low, high, 2)
    assert len(columns_of(text_of(dict([*many.items()][1:])))) == MOST_COLUMNS


@pytest.mark.parametrize("error", [3.0, 12.0])
def test_the_truth_lies_within_the_intervals_as_often_as_they_say(error: float) -> None:
    """400 draws of the noise: 95 of 100 times, and of a quantile at least as often."""
    given, rng, draws = table(), np.random.default_rng(7), 400
    clear = ASKED.answer(given)
    true = summarize(ASKED, clear, 0.0, QUANTILES)
    values = [c[~np.isnan(c)] for c in np.clip(given, ASKED.low, ASKED.high).T]
    hits: dict[str, int] = {}
    for _ in range(draws):
        noised = clear + rng.normal(0.0, error, clear.size)
        for at, one in enumerate(summarize(ASKED, noised, error, QUANTILES)):
            for name in ("records", "present", "missing", "share", "mean"):
                low, high = getattr(one, name).interval
                inside = low <= getattr(true[at], name).value <= high
                hits[f"{name} {at}"] = hits.get(f"{name} {at}", 0) + inside
            for q, (_, low, high) in one.quantiles.items():
                inside = low <= np.quantile(values[at], q, method="inverted_cdf") <= high
                hits[f"q{q} {at}"] = hits.get(f"q{q} {at}", 0) + inside
    slack = 5 * math.sqrt(0.95 * 0.05 * draws)
    for name, count in hits.items():
        assert count > 0.95 * draws - slack, (name, count)
        if name[0] != "q":
            assert count < 0.95 * draws + slack, (name, count)


@pytest.mark.parametrize(("columns", "n"), [(1, 400), (3, 260), (10, 200), (10, 260), (4, 90)])
def test_quotients_by_few_records_are_within_what_is_shown(columns: int, n: int) -> None:
    """The mean near an end of its range: the first order's intervals held it in 65 of 100."""
    rng, draws, error = np.random.default_rng(0), 600, 30.0
    names = tuple(f"c{at}" for at in range(columns))
    asked = Question(names, np.zeros(columns), np.ones(columns), 10)
    given = rng.beta(8, 1, (n, columns))
    clear, true = asked.answer(given), given[:, 0].mean()
    shown = wrong = 0
    for _ in range(draws):
        mean = summarize(asked, clear + rng.normal(0.0, error, clear.size), error, ())[0].mean
        if not math.isnan(mean.value):
            shown += 1
            low, high = mean.interval
            assert 0.0 <= low <= mean.value <= high <= 1.0
            wrong += not low <= true <= high
    slack = 5 * math.sqrt(0.95 * 0.05 * draws)
    assert wrong < 0.05 * draws + slack
    # Where most are shown they hold as often as they say.
    assert shown < 0.9 * draws or wrong < 0.05 * shown + slack


def test_of_a_column_without_a_value_nothing_is_told() -> None:
    rng, told = np.random.default_rng(2), 0
    empty = np.stack([np.full(500, np.nan), rng.uniform(-1, 3, 500)], axis=1)
    clear = ASKED.answer(empty)
    for _ in range(200):
        one = summarize(ASKED, clear + rng.normal(0.0, 5.0, clear.size), 5.0, QUANTILES)[0]
        told += any(not math.isnan(value) for value, _, _ in one.quantiles.values())
    assert told < 15, "at most 1 of 40 by chance"


def test_no_rounding_of_a_long_sum_adds_to_what_one_record_moves() -> None:
    """Values for which a sum of floats moved by twice as much as one record may."""
    n, unit, half = 1_000_000, 2.0**-33, 2**19
    asked = Question(("a", "b"), np.zeros(2), np.ones(2), 10)
    values = np.ones(n)
    values[half] = 0.25
    values[half + 1 :: 2], values[half + 2 :: 2] = 0.5 + 2 / 3 * unit, -0.5 + 2 / 3 * unit
    given = np.stack([(values + 1) / 2] * 2, axis=1)
    moved = asked.answer(given) - asked.answer(given[1:])
    assert np.linalg.norm(moved) <= asked.length * (1 + 1e-15)


def _mean(found: list[Summary]) -> float:
    return found[0].mean.value


def test_where_noise_leaves_nothing_nothing_is_told() -> None:
    found = summarize(ASKED, ASKED.answer(table(10)), 50.0, QUANTILES)
    assert math.isnan(_mean(found)) and math.isnan(found[0].share.value)
    value, low, high = found[0].quantiles[0.5]
    assert math.isnan(value) and 0.0 <= low <= high <= 100.0
    nobody = summarize(ASKED, ASKED.answer(np.empty((0, 2))), 1.0, QUANTILES)
    assert math.isnan(_mean(nobody))
    single = Question(("x",), np.zeros(1), np.ones(1), 2)
    assert summarize(single, single.answer(np.array([[0.5]])), 0.0, (0.5,))[0].mean.value == 0.5


@pytest.mark.parametrize(
    ("low", "high", "bins", "words"),
    [
        ([0.0, 5.0], [1.0, 5.0], 3, "data.ranges: must be a low end below a high one, got 5:5"),
        ([0.0, 0.0], [1.0, np.inf], 3, "data.ranges"),
        ([0.0, 0.0], [1.0, 1.0], 0, "bins: must be from 2 to 1,000"),
        ([0.0, -1e308], [1.0, 1e308], 3, "data.ranges: must be so wide .* got -1e"),
        ([0.0, 1.0], [1.0, 1.0 + 2**-52], 3, "data.ranges: must be so wide"),
    ],
)
def test_ranges_that_cannot_be_are_refused(
    low: list[float], high: list[float], bins: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Question(("a", "b"), np.array(low), np.array(high), bins)
    with pytest.raises(ValueError, match="must have 2 columns"):
        ASKED.answer(np.zeros((3, 5)))
