"""Divisions by lot: every record once, as skewed as documented, drawn again until all have some."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedlite.data import Dataset, Source, partition
from fedlite.data.keyed import keyed_owners
from fedlite.data.partition import check_expected, class_shares, draws
from fedlite.data.spread import spread
from fedlite.scenario import Data, Federation, Scenario, ScenarioError, from_dict

N, CLASSES = 600, 10


def source(n: int = N, *, numbers: bool = False) -> Source:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2)).astype(np.float32)
    y = rng.normal(size=(n, 1)).astype(np.float32) if numbers else np.arange(n) % CLASSES
    width = 1 if numbers else CLASSES
    labels = tuple(map(str, range(width)))
    return Source("toy", Dataset(x, y), None, None, (), (2,), width, labels, "made here")


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["shards", "quantity", "dirichlet"]),
    n=st.integers(20, 300),
    sites=st.integers(1, 8),
    shards=st.integers(1, 2),
    seed=st.integers(0, 2**40),
)
def test_every_record_has_one_owner_and_the_draw_repeats(
    kind: str, n: int, sites: int, shards: int, seed: int
) -> None:
    chosen = {"alpha": 1.0, "seed": seed, "shards": shards, "least": 1}
    parts = partition(source(n), kind, sites, **chosen)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    assert min(map(len, parts)) >= 1
    again = partition(source(n), kind, sites, **chosen)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shards_are_equal_and_of_few_classes(shards: int) -> None:
    """600 records, 60 of each class: of 10 sites with 2 shards, each shard holds one class."""
    parts = partition(source(), "shards", 10, alpha=1.0, seed=3, shards=shards)
    assert {len(part) for part in parts} == {60}
    of = [len(np.unique(part % CLASSES)) for part in parts]
    assert max(of) <= shards and (shards == 1 or max(of) > 1)
    other = partition(source(), "shards", 10, alpha=1.0, seed=4, shards=shards)
    assert not all(np.array_equal(a, b) for a, b in zip(parts, other, strict=True))
    with pytest.raises(ValueError, match=r"shards: 10 sites with 61 each need as many records"):
        partition(source(), "shards", 10, alpha=1.0, seed=3, shards=61)
    with pytest.raises(ValueError, match=r"shards skews the shares of classes.*have none"):
        partition(source(numbers=True), "shards", 10, alpha=1.0, seed=3)


@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_quantity_has_the_variance_of_the_distribution_and_even_classes(alpha: float) -> None:
    """A site's share is Beta(alpha, (K-1) alpha); its mix of classes is that of all."""
    sites, big = 5, source(5000)
    drawn = [partition(big, "quantity", sites, alpha=alpha, seed=seed) for seed in range(200)]
    shares = np.array([[len(part) / 5000 for part in parts] for parts in drawn])
    assert shares.mean() == pytest.approx(0.2)
    assert shares.var() == pytest.approx(4 / (25 * (sites * alpha + 1)), rel=0.2)
    largest = max(drawn[0], key=len)
    mix = np.bincount(largest % CLASSES, minlength=CLASSES) / len(largest)
    assert np.abs(mix - 0.1).max() < 5 * np.sqrt(0.09 / len(largest))
    assert len(partition(source(numbers=True), "quantity", 3, alpha=alpha, seed=1)) == 3


def test_a_division_is_drawn_again_until_each_site_has_enough() -> None:
    common = {"alpha": 0.1, "seed": 5}
    first = partition(source(), "dirichlet", 12, **common)
    few = min(map(len, first))
    number = draws(source(), "dirichlet", 12, least=few + 1, **common)
    assert number > 1 and draws(source(), "dirichlet", 12, least=few, **common) == 1
    second = partition(source(), "dirichlet", 12, least=few + 1, **common)
    assert min(map(len, second)) > few
    assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    same = partition(source(), "dirichlet", 12, least=few, **common)
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    with pytest.raises(ValueError, match=r"least: each site must get at least 51 records, and in "):
        partition(source(), "dirichlet", 12, least=51, **common)


def test_a_run_says_how_often_the_division_was_drawn() -> None:
    data = Data(partition="quantity", alpha=0.5, least=20)
    read, sites = spread(Scenario(Federation(sites=10), data))
    assert min(len(site.train) + len(site.test) for site in sites) >= 20
    (note,) = read.notes
    assert note.startswith("the division was drawn ") and "until each site had 20" in note


def test_a_private_quantity_is_shares_of_the_seed_and_moves_no_other_record() -> None:
    shares = class_shares(3, "quantity", 4, alpha=0.5, seed=7)
    assert shares.shape == (3, 4) and np.allclose(shares.sum(axis=1), 1)
    assert (shares == shares[0]).all(), "every class alike: sizes are skewed, and nothing else"
    big = source(4000)
    parts = partition(big, "quantity", 4, alpha=0.5, seed=7, private=True)
    expected = 4000 * class_shares(CLASSES, "quantity", 4, alpha=0.5, seed=7)[0]
    assert np.allclose([len(part) for part in parts], expected, atol=5 * np.sqrt(1000))
    for row in (0, 17, 3999):
        kept = np.delete(np.arange(4000), row)
        less = partition(
            replace(big, train=big.train.take(kept)), "quantity", 4, alpha=0.5, seed=7, private=True
        )
        for whole, part in zip(parts, less, strict=True):
            assert np.array_equal(kept[part], whole[whole != row])
    owners = keyed_owners(big.train, np.tile(shares[0], (CLASSES, 1)), 7)
    assert np.array_equal(np.flatnonzero(owners == 2), parts[2])


def test_a_private_division_by_the_order_of_records_is_refused_twice() -> None:
    with pytest.raises(
        ValueError, match=r"data.partition: must be one of .* where records are private \(rule"
    ):
        partition(source(), "shards", 3, alpha=1.0, seed=1, private=True)
    private = {"privacy": {"unit": "record"}, "training": {"steps": 1}}
    for data, rule in (
        (
            {"partition": "shards"},
            r"data.partition: must be one of iid, .*one more or less moves no",
        ),
        ({"partition": "file", "partition_file": "a"}, r"data.partition: must be one of iid, "),
        ({"least": 2}, r"data.least: must be 1 when privacy.unit is not none \(rule: how many"),
    ):
        with pytest.raises(ScenarioError, match=rule):
            from_dict(private | {"data": data})
        from_dict({"data": data})
    assert from_dict(private | {"data": {"partition": "quantity"}}).private


def test_what_is_public_decides_whether_a_site_expects_enough() -> None:
    with pytest.raises(ValueError, match=r"must expect at least 10 records.*quantity partition of"):
        check_expected(source(200), "quantity", 15, alpha=0.3, seed=1)
