"""From a scenario's data settings to what every simulated site holds."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fedlite.config import Data
from fedlite.data.catalog import load
from fedlite.data.dataset import Dataset, SiteData, Source
from fedlite.data.partition import site_data
from fedlite.data.standardization import standardize


def load_source(data: Data) -> Source:
    """Return the source that the settings name; raises ValueError as `load` does."""
    return load(
        data.name,
        path=data.path,
        target=data.target,
        shape=data.sizes,
        labels=data.class_names,
    )


@lru_cache(maxsize=4)
def spread(data: Data, sites: int, seed: int) -> tuple[Source, tuple[SiteData, ...]]:
    """Load a source and spread it over simulated sites; the last few results are kept.

    With `scaling = "site"` each site scales a CSV's columns by its own training statistics; with
    `"none"` they are taken as they are and a missing value is 0. The catalogue's other sources come
    scaled by fixed public ranges already.

    Raises ValueError as `load` and `site_data` do.
    """
    source = load_source(data)
    parts = site_data(
        source,
        kind=data.partition,
        sites=sites,
        alpha=data.alpha,
        seed=seed,
        test_fraction=data.test_fraction,
        fold=data.fold,
    )
    if data.name == "csv":
        parts = [standardize(p) if data.scaling == "site" else _filled(p) for p in parts]
    return source, tuple(parts)


def _filled(site: SiteData) -> SiteData:
    train, test = (
        Dataset(np.nan_to_num(part.x, nan=0.0), part.y) for part in (site.train, site.test)
    )
    return SiteData(site.name, train, test)
