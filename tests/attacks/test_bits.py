"""The bit audit: each attack succeeds on the old noise and is at chance on the new one."""

from __future__ import annotations

import numpy as np
import pytest

from fedlite.attacks import bits
from fedlite.privacy.grid import grid
from fedlite.privacy.noise import Stream, release
from tests.attacks.ground import FloatNoise

SIZE, MU = 20_640, 1 / 13.2


def _sums(seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return 0.02 * rng.standard_normal(SIZE), bits.record_direction(SIZE, MU, rng), rng


@pytest.mark.long
def test_one_record_was_told_apart_in_all_of_a_thousand_trials() -> None:
    old = FloatNoise()
    without, record, rng = _sums(0)
    assert bits.told_apart(lambda s: old.release(s, 1.0), without, record, 1000, rng) == 1000


@pytest.mark.long
def test_one_record_is_told_apart_by_chance_only() -> None:
    stream = Stream.fresh()
    without, record, rng = _sums(1)
    right = bits.told_apart(lambda s: release(s, 1.0, stream), without, record, 1000, rng)
    # Five deviations around a half; the values themselves are worth 15 of the thousand.
    assert 420 < right < 600
    found = bits.adjacent(lambda s: release(s, 1.0, stream), without, record, 200, rng)
    assert found.outcome == "pass"


def test_a_records_direction_has_its_length() -> None:
    assert np.linalg.norm(_sums(2)[1]) == pytest.approx(MU)


def test_float_noise_is_on_no_grid_and_cipher_noise_is() -> None:
    zeros = np.zeros(100_000)
    assert bits.grid(FloatNoise().release(zeros, 2.0), grid(2.0)).outcome == "fail"
    released = release(zeros, 2.0, Stream.fresh())
    assert bits.grid(released, grid(2.0)).outcome == "pass"


def test_low_bits_that_lean_are_found() -> None:
    released = release(np.zeros(100_000), 2.0, Stream.fresh())
    cells = np.rint(released / grid(2.0))
    cells[:5000] -= cells[:5000] % 2
    assert bits.grid(cells * grid(2.0), grid(2.0)).outcome == "fail"


def test_tails_have_their_rate_and_cut_ones_are_found() -> None:
    stream = Stream.fresh()

    def draw(n: int) -> np.ndarray:
        return release(np.zeros(n), 1.0, stream)

    assert bits.tails(draw, 2_000_000).outcome == "pass"
    assert bits.tails(lambda n: np.clip(draw(n), -3.9, 3.9), 2_000_000).outcome == "fail"
    assert bits.tails(lambda n: 1.05 * draw(n), 2_000_000).outcome == "fail"


def test_the_noises_table_reaches_beyond_where_torchs_tails_end() -> None:
    """8e-9 of all draws: too few to wait for, so the table's own masses are added up."""
    from scipy.stats import norm

    from fedlite.privacy import noise
    from fedlite.privacy.grid import TABLE_STD

    masses = [int(mass) for mass in noise.weights()]
    edge, centre = int(5.768 * TABLE_STD) + 1, len(masses) // 2
    beyond = sum(masses[: centre - edge + 1]) + sum(masses[centre + edge :])
    expected = 2 * float(norm.sf((edge - 0.5) / TABLE_STD))
    assert beyond / sum(masses) == pytest.approx(expected, rel=1e-3)


@pytest.mark.long
def test_a_state_is_found_in_float_noise_and_none_in_a_ciphers() -> None:
    """The whole attack on the cipher; on float noise it is in `test_twister.py`."""
    stream, rng = Stream.fresh(), np.random.default_rng(3)
    found = bits.generator(release(np.zeros(SIZE), 1.0, stream), 0.02, (640, 20_000), rng)
    assert found.outcome == "pass"
    assert "contradict" in found.found


def test_a_small_model_is_said_not_to_be_checked() -> None:
    noise = release(np.zeros(320), 1.0, Stream.fresh())
    found = bits.generator(noise, 0.02, (320,), np.random.default_rng(0))
    assert found.outcome == "not checked"
    small = bits.generator(noise, 0.02, (310, 10), np.random.default_rng(0))
    assert small.outcome == "not checked"
