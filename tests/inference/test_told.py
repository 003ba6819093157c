"""What a site tells: its cells, their bytes, and what is no site's counts."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from fedlite.inference import told
from fedlite.inference.calibration import GRID, choose, pooled
from fedlite.inference.told import COARSE, Cells, cells_of, coarser, decode, encode, together
from tests.inference.test_calibration import counted, drawn


def test_cells_hold_what_counts_hold_and_add_up_to_those_of_all_records() -> None:
    rng = np.random.default_rng(1)
    parts = [counted(rng, n) for n in (0, 7, 300)]
    cells = [cells_of(part) for part in parts]
    for part, one in zip(parts, cells, strict=True):
        np.testing.assert_array_equal(one.harm, part.harm.sum(0))
        np.testing.assert_array_equal(one.shallow, part.shallow.sum(0))
        assert one.total == part.total and one.counts.min() >= 0
    whole, apart = together(cells), pooled(parts)
    np.testing.assert_array_equal(whole.harm, apart.harm.sum(0))
    assert choose(whole.plain(), 0.05, 0.9) == choose(apart, 0.05, 0.9)


def test_one_record_more_is_one_more_in_one_cell_whatever_the_grid() -> None:
    from fedlite.inference.calibration import count

    scores, shallow, deep, truth = drawn(np.random.default_rng(2), 40)
    every = cells_of(count(scores, shallow, deep, 3, truth))
    for left_out in range(40):
        keep = np.arange(40) != left_out
        fewer = cells_of(count(scores[keep], shallow[keep], deep[keep], 3, truth[keep]))
        for change in (every.counts - fewer.counts, coarser(every) - coarser(fewer)):
            assert change.sum() == 1 and np.abs(change).sum() == 1


def test_the_coarse_grid_is_part_of_the_fine_one_and_its_counts_are_the_same() -> None:
    assert set(COARSE) <= set(GRID) and (np.diff(COARSE) < 0).all() and COARSE[-1] == 0
    counts = counted(np.random.default_rng(3), 500)
    rough = Cells(coarser(cells_of(counts)), 1.0)
    for at, threshold in enumerate(COARSE):
        (fine,) = np.flatnonzero(threshold == GRID)
        assert rough.harm[at] == counts.harm[:, fine].sum()
        assert rough.shallow[at] == counts.shallow[:, fine].sum()


def test_bytes_come_back_as_they_were_and_are_as_long_as_said() -> None:
    exact = cells_of(counted(np.random.default_rng(4), 90))
    noised = Cells(coarser(exact) - 3, 2.0)
    for cells in (exact, noised):
        body = encode(cells)
        assert len(body) == told.length(cells.noise)
        np.testing.assert_array_equal(decode(body, cells.noise).counts, cells.counts)
    assert told.length(0) == 3 + 944 and told.length(1.0) == 3 + 96
    with pytest.raises(ValueError, match="must be exact"):
        noised.plain()


@pytest.mark.parametrize("count", [2**31, -(2**31) - 1, 3_000_000_000])
def test_a_count_that_its_bytes_do_not_hold_is_refused_and_not_wrapped(count: int) -> None:
    cells = Cells(np.zeros((2, len(COARSE)), np.int64), 3.7)
    cells.counts[0, 0] = count
    with pytest.raises(ValueError, match="counts: must be from -2147483648 to 2147483647"):
        encode(cells)


def test_what_gains_is_told_only_where_a_loss_is_promised() -> None:
    counts = counted(np.random.default_rng(5), 400)
    cells = cells_of(counts, "loss")
    assert cells.counts.shape == (3, len(GRID)) and cells.total == 400 and cells.counts.min() >= 0
    plain = decode(encode(cells), 0.0, "loss").plain()
    np.testing.assert_array_equal(plain.gain, counts.gain.sum(0)[None])
    np.testing.assert_array_equal(plain.harm, counts.harm.sum(0)[None])
    np.testing.assert_array_equal(plain.shallow, counts.shallow.sum(0)[None])
    assert choose(plain, 0.05, 0.9, "loss") == choose(counts, 0.05, 0.9, "loss")
    for made, risk in ((encode(cells), "harm"), (encode(cells_of(counts)), "loss")):
        with pytest.raises(ValueError, match=r"counts: must be (947|1419) bytes"):
            decode(made, 0.0, risk)


def body(counts: np.ndarray, noised: int = 0, grid: int = len(GRID)) -> bytes:
    return struct.pack("<BH", noised, grid) + counts.astype("<i4").tobytes()


GOOD = np.ones((2, len(GRID)), np.int64)


@pytest.mark.parametrize(
    ("made", "noise", "rule"),
    [
        (body(GOOD[:, 1:], 0, len(GRID) - 1), 0.0, "must be 947 bytes"),
        (body(GOOD, 0, 117), 0.0, "must be of 118 thresholds"),
        (body(GOOD, 1), 0.0, "with noise False"),
        (body(-GOOD), 0.0, "must be at least 0, got -1"),
        # More harmed than counted is a negative number of others; so are fewer at a looser one.
        (body(np.stack([-GOOD[0], 2 * GOOD[0]])), 0.0, "must be at least 0"),
        (body(GOOD * 10_000_000), 0.0, "of 100000000 records at most"),
        # Floats, and no numbers at that: as integers they are far too many records.
        (body(GOOD)[:3] + np.full(236, np.nan, "<f4").tobytes(), 0.0, "records at most"),
        (b"", 0.0, "must be 947 bytes, got 0"),
        (body(-40 * np.ones((2, 12)), 1, 12), 3.0, "must be at least -28, got -40"),
        (body(GOOD), 3.0, "must be 99 bytes"),
    ],
)
def test_what_no_site_can_have_counted_is_refused(made: bytes, noise: float, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        decode(made, noise)


def test_a_frame_of_something_else_is_no_counts() -> None:
    from fedlite import compression

    envelope = compression.Envelope(bytes(8), 3, 7, bytes(8), bytes(8))
    good = encode(Cells(GOOD))
    told.check(compression.pack(envelope, told.CODEC, good), 0.0)
    wrong = [
        compression.pack(envelope, 3, good),
        compression.pack(envelope, told.CODEC, good, records=9),
        compression.pack(envelope, told.CODEC, good + b"x"),
        compression.pack(envelope, told.CODEC, body(-GOOD)),
        b"",
    ]
    for frame in wrong:
        with pytest.raises(ValueError, match=r"frame: must|counts: must"):
            told.check(frame, 0.0)
