"""The records that a site's operator has named, read as a plan's settings say.

Without torch: the site's own process reads them to know what it commits to, and the process in
which approved code trains reads them again. Nothing that a server can choose names a file here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedlite.data import Dataset, SiteData, Source, find
from fedlite.data.spread import divided, load_source, share_out
from fedlite.guard.policy import DataSet
from fedlite.scenario import Data, Scenario
from fedlite.scenario.texts import LANGUAGE

log = logging.getLogger("fedlite.site")


def own_source(scenario: Scenario, chosen: DataSet, home: Path) -> tuple[Source, Data]:
    """Return the source that the operator has named, and the plan's settings of it.

    Where it is private, rows of a file that do not fit the plan are left out. Whose a record is, is
    for the operator to say: a plan that names a column or a file of that is refused.
    """
    if scenario.data.partition in ("column", "file"):
        raise ValueError(
            f"data.partition: must not be {scenario.data.partition!r} at a real site (rule: its "
            "operator says which records are its own, by `part` in site.toml); use natural"
        )
    entry = find(chosen.source)
    nameless = entry.own and entry.table and not chosen.target
    if nameless and scenario.task.reads != LANGUAGE:
        raise ValueError(
            f"site.toml: data.{chosen.name}.target: must name the label column for the task "
            f"{scenario.task.name} (rule: only texts that are their own answers, {LANGUAGE}, need "
            "none), got ''; name it"
        )
    path = str(chosen.file(home)) if chosen.path else ""
    settings = replace(scenario.data, name=chosen.source, path=path, target=chosen.target)
    # The sites' files must be read alike, so no file may say by its records what its columns are.
    kind = scenario.task.reads
    source = load_source(settings, kind, settled=True, skip_wrong=scenario.private)
    return source, settings


def own_records(
    scenario: Scenario, chosen: DataSet, home: Path, site: str, *, raw: bool = False
) -> tuple[Source, SiteData]:
    """Return the records that the operator has named, under the site's own name.

    raw: as they were read, neither scaled nor filled.

    Where they are private, neither a row of a file that does not fit the plan nor a part without
    rows stops the site: it trains on what is left, and on nothing if need be.
    """
    source, settings = own_source(scenario, chosen, home)
    private, federation = scenario.private, scenario.federation
    kept, share = scenario.inference.calibration, divided if raw else share_out
    for note in source.notes:
        log.warning("data.%s: %s", chosen.name, note)
    if chosen.part and settings.partition != "natural":
        sites, seed = federation.sites, federation.seed
        shares = share(source, settings, sites, seed, private=private, calibration=kept)
        found = {one.name: one for one in shares}
        if chosen.part not in found:
            raise _no_such_part(chosen, found)
        return source, replace(found[chosen.part], name=site)
    own = _of_part(source, chosen, private=private) if chosen.part else source
    alone = replace(settings, partition="iid")
    (data,) = share(own, alone, 1, federation.seed, private=private, calibration=kept)
    return source, replace(data, name=site)


def _of_part(source: Source, chosen: DataSet, *, private: bool) -> Source:
    """Return the rows of one of the source's groups."""
    names = source.group_names
    if source.groups is None or (chosen.part not in names and not (private and chosen.path)):
        raise _no_such_part(chosen, names)
    if chosen.part not in names:
        log.warning("data.%s.part: no row is of %r; see the file", chosen.name, chosen.part)
    number = names.index(chosen.part) if chosen.part in names else -1
    return replace(
        source, train=source.train.take(np.flatnonzero(source.groups == number)), groups=None
    )


def _no_such_part(chosen: DataSet, known: Iterable[str]) -> ValueError:
    return ValueError(
        f"site.toml: data.{chosen.name}.part: must be one of {', '.join(sorted(known)) or 'none'}, "
        f"got {chosen.part!r}"
    )


def counted(data: SiteData, scenario: Scenario, most: int) -> Dataset:
    """Return the records that count: where they are private, the first `most` (0: all of them).

    A table that keeps what was declared of it is never cut. To refuse one that does not would tell
    how many records it has; to train on all of it would cost more than the plan says.
    """
    if not (scenario.private and 0 < most < len(data.train)):
        return data.train
    log.warning("%s: only the first %d records count, as declared", data.name, most)
    return data.train.take(np.arange(most))
