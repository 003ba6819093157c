"""One row more or less in a table is one record more or less in what is trained on, no more.

The adjacency that every epsilon of a record speaks of. Each test takes rows out of a table one by
one and compares what is left, row by row and in order.
"""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedlite.data import Dataset, Source, partition, site_data
from fedlite.data.keyed import keyed_folds, keyed_hash, keyed_owners

Parts = list[tuple[str, str, list[bytes]]]


def table(n: int, *, classes: int = 3, values: int = 1_000_000, seed: int = 0) -> Dataset:
    """Return n random records; few `values` make many of them equal."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, values, (n, 2)).astype(np.float32)
    return Dataset(x, rng.integers(0, classes, n))


def source(data: Dataset, classes: int = 3) -> Source:
    labels = tuple(str(label) for label in range(classes))
    return Source("toy", data, None, None, (), (2,), classes, labels, "made here")


def parts(data: Dataset, kind: str = "iid", sites: int = 1, **more: Any) -> Parts:
    """Return (site, part, its records as bytes, in order) of every part at every site."""
    chosen = {"alpha": 0.5, "seed": 1, "test_fraction": 0.2, "private": True} | more
    return [
        (site.name, name, [x.tobytes() + y.tobytes() for x, y in zip(part.x, part.y, strict=True)])
        for site in site_data(source(data), kind=kind, sites=sites, **chosen)
        for name, part in (("train", site.train), ("test", site.test))
    ]


def without(data: Dataset, row: int) -> Dataset:
    return data.take(np.delete(np.arange(len(data)), row))


def check_one_row(whole: Parts, less: Parts, row: bytes) -> None:
    """One part has lost one record, which is the row; all else is the same and in order."""
    assert [part[:2] for part in whole] == [part[:2] for part in less]
    changed = [(a[2], b[2]) for a, b in zip(whole, less, strict=True) if a[2] != b[2]]
    assert len(changed) == 1
    before, after = changed[0]
    place = next(n for n, one in enumerate(before) if n == len(after) or one != after[n])
    assert before[:place] + before[place + 1 :] == after
    assert before[place] == row


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "sites", "fraction"),
    [("iid", 1, 0.2), ("iid", 1, 0.5), ("iid", 1, 0.0), ("iid", 4, 0.1), ("dirichlet", 4, 0.2)],
)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 60, 300])
@pytest.mark.parametrize("values", [1_000_000, 2])
def test_every_row_of_a_table_moves_no_other(
    n: int, kind: str, sites: int, fraction: float, values: int
) -> None:
    data = table(n, values=values)
    whole = parts(data, kind, sites, test_fraction=fraction)
    for row in range(n):
        less = parts(without(data, row), kind, sites, test_fraction=fraction)
        check_one_row(whole, less, data.x[row].tobytes() + data.y[row].tobytes())


def test_the_only_record_of_a_class_moves_no_other() -> None:
    data = Dataset(table(40).x, np.r_[np.zeros(39, np.int64), 2])
    for kind in ("iid", "dirichlet"):
        whole, less = (parts(one, kind, 3) for one in (data, without(data, 39)))
        check_one_row(whole, less, data.x[39].tobytes() + data.y[39].tobytes())


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(width=32), st.floats(width=32), st.integers(0, 2)),
        min_size=1,
        max_size=25,
    ),
    at=st.integers(0, 24),
    kind=st.sampled_from(["iid", "dirichlet"]),
    sites=st.integers(1, 4),
    folds=st.integers(2, 10),
    seed=st.integers(0, 2**80),
)
def test_whatever_the_records_are(
    rows: list[tuple[float, float, int]], at: int, kind: str, sites: int, folds: int, seed: int
) -> None:
    """NaN, infinity and signed zeros included."""
    x, y = np.array([row[:2] for row in rows], np.float32), np.array([row[2] for row in rows])
    data, row = Dataset(x, y), at % len(rows)
    chosen = {"test_fraction": 1 / folds, "fold": folds - 1, "seed": seed}
    whole, less = (parts(one, kind, sites, **chosen) for one in (data, without(data, row)))
    check_one_row(whole, less, data.x[row].tobytes() + data.y[row].tobytes())
    everything = sorted(x.tobytes() + y.tobytes() for x, y in zip(data.x, data.y, strict=True))
    assert sorted(one for _, _, records in whole for one in records) == everything


def test_records_that_are_equal_stay_together_and_their_order_is_kept() -> None:
    data = table(50)
    twice = Dataset(np.repeat(data.x, 2, axis=0), np.repeat(data.y, 2))
    assert np.array_equal(keyed_hash(twice, 3, "x"), np.repeat(keyed_hash(data, 3, "x"), 2))
    # The label is of the record; a copy in another layout in memory is the same record.
    other = Dataset(np.asfortranarray(data.x), data.y + 1)
    assert not np.any(keyed_hash(other, 3, "x") == keyed_hash(data, 3, "x"))
    same = Dataset(np.asfortranarray(data.x), data.y)
    assert np.array_equal(keyed_hash(same, 3, "x"), keyed_hash(data, 3, "x"))


def test_folds_and_shares_have_binomial_sizes_and_are_independent() -> None:
    n, data = 20_000, table(20_000)
    folds = keyed_folds(data, 5, 1)
    shares = np.array([[0.5, 0.3, 0.2], [0.0, 0.1, 0.9], [1.0, 0.0, 0.0]])
    owners = keyed_owners(data, shares, 1)
    for fold in range(5):
        assert abs((folds == fold).sum() - n / 5) < 5 * math.sqrt(n * 0.16)
    for label in range(3):
        mine = owners[data.y == label]
        for site, share in enumerate(shares[label]):
            deviation = 5 * math.sqrt(len(mine) * share * (1 - share))
            assert abs((mine == site).sum() - len(mine) * share) <= deviation
            # Who owns a record says nothing of whether it is held out.
            here = folds[(data.y == label) & (owners == site)]
            spread = 5 * math.sqrt(len(here) * 0.16)
            assert abs((here == 0).sum() - len(here) / 5) <= spread
    again = keyed_folds(data, 5, 2)
    assert abs((again == folds).sum() - n / 5) < 5 * math.sqrt(n * 0.16)


def test_the_last_share_takes_what_rounding_leaves() -> None:
    data = table(5000, classes=1)
    third = np.full((1, 3), np.nextafter(1 / 3, 0))
    assert set(keyed_owners(data, third, 0)) == {0, 1, 2}


def test_class_shares_of_a_private_division_do_not_depend_on_the_records() -> None:
    """The records of class 1 are placed the same whether or not there are any of class 0."""
    data = table(300)
    mine = data.take(np.flatnonzero(data.y == 1))
    for kind in ("iid", "dirichlet"):
        common: dict[str, Any] = {"alpha": 0.3, "seed": 4, "private": True}
        whole = partition(source(data), kind, 4, **common)
        alone = partition(source(mine), kind, 4, **common)
        for a, b in zip(whole, alone, strict=True):
            here = data.take(a)
            assert np.array_equal(here.x[here.y == 1], mine.take(b).x)


def test_another_process_draws_the_same() -> None:
    data = Dataset(np.arange(12, dtype=np.float32).reshape(6, 2), np.arange(6))
    program = (
        "import numpy as np; from fedlite.data import Dataset; from fedlite.data.keyed import *;"
        "d = Dataset(np.arange(12, dtype=np.float32).reshape(6, 2), np.arange(6));"
        "print(keyed_hash(d, 5, 'site').tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == str(keyed_hash(data, 5, "site").tolist())


def test_the_hash_is_keyed_blake2b_of_the_record_s_bytes() -> None:
    """Pinned: another hash would divide every table anew, in the middle of a study."""
    from hashlib import blake2b

    data = table(3)
    key = blake2b(b"9", digest_size=32).digest()
    for x, y, found in zip(data.x, data.y, keyed_hash(data, 9, "site").tolist(), strict=True):
        record = x.astype("<f4").tobytes() + int(y).to_bytes(8, "little", signed=True)
        digest = blake2b(record, digest_size=8, key=key, person=b"site").digest()
        assert found == int.from_bytes(digest, "little")


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
def test_no_number_of_private_records_is_refused(kind: str) -> None:
    """Without privacy the same tables are: a site without records is of no use there."""
    for n in range(4):
        assert len(parts(table(n), kind, 5)) == 10
        with pytest.raises(ValueError, match=r"sites: must lie in|training records"):
            parts(table(n), kind, 5, private=False)
