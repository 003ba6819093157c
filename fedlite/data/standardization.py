"""Each site scales its own records by its own training statistics, and tells nobody.

Mean and standard deviation stay inside the site: they are not part of a message, a model or a
ledger. They do depend on all of the site's training records, so what is computed from them is
private towards the server only through the noise that training adds, whose accounting treats one
record's influence on the others' scaled features as absent. A source with fixed public ranges does
not have this weakness.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlite.data.dataset import Dataset, SiteData


def _scale(data: Dataset, mean: NDArray[np.float64], std: NDArray[np.float64]) -> Dataset:
    scaled = (data.x - mean) / std
    # The site's mean is zero once scaled, so this imputes the mean.
    scaled[np.isnan(scaled)] = 0.0
    return Dataset(scaled.astype(np.float32), data.y, more=data.more)


def standardize(site: SiteData) -> SiteData:
    """Return `site` with every feature centred and scaled by the site's own training part.

    Missing values (NaN) are left out of mean and standard deviation, and then set to the mean. A
    feature that is constant at the site is only centred; one that is missing throughout is 0. The
    held-out parts are scaled by the same numbers and have no influence on them.

    An empty training part leaves the held-out values as they are. What is returned is float32, but
    it is computed in float64, so that unix times keep their seconds.

    >>> train = Dataset(np.array([[1.0], [3.0], [np.nan]]), np.array([0, 1, 1]), raw=True)
    >>> test = Dataset(np.array([[5.0]], np.float32), np.array([1]))
    >>> scaled = standardize(SiteData("a", train, test))
    >>> scaled.train.x.ravel().tolist(), scaled.test.x.ravel().tolist()
    ([-1.0, 1.0, 0.0], [3.0])
    """
    mean, std = statistics(site.train)
    return site.each(lambda part: _scale(part, mean, std))


def statistics(data: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and spread of every feature, float64 [*shape], as `standardize` scales by them.

    The mean of a feature that is missing throughout is NaN.
    """
    x = data.x.astype(np.float64)
    seen = ~np.isnan(x)
    count = np.maximum(seen.sum(axis=0), 1)
    mean = np.where(seen, x, 0.0).sum(axis=0) / count
    std = np.sqrt((np.where(seen, x - mean, 0.0) ** 2).sum(axis=0) / count)
    if len(x):
        # The site cannot scale what it has never seen, also where it holds out a value of it.
        mean = np.where(seen.any(axis=0), mean, np.nan)
    # float64 rounding leaves a constant column with a spread of this order instead of zero.
    return mean, np.where(std > 1e-12 * np.abs(mean), std, 1.0)
