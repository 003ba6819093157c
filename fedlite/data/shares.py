"""What many sites hold, made when it is asked for: a source is not copied for all of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import overload

from fedlite.data.dataset import Dataset, Indices, SiteData

# Sites whose records are kept as they were made. Of more, the one that was made first goes.
_KEPT = 512


class Shares(Sequence[SiteData]):
    """What each site holds of a source's training records, by name.

    places: for each site where its records are that it trains on, holds out and calibrates with,
    int64; None where nobody does the last.
    """

    def __init__(
        self,
        records: Dataset,
        names: Sequence[str],
        places: Sequence[tuple[Indices, Indices, Indices | None]],
        finish: Callable[[SiteData], SiteData] | None = None,
    ) -> None:
        """Keep where the records are. finish: what is done to a site's records once taken."""
        self.names = tuple(names)
        self.records, self.places, self._finish = records, places, finish
        self._made: OrderedDict[int, SiteData] = OrderedDict()

    @property
    def sizes(self) -> list[int]:
        """How many records each site trains on."""
        return [len(train) for train, _, _ in self.places]

    def each(self, finish: Callable[[SiteData], SiteData]) -> Shares:
        """Return the shares with each site's records changed, when they are taken."""
        return Shares(self.records, self.names, self.places, finish)

    def __len__(self) -> int:
        """Return the number of sites."""
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> SiteData: ...

    @overload
    def __getitem__(self, at: slice) -> list[SiteData]: ...

    def __getitem__(self, at: int | slice) -> SiteData | list[SiteData]:
        """Return what site number `at` holds."""
        if isinstance(at, slice):
            return [self[n] for n in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        if at not in self._made:
            self._made[at] = self._make(at)
            if len(self._made) > _KEPT:
                self._made.popitem(last=False)
        return self._made[at]

    def _make(self, at: int) -> SiteData:
        train, test, kept = self.places[at]
        take = self.records.take
        held = None if kept is None else take(kept)
        site = SiteData(self.names[at], take(train), take(test), held)
        return site if self._finish is None else self._finish(site)


def sizes(sites: Sequence[SiteData]) -> dict[str, int]:
    """Return how many records each site trains on, by name; of `Shares` without making them."""
    return {name: train for name, (train, _, _) in lengths(sites).items()}


def lengths(sites: Sequence[SiteData]) -> dict[str, tuple[int, int, int]]:
    """Return how many records each site trains on, holds out and calibrates with, by name."""
    if isinstance(sites, Shares):
        named = zip(sites.names, sites.places, strict=True)
        return {n: (len(a), len(b), 0 if c is None else len(c)) for n, (a, b, c) in named}
    return {s.name: (len(s.train), len(s.test), len(s.calibration or ())) for s in sites}


def answers(sites: Sequence[SiteData]) -> Iterator[tuple[str, Indices | None]]:
    """Yield each site's name and the classes of what it trains on, None where records have none."""
    if isinstance(sites, Shares):
        y = sites.records.classes
        for name, (train, _, _) in zip(sites.names, sites.places, strict=True):
            yield name, None if y is None else y[train]
    else:
        yield from ((site.name, site.train.classes) for site in sites)
