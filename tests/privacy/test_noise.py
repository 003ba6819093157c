"""The sampler, the grid and the release, against exact arithmetic and exact distributions.

Covers fedlite/privacy/grid.py.
"""

from __future__ import annotations

import ast
import math
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

import fedlite
from fedlite.privacy import ClientMechanism, RecordMechanism, noise
from fedlite.privacy.grid import RADIX, SPREAD, TABLE_STD, fine_cell, grid
from fedlite.privacy.noise import Stream, release

ROOM = Path(fedlite.__file__).parent


def test_the_table_is_the_discrete_gaussian_to_170_bits() -> None:
    found = noise.weights()
    assert len(found) == 65_536 and sum(found) == 2**192
    with localcontext() as context:
        context.prec = 90
        # exp(-k^2 / 2 s^2) one by one from the quadratic exponent, with decimal's own exp.
        ratio = (Decimal(-1) / (2 * TABLE_STD**2)).exp()
        exact, step, values = Decimal(1), ratio, [Decimal(1)]
        for _ in range(40_000):
            exact, step = exact * step, step * ratio * ratio
            values.append(exact)
        for at in (1, 777, 20_000, 39_999):
            assert abs(values[at] / (Decimal(-(at**2)) / (2 * TABLE_STD**2)).exp() - 1) < 1e-60
        total = 2 * sum(values) - 1
        distance = sum(
            abs(Decimal(found[32_768 + k]) / 2**192 - values[abs(k)] / total)
            for k in range(-32_768, 32_768)
        )
        distance += 2 * sum(values[32_768:]) / total
        assert distance / 2 < Decimal(2) ** -170


def test_the_alias_table_holds_exactly_those_masses() -> None:
    table, weights = noise._table(), noise.weights()
    column = 2**192 // 65_536
    masses = [0] * 65_536
    halves = table.entries.view(np.uint16).reshape(-1, 2)
    for at, (alias, first) in enumerate(halves.tolist()):
        threshold = (first << 160) + table.last[at]
        masses[at] += threshold
        masses[alias] += column - threshold
    assert masses == weights


class Told(Stream):
    """A stream that says what it is told."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def _bytes(self, count: int) -> bytes:
        piece = self.pieces.pop(0)
        assert len(piece) == count
        return piece


@pytest.mark.parametrize(("more", "kept"), [(-1, True), (0, False)])
def test_a_tie_is_decided_by_160_bits_more(more: int, kept: bool) -> None:
    table = noise._table()
    column = 30_001
    alias, first = table.entries[column : column + 1].view(np.uint16).tolist()
    word = np.array([column, first], "<u2").tobytes()
    rest = (table.last[column] + more).to_bytes(20, "little")
    assert alias != column and table.last[column] > 0
    stream = Told(word + bytes(4), rest + bytes(20 * 16))
    assert noise._draws([stream], 1).tolist() == [[column if kept else alias]]


@pytest.mark.parametrize("count", [1, 5_000, 400_000])
def test_ties_take_the_same_work_however_many_there_are(count: int) -> None:
    """Far from the centre there are only draws by ties: their number, timed, would tell of them."""

    class Counting(Stream):
        def _bytes(self, count: int) -> bytes:
            calls.append(count)
            return super()._bytes(count)

    calls: list[int] = []
    stream, works = Counting.fresh(), set()
    for _ in range(20):
        calls.clear()
        assert noise._draws([stream], count).size == count
        works.add(tuple(calls))
    assert len(works) == 1


def exact_pmf(variance: int, reach: int) -> list[Decimal]:
    values = [(Decimal(-k * k) / (2 * variance)).exp() for k in range(-reach, reach + 1)]
    total = sum(values)
    return [value / total for value in values]


def test_two_draws_make_one_of_the_wide_gaussian() -> None:
    """The lemma of the module, brute force on a small case with the same ratio r = 2.5."""
    with localcontext() as context:
        context.prec = 80
        std, radix = 15, 6
        r = std / math.sqrt(radix**2 + 1)
        bound = Decimal(2.1 * math.exp(-2 * math.pi**2 * r * r))
        one = exact_pmf(std**2, 300)
        wide = exact_pmf(std**2 * (radix**2 + 1), 2400)
        for k in (0, 1, 3, 50, 91, 200, 333):
            mass = sum(
                one[j + 300] * one[k - radix * j + 300]
                for j in range(-300, 301)
                if abs(k - radix * j) <= 300
            )
            assert abs(mass / wide[k + 2400] - 1) < 2 * bound
    assert TABLE_STD / math.sqrt(RADIX**2 + 1) > 2.5
    assert TABLE_STD * math.sqrt(RADIX**2 + 1) == SPREAD


def test_draws_follow_the_normal_law_and_reach_beyond_where_float32_ends() -> None:
    draws = Stream.fresh().gaussians(400_000) / SPREAD
    assert stats.kstest(draws, "norm").pvalue > 1e-6
    assert abs(np.mean(draws**4) - 3) < 0.1
    # Box-Muller on float32 ends at 5.768 deviations; this table does not.
    masses = np.array([w / 2**192 for w in noise.weights()])
    beyond = masses[np.abs(np.arange(-32_768, 32_768)) > 5.768 * TABLE_STD].sum()
    assert beyond == pytest.approx(2 * stats.norm.sf(5.768), rel=0.01)


def test_streams_differ_unless_they_are_named_alike() -> None:
    assert not np.array_equal(Stream.fresh().words(4), Stream.fresh().words(4))
    named = [Stream.seeded(*keys).words(4).tolist() for keys in ((1, 2), (1, 2), (2, 1), (12,))]
    assert named[0] == named[1] and len({tuple(words) for words in named}) == 3
    stream = Stream.fresh()
    assert not np.array_equal(stream.gaussians(50), stream.gaussians(50))


def test_a_release_lies_on_the_grid_and_is_the_sum_plus_noise() -> None:
    total = np.linspace(-3.0, 3.0, 60_000)
    found = release(total, 0.5, Stream.fresh())
    cells = found / grid(0.5)
    np.testing.assert_array_equal(np.rint(cells) * grid(0.5), found)
    moved = (found - total) / 0.5
    assert stats.kstest(moved, "norm").pvalue > 1e-6
    # Every low bit of what is released is even, whatever the total.
    for bit in range(6):
        ones = np.count_nonzero(np.rint(cells).astype(np.int64) >> bit & 1)
        assert abs(ones - 30_000) < 6 * math.sqrt(15_000)


def test_a_total_beyond_all_bounds_is_cut_and_one_that_is_no_number_refused() -> None:
    found = release(np.array([np.inf, -1e300, 0.0]), 1.0, Stream.fresh())
    assert found[:2] == pytest.approx([2**51 / SPREAD, -(2**51) / SPREAD])
    with pytest.raises(ValueError, match="total: every coordinate must be a number"):
        release(np.array([np.nan]), 1.0, Stream.fresh())
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="noise_std: must be finite"):
            release(np.zeros(1), wrong, Stream.fresh())


@given(st.integers(1, 400), st.floats(1e-2, 1e3), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
@settings(max_examples=200)
def test_rounding_stays_within_the_sensitivity(
    n: int, sigma: float, clip: float, seed: int
) -> None:
    """Adjacent sums, as far apart as they may be, and rounded in the worst way that is found."""
    rng = np.random.default_rng(seed)
    mechanism = RecordMechanism(clip, sigma, 1.0, 1, 1)
    cell = fine_cell(mechanism.noise_std)
    bound = mechanism.clip_bound(n)
    total = (rng.integers(-1000, 1000, n) + 0.5 - 1e-7) * cell
    # As much as there is on one coordinate, and next to nothing, in the worst place, on the others.
    change = np.full(n, 2e-7 * cell)
    change[0] = bound * (1 - 1e-9)
    moved = np.rint((total + change) / cell) - np.rint(total / cell)
    assert n == 1 or np.count_nonzero(moved[1:]) == n - 1
    assert np.linalg.norm(moved) * cell <= mechanism.sensitivity


def test_what_rounding_takes_of_the_clip_is_little_and_refused_where_it_is_not() -> None:
    mechanism = RecordMechanism(0.1, 13.2, 1.0, 90, 259)
    assert 0.998 < mechanism.clip_bound(20_640) / 0.1 < 1.0
    at_site = ClientMechanism(0.1, 13.2, 90, "site")
    assert at_site.clip_bound(20_640) == mechanism.clip_bound(20_640)
    with pytest.raises(ValueError, match="room for rounding"):
        RecordMechanism(0.1, 1000.0, 1.0, 90, 259).clip_bound(10**6)


FORBIDDEN = {
    "normal",
    "normal_",
    "randn",
    "randn_like",
    "standard_normal",
    "default_rng",
    "Generator",
    "RandomState",
    "manual_seed",
    "random",
    "gauss",
    "laplace",
}
# Shuffles in runs that claim no privacy, heads that never leave their site, sites that are made up,
# the choice of sites, and devices that are not there.
ALLOWED = {
    ("training/share.py", "default_rng"),
    ("training/head.py", "default_rng"),
    ("training/together.py", "default_rng"),
    ("training/together.py", "normal"),
    ("server/asking.py", "default_rng"),
    ("server/buffered.py", "default_rng"),
    ("server/clock.py", "default_rng"),
    ("server/clock.py", "random"),
    ("server/clock.py", "standard_normal"),
}


def test_no_noise_and_no_sample_comes_from_another_generator() -> None:
    """torch's normals gave their generator's whole state away; numpy's are no better."""
    top = ROOM.parent
    files = [
        *ROOM.glob("privacy/**/*.py"),
        *ROOM.glob("training/*.py"),
        *top.glob("clients/**/*.py"),
        *top.glob("server/*.py"),
        *top.glob("strategies/*.py"),
    ]
    assert len(files) > 60
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr in FORBIDDEN:
                found.add(("/".join(path.parts[-2:]), called.attr))
    assert found == ALLOWED
