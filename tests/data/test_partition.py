import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedlite.data import (
    Dataset,
    SiteData,
    Source,
    check_sites,
    lacking,
    of_one_class,
    partition,
    site_data,
    site_names,
)
from fedlite.data.partition import check_expected, class_shares


def source(
    n: int = 300, classes: int = 3, *, groups: np.ndarray | None = None, seed: int = 0
) -> Source:
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    # x carries the record's number, so that a test can tell who ended where.
    x = np.stack([np.arange(n), y], axis=1).astype(np.float32)
    names = () if groups is None else tuple(f"g{i}" for i in range(int(groups.max()) + 1))
    labels = tuple(str(i) for i in range(classes))
    return Source("toy", Dataset(x, y), None, groups, names, (2,), classes, labels, "made here")


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["iid", "dirichlet"]),
    n=st.integers(5, 200),
    classes=st.integers(2, 5),
    sites=st.integers(1, 5),
    alpha=st.sampled_from([0.01, 0.3, 1.0, 100.0]),
    seed=st.integers(0, 2**32),
)
def test_every_record_has_one_owner_and_the_draw_repeats(
    kind: str, n: int, classes: int, sites: int, alpha: float, seed: int
) -> None:
    data = source(n, classes)
    parts = partition(data, kind, sites, alpha=alpha, seed=seed)
    assert len(parts) == sites
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    for part in parts:
        assert part.dtype == np.int64 and np.all(np.diff(part) > 0)
    again = partition(data, kind, sites, alpha=alpha, seed=seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_iid_sizes_differ_by_at_most_one() -> None:
    sizes = [len(p) for p in partition(source(302), "iid", 5, alpha=1.0, seed=4)]
    assert max(sizes) - min(sizes) <= 1


def test_another_seed_is_another_division() -> None:
    for kind in ("iid", "dirichlet"):
        a, b = (partition(source(), kind, 3, alpha=1.0, seed=seed)[0] for seed in (1, 2))
        assert not np.array_equal(a, b)


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_dirichlet_shares_have_the_mean_and_variance_of_the_distribution(alpha: float) -> None:
    """One site's share of a class is Beta(alpha, (K-1) alpha): mean 1/K, known variance."""
    sites, data = 4, source(4000, 2)
    in_class = [np.flatnonzero(data.train.y == label) for label in range(2)]
    shares = np.array(
        [
            [np.isin(records, part).mean() for records in in_class for part in parts]
            for parts in (
                partition(data, "dirichlet", sites, alpha=alpha, seed=seed) for seed in range(150)
            )
        ]
    )
    variance = (sites - 1) / (sites**2 * (sites * alpha + 1))
    draws = shares.shape[0]
    # Four standard errors of a mean over the draws, at fixed seeds.
    assert np.all(np.abs(shares.mean(axis=0) - 1 / sites) < 4 * math.sqrt(variance / draws))
    assert shares.var() == pytest.approx(variance, rel=0.2)


def test_large_alpha_is_nearly_even_and_small_alpha_is_not() -> None:
    def spread(alpha: float) -> float:
        parts = partition(source(3000), "dirichlet", 5, alpha=alpha, seed=3)
        mixes = [np.bincount(source(3000).train.y[p], minlength=3) / max(1, len(p)) for p in parts]
        return float(np.std(mixes, axis=0).mean())

    assert spread(1000.0) < 0.03 < 0.15 < spread(0.1)


def test_natural_follows_the_groups() -> None:
    groups = np.arange(300) % 4
    parts = partition(source(groups=groups), "natural", 4, alpha=1.0, seed=0)
    for number, part in enumerate(parts):
        assert np.array_equal(part, np.flatnonzero(groups == number))
    assert site_names(source(groups=groups), "natural", 4) == ("g0", "g1", "g2", "g3")


@pytest.mark.parametrize(
    ("kind", "sites", "alpha", "seed", "message"),
    [
        (
            "sorted",
            3,
            1.0,
            0,
            r"data.partition: must be one of .*got 'sorted'",
        ),
        ("iid", 0, 1.0, 0, r"sites: must lie in 1\.\.300"),
        ("iid", 301, 1.0, 0, r"sites: must lie in 1\.\.300.*got 301"),
        ("iid", 3, 1.0, -1, "seed"),
        ("dirichlet", 3, 0.0, 0, "alpha"),
        ("dirichlet", 3, math.nan, 0, "alpha"),
        ("dirichlet", 3, math.inf, 0, "alpha"),
        ("natural", 3, 1.0, 0, "needs a source with groups, and toy has none"),
        ("natural", 3, 1.0, 0, "'column' with data.partition_column"),
    ],
)
def test_wrong_settings_are_named(
    kind: str, sites: int, alpha: float, seed: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        partition(source(), kind, sites, alpha=alpha, seed=seed)


def test_natural_needs_as_many_sites_as_groups() -> None:
    with pytest.raises(ValueError, match=r"must equal the 4 groups.*got 3; set sites = 4"):
        partition(source(groups=np.arange(300) % 4), "natural", 3, alpha=1.0, seed=0)


@pytest.mark.parametrize("test_fraction", [0.2, 0.25, 0.5])
def test_folds_are_disjoint_cover_the_site_and_leave_sites_alone(test_fraction: float) -> None:
    folds = round(1 / test_fraction)
    data = source()
    parts = partition(data, "dirichlet", 3, alpha=1.0, seed=5)
    held: list[list[float]] = [[] for _ in parts]
    for fold in range(folds):
        sites = site_data(
            data,
            kind="dirichlet",
            sites=3,
            alpha=1.0,
            seed=5,
            test_fraction=test_fraction,
            fold=fold,
        )
        for number, (site, part) in enumerate(zip(sites, parts, strict=True)):
            ids = np.concatenate([site.train.x[:, 0], site.test.x[:, 0]])
            assert sorted(ids.tolist()) == part.tolist()
            assert np.array_equal(site.train.x[:, 1], site.train.y)
            # Binomial: five standard deviations.
            expected = len(part) / folds
            assert abs(len(site.test) - expected) < 5 * math.sqrt(expected * (1 - 1 / folds))
            held[number] += site.test.x[:, 0].tolist()
    assert [sorted(ids) for ids in held] == [part.tolist() for part in parts]


def test_nothing_is_held_out_at_fraction_zero() -> None:
    sites = site_data(source(), kind="iid", sites=3, alpha=1.0, seed=0, test_fraction=0.0)
    assert [site.name for site in sites] == ["site-01", "site-02", "site-03"]
    assert sum(len(site.train) for site in sites) == 300
    assert all(site.test.x.shape == (0, 2) for site in sites)


def test_holding_out_does_not_move_records_between_sites() -> None:
    common = {"kind": "iid", "sites": 3, "alpha": 1.0, "seed": 9}
    whole = site_data(source(), **common, test_fraction=0.0)
    less = site_data(source(), **common, test_fraction=0.5)
    for a, b in zip(whole, less, strict=True):
        assert set(b.train.x[:, 0]) < set(a.train.x[:, 0])


@pytest.mark.parametrize(
    ("test_fraction", "fold", "message"),
    [
        (-0.1, 0, "test_fraction"),
        (0.6, 0, "test_fraction"),
        (math.nan, 0, "test_fraction"),
        (0.2, 5, r"fold: must lie in 0\.\.4"),
        (0.2, -1, "fold"),
        (0.0, 1, r"fold: must lie in 0\.\.0"),
    ],
)
def test_wrong_folds_are_named(test_fraction: float, fold: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        site_data(
            source(),
            kind="iid",
            sites=3,
            alpha=1.0,
            seed=0,
            test_fraction=test_fraction,
            fold=fold,
        )


def test_a_site_without_records_is_named_with_the_mend() -> None:
    def empty(seed: int) -> bool:
        parts = partition(source(60), "dirichlet", 12, alpha=0.01, seed=seed)
        return not len(parts[0])

    seed = next(seed for seed in range(100) if empty(seed))
    pattern = (
        r"site-01: must have at least 1 training records, got 0 in the dirichlet partition of 12 "
        rf"sites \(alpha=0.01, seed={seed}\); use a larger alpha, fewer sites or another seed"
    )
    with pytest.raises(ValueError, match=pattern):
        site_data(source(60), kind="dirichlet", sites=12, alpha=0.01, seed=seed, test_fraction=0.0)


def test_a_site_whose_every_record_is_held_out_is_named() -> None:
    groups = np.array([0] * 29 + [1])
    found = []
    for fold in range(2):
        try:
            settings = {"kind": "natural", "sites": 2, "alpha": 1.0, "seed": 0, "fold": fold}
            sites = site_data(source(30, 2, groups=groups), test_fraction=0.5, **settings)
            found.append(f"{len(sites[1].train)} record")
        except ValueError as error:
            found.append(str(error).split(" in the ")[0])
    # Its only record is held out in one of the folds, and in the other all that it trains on.
    assert sorted(found) == ["1 record", "g1: must have at least 1 training records, got 0"]


def test_a_site_below_the_minimum_is_named_and_one_of_a_single_class_is_told() -> None:
    x = np.zeros((4, 2), np.float32)
    none = Dataset(x[:0], np.zeros(0, np.int64))
    mixed = SiteData("mixed", Dataset(x, np.array([0, 1, 1, 0])), none)
    single = SiteData("single", Dataset(x, np.ones(4, np.int64)), none)
    check_sites([mixed], 4)
    check_sites([mixed, single], 1)
    assert lacking([mixed, single], 4) == {"mixed": [2, 3], "single": [0, 2, 3]}
    assert of_one_class([mixed, single, SiteData("nobody", none, none)]) == ["single"]
    with pytest.raises(ValueError, match="mixed: must have at least 5 training records, got 4"):
        check_sites([mixed], 5)


def test_a_private_division_is_judged_by_what_is_public() -> None:
    """The size of a named source, its classes and the seed; never by who ended where."""
    check_expected(source(300), "iid", 30, alpha=1.0, seed=0)
    with pytest.raises(ValueError, match=r"site-01: must expect at least 10 records.*got 9\.7 in"):
        check_expected(source(300), "iid", 31, alpha=1.0, seed=0)
    shares = class_shares(3, "dirichlet", 8, alpha=0.1, seed=2).mean(axis=0)
    first = int(np.flatnonzero(300 * shares < 10)[0]) + 1
    with pytest.raises(ValueError, match=rf"site-0{first}: must expect .*use a larger alpha"):
        check_expected(source(300), "dirichlet", 8, alpha=0.1, seed=2)
    # Records of one class only change nothing of it.
    one = Dataset(source(300).train.x, np.zeros(300, np.int64))
    with pytest.raises(ValueError, match=rf"site-0{first}: must expect"):
        check_expected(replace(source(300), train=one), "dirichlet", 8, alpha=0.1, seed=2)
    check_expected(source(20, groups=np.arange(20) % 4), "natural", 4, alpha=1.0, seed=0)


def test_private_shares_are_those_of_the_seed_and_as_skewed_as_asked() -> None:
    found = [class_shares(4, "dirichlet", 5, alpha=0.3, seed=seed) for seed in range(400)]
    whole = np.array(found)
    assert whole.shape == (400, 4, 5) and np.allclose(whole.sum(axis=2), 1.0)
    variance = 4 / (25 * (5 * 0.3 + 1))
    assert abs(float(whole.mean()) - 0.2) < 1e-9
    assert whole.var() == pytest.approx(variance, rel=0.1)
    assert np.array_equal(found[3], class_shares(4, "dirichlet", 5, alpha=0.3, seed=3))


def test_calibration_records_are_neither_trained_on_nor_held_out() -> None:
    data = source(3000)
    settings = {"kind": "iid", "sites": 3, "alpha": 1.0, "seed": 2, "test_fraction": 0.2}
    plain = site_data(data, **settings)
    for fold in (0, 1):
        kept = site_data(data, **settings, fold=fold, calibration=0.25)
        parts = [(s.train, s.test, s.calibration) for s in kept]
        numbers = [[set(part.x[:, 0].astype(int)) for part in each] for each in parts if each[2]]
        assert len(numbers) == 3
        for train, test, calibration in numbers:
            assert not (train & test or train & calibration or test & calibration)
            assert len(calibration) / (len(train) + len(calibration)) == pytest.approx(
                0.25, abs=0.04
            )
        assert set().union(*(n for each in numbers for n in each)) == set(range(3000))
        if fold == 0:
            assert all(np.array_equal(a.test.x, b.test.x) for a, b in zip(plain, kept, strict=True))
    assert all(site.calibration is None for site in plain)


@pytest.mark.parametrize("gone", [0, 17, 299])
def test_a_record_less_moves_no_other_into_or_out_of_calibration(gone: int) -> None:
    whole = source(300)
    keep = np.delete(np.arange(300), gone)
    less = Source("toy", whole.train.take(keep), None, None, (), (2,), 3, whole.labels, "made here")
    settings = {"kind": "iid", "sites": 1, "alpha": 1.0, "seed": 2, "calibration": 0.3}
    found = [site_data(one, **settings, private=True)[0].calibration for one in (whole, less)]
    assert all(part is not None for part in found)
    one, other = ({int(x) for x in part.x[:, 0]} for part in found if part is not None)
    assert one - {gone} == other
