"""Who holds which records: a source divided among sites, reproducibly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data import skew
from fedlite.data.dataset import Indices, SiteData, Source
from fedlite.data.keyed import keyed_folds, keyed_owners, keyed_part
from fedlite.data.own import divided
from fedlite.data.shares import Shares, answers, sizes as sizes_of
from fedlite.data.skew import ASSIGN
from fedlite.scenario.records import ALONE, PARTITIONS

# Those that alpha skews.
_SKEWED = ("dirichlet", "quantity")
# Fewer on average, and by chance a site is left with next to nothing.
_LEAST_EXPECTED = 10
_NONE: Mapping[str, Any] = {}


def describe(kind: str, sites: int, *, alpha: float, seed: int) -> str:
    """Return a division in words, for messages.

    >>> describe("dirichlet", 5, alpha=0.3, seed=1)
    'dirichlet partition of 5 sites (alpha=0.3, seed=1)'
    """
    details = f"alpha={alpha:g}, seed={seed}" if kind in _SKEWED else f"seed={seed}"
    return f"{kind} partition of {sites} sites ({details})"


def partition(
    source: Source,
    kind: str,
    sites: int,
    *,
    alpha: float,
    seed: int,
    shards: int = 2,
    least: int = 0,
    private: bool = False,
    options: Mapping[str, Any] = _NONE,
) -> list[Indices]:
    """Return, for each site, the ascending indices (int64) of its records in `source.train`.

    Every record goes to exactly one site, and the same arguments give the same division. Beside
    the following, `kind` may be a function of others (`own.divided`) with its `options`.

    - `iid`: at random, sizes within one of each other.
    - `dirichlet`: skewed labels and sizes. For each class, the sites' shares of its records are
      drawn from Dir(alpha, ..., alpha), `alpha` > 0; small is skewed. This is the form of Yurochkin
      et al. 2019 (Bayesian Nonparametric FL, section 4) in which the label skew of Hsu, Qi, Brown
      2019 (arXiv 1909.06335) is commonly run: Hsu et al. draw a class mix per client of equal
      size instead, which cannot use every record. It is drawn anew until each site has `least`
      records (`draws`); with 0 a site may be left with nothing: `check_sites`.
    - `quantity`: skewed sizes alone, the sites' shares of all records drawn as above.
    - `shards`: few classes a site, `fedlite.data.skew.shards`: `shards` pieces each.
    - `natural`: the source's own groups, in the order of `group_names`.

    With `private`, one record more or less moves no other: each is placed by a keyed hash of itself
    (`fedlite.data.keyed`), for `dirichlet` and `quantity` into shares that only the seed decides.
    Sizes are then binomial, and a site may be left with nothing. `shards`, which orders records by
    each other, is refused.

    Raises ValueError on an unknown kind, or when `sites`, `alpha` or `seed` do not fit the source.
    """
    if options and kind in PARTITIONS:
        raise ValueError(
            f"data.partition_options: must be empty for {kind!r}, got {dict(options)}; what "
            "dirichlet takes is data.alpha"
        )
    _check(source, kind, sites, alpha=alpha, seed=seed, shards=shards, private=private)
    if kind == "natural":
        return _natural(source, sites)
    if kind not in PARTITIONS:
        return divided(source, kind, sites, seed=seed, options=options)
    if private:
        shares = class_shares(source.classes, kind, sites, alpha=alpha, seed=seed)
        owner = keyed_owners(source.train, shares, seed)
    elif kind == "iid":
        rng = np.random.default_rng((ASSIGN, seed))
        split = np.array_split(rng.permutation(len(source.train)), sites)
        return [np.sort(part) for part in split]
    elif kind == "shards":
        owner = skew.shards(source.train.y, sites, shards, seed)
    else:
        owner, _ = skew.with_least(_draw(source, kind, sites, alpha), sites, least, seed)
    return [np.flatnonzero(owner == site) for site in range(sites)]


def draws(source: Source, kind: str, sites: int, *, alpha: float, seed: int, least: int) -> int:
    """Return how many divisions `partition` draws, not private, until each site has `least`."""
    if kind not in _SKEWED:
        return 1
    return skew.with_least(_draw(source, kind, sites, alpha), sites, least, seed)[1]


def _draw(
    source: Source, kind: str, sites: int, alpha: float
) -> Callable[[np.random.Generator], Indices]:
    if kind == "quantity":
        return skew.quantity(len(source.train), sites, alpha)
    return skew.dirichlet(source.train.y, source.classes, sites, alpha)


def _check(
    source: Source,
    kind: str,
    sites: int,
    *,
    alpha: float,
    seed: int,
    shards: int,
    private: bool,
) -> None:
    if private and kind not in ALONE:
        raise ValueError(
            f"data.partition: must be one of {', '.join(ALONE)} where records are private "
            f"(rule: a record is placed by itself alone), got {kind!r}; use one of these"
        )
    n = len(source.train)
    # Of private records not even their number may decide: a site without any trains on none.
    if not 1 <= sites <= (sites if private else n):
        raise ValueError(
            f"sites: must lie in 1..{n}, the records of {source.name}, got {sites}; use fewer sites"
        )
    if seed < 0:
        raise ValueError(f"seed: must be 0 or greater, got {seed}")
    if kind in _SKEWED and not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(
            f"alpha: must be finite and greater than 0 for a {kind} partition, got {alpha}; "
            "0.1 is very skewed, 100 nearly even"
        )
    if kind in ("dirichlet", "shards") and source.train.classes is None:
        raise ValueError(
            f"partition: {kind} skews the shares of classes, and these records have none; use "
            "'iid', 'quantity' or 'natural'"
        )
    if kind == "shards" and not 1 <= shards * sites <= n:
        raise ValueError(
            f"shards: {sites} sites with {shards} each need as many records, and {source.name} has "
            f"{n}; use fewer"
        )


def class_shares(
    classes: int, kind: str, sites: int, *, alpha: float, seed: int
) -> NDArray[np.float64]:
    """Return each site's expected share of each class, float64 [classes, sites], from the seed.

    For the kinds `iid`, `dirichlet` and `quantity` of a private partition. No record is looked at.
    """
    if kind == "iid":
        return np.full((classes, sites), 1.0 / sites)
    rng = np.random.default_rng((ASSIGN, seed))
    if kind == "quantity":
        return np.tile(rng.dirichlet(np.full(sites, alpha)), (classes, 1))
    return rng.dirichlet(np.full(sites, alpha), size=classes)


def check_expected(source: Source, kind: str, sites: int, *, alpha: float, seed: int) -> None:
    """Refuse a private division that by chance may leave a site without records to train on.

    Only what is public counts: the size of a named source, its number of classes, and the seed. The
    groups of a `natural` partition are as they are.

    Raises ValueError naming the first such site, the rule, the value and the mend.
    """
    if kind == "natural":
        return
    shares = class_shares(source.classes, kind, sites, alpha=alpha, seed=seed)
    for name, share in zip(site_names(source, kind, sites), shares.mean(axis=0), strict=True):
        expected = share * len(source.train)
        if expected < _LEAST_EXPECTED:
            raise ValueError(
                f"{name}: must expect at least {_LEAST_EXPECTED} records, because how many a "
                f"private site holds may stop no run later, got {expected:.1f} in the "
                f"{describe(kind, sites, alpha=alpha, seed=seed)}; {_mend(kind)}"
            )


def _natural(source: Source, sites: int) -> list[Indices]:
    if source.groups is None:
        raise ValueError(
            f"partition: natural needs a source with groups, and {source.name} has none; use "
            "'iid' or 'dirichlet', or 'column' with data.partition_column, where a column of a "
            "table says whose each record is"
        )
    if sites != len(source.group_names):
        raise ValueError(
            f"sites: must equal the {len(source.group_names)} groups of {source.name} "
            f"({', '.join(source.group_names)}) for a natural partition, got {sites}; "
            f"set sites = {len(source.group_names)}"
        )
    return [np.flatnonzero(source.groups == group) for group in range(sites)]


def site_names(source: Source, kind: str, sites: int) -> tuple[str, ...]:
    """Return the names of the sites: the groups' for `natural`, else site-01, site-02, ..."""
    if kind == "natural":
        return source.group_names
    width = max(2, len(str(sites)))
    return tuple(f"site-{number:0{width}d}" for number in range(1, sites + 1))


def _fold_count(test_fraction: float, fold: int) -> int:
    """Return how many folds a held-out fraction means; 0 means that nothing is held out."""
    if test_fraction == 0:
        folds = 0
    elif 0 < test_fraction <= 0.5:
        folds = round(1 / test_fraction)
    else:
        raise ValueError(
            f"test_fraction: must be 0, or greater than 0 and at most 0.5, got {test_fraction}; "
            "0.2 holds out a fifth"
        )
    if not 0 <= fold < max(1, folds):
        raise ValueError(
            f"fold: must lie in 0..{max(1, folds) - 1} for test_fraction {test_fraction:g}, "
            f"got {fold}"
        )
    return folds


def site_data(
    source: Source,
    *,
    kind: str,
    sites: int,
    alpha: float,
    seed: int,
    test_fraction: float = 0.2,
    fold: int = 0,
    shards: int = 2,
    least: int = 0,
    private: bool = False,
    options: Mapping[str, Any] = _NONE,
    calibration: float = 0.0,
) -> Shares:
    """Return what each site holds: its share of `source.train`, less its own held-out part.

    The held-out part is fold number `fold` of round(1 / test_fraction) folds, which are disjoint
    and together cover the site's records. A record's fold comes from a keyed hash of it alone, so
    one record more or less in a site's table is one more or less in either part, and moves no other
    (`fedlite.data.keyed`). With `test_fraction` 0 nothing is held out. A global test set of the
    source is left alone either way. Missing values stay NaN: see `standardize`.

    `calibration` > 0 is the share of the records that are not held out which is neither trained on:
    a site's `calibration` part. Which they are comes from another keyed hash, that knows no fold.

    Raises ValueError as `partition` does and, unless the records are `private`, as `check_sites`
    does: a refusal that depends on private records would tell something of them.
    """
    folds = _fold_count(test_fraction, fold)
    shares = partition(
        source,
        kind,
        sites,
        alpha=alpha,
        seed=seed,
        shards=shards,
        least=least,
        private=private,
        options=options,
    )
    held = np.zeros(len(source.train), np.bool_)
    if folds:
        held = keyed_folds(source.train, folds, seed) == fold
    trained, kept = ~held, None
    if calibration:
        kept = ~held & keyed_part(source.train, calibration, seed, "calibration")
        trained = ~held & ~kept
    parts = [
        (mine[trained[mine]], mine[held[mine]], None if kept is None else mine[kept[mine]])
        for mine in shares
    ]
    result = Shares(source.train, site_names(source, kind, sites), parts)
    if not private:
        where = describe(kind, sites, alpha=alpha, seed=seed)
        check_sites(result, 1, where=where, mend=_mend(kind))
    return result


def _mend(kind: str) -> str:
    return {
        "dirichlet": "use a larger alpha, fewer sites or another seed",
        "quantity": "use a larger alpha, fewer sites or another seed",
        "shards": "use more shards, fewer sites or another seed",
        "iid": "use fewer sites or another seed",
    }.get(kind, "give the site more records, or leave it out of the source")


def check_sites(
    sites: Sequence[SiteData], minimum: int, *, where: str = "federation", mend: str = ""
) -> None:
    """Refuse sites that cannot take part in training without privacy.

    Each needs at least max(1, `minimum`) training records. `where` and `mend` go into the message.

    Raises ValueError naming the first such site, the rule, the value and the mend.
    """
    mend = mend or "give the site more records, or leave it out"
    for name, size in sizes_of(sites).items():
        if size < max(1, minimum):
            raise ValueError(
                f"{name}: must have at least {max(1, minimum)} training records, got "
                f"{size} in the {where}; {mend}"
            )


def of_one_class(sites: Sequence[SiteData]) -> list[str]:
    """Return the names of the sites whose training records are of one class only.

    Such a site teaches the others to answer that class: allowed without privacy, and worth a note.
    """
    found = answers(sites)
    return [name for name, y in found if y is not None and len(y) and (y == y[0]).all()]


def lacking(sites: Sequence[SiteData], count: int) -> dict[str, list[int]]:
    """Return which of `count` classes a site has no training record of, of each that lacks one."""
    classes = {site.name: site.train.classes for site in sites}
    absent = {
        name: sorted({*range(count)}.difference(y.tolist()))
        for name, y in classes.items()
        if y is not None
    }
    return {name: missing for name, missing in absent.items() if missing}
