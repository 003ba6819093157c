"""From a scenario's data settings to what every simulated site holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlite.data.bases import check_pin
from fedlite.data.catalog import load
from fedlite.data.dataset import Dataset, SiteData, Source
from fedlite.data.owners import by_file
from fedlite.data.partition import draws, site_data
from fedlite.data.shares import Shares
from fedlite.data.standardization import standardize
from fedlite.scenario import Data, Scenario, own_stamps, tabular
from fedlite.settings import read_options
from fedlite.storage import stamp

# Keeps the draw of weak sites apart from every other use of the same seed.
_WEAK = 20_231
# So many names of sites are told.
_TOLD = 5


def load_source(
    data: Data,
    task: str = "classification",
    *,
    settled: bool = False,
    skip_wrong: bool = False,
) -> Source:
    """Return the source that the settings name; raises ValueError as `load` does.

    task: what is to be answered. settled: nothing about a table's columns is found out from its
    records. skip_wrong: leave out its rows that do not fit. Both as in `load_table`.
    """
    if data.base_sha256:
        check_pin(data.tokenizer, data.base_sha256)
    source = load(
        data.name,
        options=data.options,
        path=data.path,
        target=data.target,
        # Of a text the tokenizer says it.
        shape=() if data.tokenizer else data.sizes,
        labels=data.class_names,
        columns=data.reading,
        texts=data.texts,
        task=task,
        target_ranges=tabular.ranges(data.target_ranges),
        settled=settled,
        skip_wrong=skip_wrong,
    )
    return by_file(source, data.partition_file) if data.partition_file else source


def spread(scenario: Scenario) -> tuple[Source, Shares]:
    """Load a scenario's source and share it out to its sites; the last few results are kept.

    Raises ValueError as `load` and `share_out` do.
    """
    federation = scenario.federation
    data = scenario.data
    own = f"{data.tokenizer}/tokenizer.json" if data.tokenizer else ""
    files = (data.path, data.partition_file, own)
    seen = tuple(stamp(Path(file).expanduser()) for file in files if file)
    return _spread(
        data,
        scenario.task.reads,
        federation.sites,
        federation.seed,
        scenario.private,
        scenario.inference.calibration,
        (seen, own_stamps(scenario, "data.name", "data.partition", "data.redactor")),
    )


@lru_cache(maxsize=4)
def _spread(
    data: Data, task: str, sites: int, seed: int, private: bool, calibration: float, _seen: object
) -> tuple[Source, Shares]:
    source = load_source(data, task, settled=private)
    parts = share_out(source, data, sites, seed, private=private, calibration=calibration)
    drawn = 1
    if not private:
        drawn = draws(source, data.division, sites, alpha=data.alpha, seed=seed, least=data.least)
    if drawn > 1:
        note = f"the division was drawn {drawn} times, until each site had {data.least} records"
        source = replace(source, notes=(*source.notes, note))
    return _with_test(source, data), parts


def _with_test(source: Source, data: Data) -> Source:
    """Return a source that is loaded already with its test set scaled as its records are.

    Nobody holds it: where sites scale by their own statistics, it takes those of all records.
    """
    if source.test is None or not source.test.raw:
        return source
    whole = SiteData(source.name, source.train, source.test)
    own = data.scaling == "site" and source.ranges is None
    scaled = standardize(whole) if own else filled(whole, source.ranges)
    return replace(source, test=scaled.test)


def weak_of(scenario: Scenario, names: Sequence[str]) -> frozenset[str]:
    """Return which of the simulated sites, called `names`, train the shallow branch alone.

    Those that the scenario names, or `floor(federation.weak * sites)` that the seed draws: no
    record has a part in it.

    Raises ValueError where one is named that is not there, where none is drawn, and where none is
    left that trains the tail.
    """
    federation = scenario.federation
    named = frozenset(federation.weak_named)
    if not named and not federation.weak:
        # Of many sites the names are not looked at where nothing is asked of them.
        return named
    if strangers := sorted(named - {*names}):
        raise ValueError(
            f"federation.weak_sites: must name sites of the federation, which are "
            f"{', '.join(names[:_TOLD])}{', ...' * (len(names) > _TOLD)}, got {strangers[0]!r}"
        )
    if named and len(named) == len(names):
        raise ValueError(
            f"federation.weak_sites: must leave a site that trains the whole model, got all "
            f"{len(names)}; leave one out"
        )
    if not federation.weak:
        return named
    count = int(federation.weak * len(names) + 1e-9)
    if not count:
        raise ValueError(
            f"federation.weak: must be the share of one site of {len(names)} at least, got "
            f"{federation.weak:g}; set it to {1 / len(names):.2g} or more, or to 0"
        )
    rng = np.random.default_rng([_WEAK, federation.seed])
    return frozenset(names[at] for at in rng.choice(len(names), count, replace=False))


def share_out(
    source: Source, data: Data, sites: int, seed: int, *, private: bool, calibration: float = 0.0
) -> Shares:
    """Return what each of `sites` sites holds of a source that is loaded already.

    With `scaling = "site"` each site scales a table's columns by its own training statistics; with
    `"none"` they are taken as they are, with public ranges these are mapped to -1..1; a missing
    value is 0 then. The catalogue's
    other sources come scaled by fixed public ranges already.

    Raises ValueError as `site_data` does.
    """
    parts = divided(source, data, sites, seed, private=private, calibration=calibration)
    if source.train.raw:
        own = data.scaling == "site" and source.ranges is None
        parts = parts.each(standardize if own else partial(filled, ranges=source.ranges))
    return parts


def divided(
    source: Source, data: Data, sites: int, seed: int, *, private: bool, calibration: float = 0.0
) -> Shares:
    """Return what each site holds as it was read: nothing is scaled, and what is missing is NaN.

    Raises ValueError as `site_data` does.
    """
    return site_data(
        source,
        kind=data.division,
        sites=sites,
        alpha=data.alpha,
        seed=seed,
        test_fraction=data.test_fraction,
        fold=data.fold,
        shards=data.shards,
        least=data.least,
        private=private,
        options=read_options(data.partition_options),
        calibration=calibration,
    )


def filled(site: SiteData, ranges: NDArray[np.float64] | None) -> SiteData:
    """Return the records as they are, or mapped from public ranges to -1..1; missing ones are 0.

    Who holds a record, and who holds it out, was settled by its own values: other ranges move none.
    """

    def fill(part: Dataset) -> Dataset:
        x = part.x
        if ranges is not None:
            low, high = ranges
            x = (np.clip(x, low, high) - low) * (2 / (high - low)) - 1
        return Dataset(np.nan_to_num(x.astype(np.float32), nan=0.0), part.y, more=part.more)

    return site.each(fill)
