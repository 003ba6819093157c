"""The site's own `site.toml`: ceilings, units, and what may run and leave, read for every round.

```toml
[site]
name = "site-01"
owner = ""                # the data owner's public key, 64 hex digits

[budget]
epsilon = 3.0             # over all runs and servers, for one data set
delta = 1e-5
person = 0.0              # over all data sets of the site; 0: no such ceiling
per_run = 0.0             # for one run by itself; 0: no such ceiling
units = ["record"]        # record, record-shared, client-shared, client-site, client-server, none
honest = 0                # how many others are trusted to be honest where noise is shared
alone = 0.0               # epsilon if all others collude with the server; 0: budget.epsilon

[egress]
metrics = []              # what may leave beside an update: records, counts
clock = 0                 # seconds: replies leave at multiples of it only; 0: when they are ready

[servers]
keys = []                 # whose signatures are accepted; none listed: anybody's

[limits]
device = "auto"           # what approved code may use: auto, cpu, cuda
threads = 1               # of torch, 1 to 64
up = 10000000             # bytes of one message that leaves; a larger one is refused
down = 500000000          # bytes of one message that comes in
seconds = 3600            # a round that takes longer is ended
state = 4000000000        # bytes that approved code may keep on the disk for a run
sandbox = true            # approved code runs under the kernel's Landlock

[releases]
fetch = false             # whether bundles of models are fetched that a coordinator has released
bytes = 200000000         # of all files of one; a larger one is not fetched
```
Every key may be left out; the values above are the defaults, except for the name.

Two kinds of table have no default. `[data.NAME]`, one for each data set, says what answers a
scenario whose `data.name` is NAME (`DataSet`); without one, no real run trains here.
`[bundles.SHA256]`, one for each bundle of code that may run here (`ApprovedBundle`), is appended
by `fedlite site approve`.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedlite.guard.policy_keys import (
    METRICS,
    SHA256,
    TABLES,
    ApprovedBundle,
    DataSet,
    Limits,
    SitePolicy,
)
from fedlite.identity.names import site_problem
from fedlite.privacy.ranges import CEILING
from fedlite.scenario import Scenario
from fedlite.settings import did_you_mean, section

__all__ = [
    "METRICS",
    "ApprovedBundle",
    "DataSet",
    "Limits",
    "PolicyError",
    "SitePolicy",
    "for_data",
    "for_scenario",
    "load",
    "parse",
    "read_file",
]


class PolicyError(ValueError):
    """One or more keys of a site's policy are wrong; the text has one line for each."""


def load(path: Path) -> SitePolicy:
    """Read a site's policy.

    Raises PolicyError when the file is missing or no TOML, and with one line for each unknown key
    and each wrong value, with the mend: a policy that is not understood allows nothing.
    """
    return _known(path, read_file(path))


def read_file(path: Path) -> bytes:
    """Return the file's bytes; raises PolicyError when there is no such file to be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PolicyError(
            f"{path}: no such file; write one with `fedlite site init`, or check the path"
        ) from None
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read as TOML ({error}); mend that") from None


@lru_cache(maxsize=1024)
def _known(path: Path, content: bytes) -> SitePolicy:
    """As `parse`; a file that still says the same is read anew each round, and not parsed anew."""
    return parse(path, content)


def parse(path: Path, content: bytes) -> SitePolicy:
    """Return what the content says; `path` is what an error names. Raises as `load` does."""
    try:
        tables = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PolicyError(f"{path}: cannot be read as TOML ({error}); mend that line") from None
    errors: list[str] = []
    known = (*TABLES, "data", "bundles")
    for name in tables:
        if name not in known:
            errors.append(f"[{name}]: no such table{did_you_mean(name, known)}")
    read: dict[str, Any] = {}
    for name, kind in TABLES.items():
        table = tables.get(name, {})
        if not isinstance(table, Mapping):
            errors.append(f"{name}: must be a table, got {table!r}; write [{name}] above its keys")
            continue
        read[name] = section(name, kind, _with_tuples(name, kind, table, errors), errors)
    data = [
        _data_set(name, table, errors) for name, table in _named("data", "NAME", tables, errors)
    ]
    bundles = [
        _bundle(name, table, errors) for name, table in _named("bundles", "SHA256", tables, errors)
    ]
    if errors:
        raise PolicyError("\n".join(f"{path}: {error}" for error in errors))
    site, budget = read["site"], read["budget"]
    return SitePolicy(
        **vars(budget),
        **vars(read["egress"]),
        servers=read["servers"].keys,
        site=site.name,
        owner=site.owner,
        data=tuple(data),
        limits=read["limits"],
        bundles=tuple(bundles),
        releases=read["releases"],
    )


def _named(
    kind: str, name: str, tables: Mapping[str, Any], errors: list[str]
) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the tables `[kind.*]` by name; what is no table becomes an error."""
    outer = tables.get(kind, {})
    if not isinstance(outer, Mapping):
        errors.append(f"{kind}: must be a table, got {outer!r}; write [{kind}.{name}]")
        return []
    for key, table in outer.items():
        if not isinstance(table, Mapping):
            errors.append(
                f"{kind}.{key}: must be a table, got {table!r}; write [{kind}.{name}] above its "
                "keys"
            )
    return [(key, table) for key, table in outer.items() if isinstance(table, Mapping)]


def _data_set(name: str, table: Mapping[str, Any], errors: list[str]) -> DataSet:
    from fedlite.data import entries, find

    where = f"data.{name}"
    if site_problem(name):
        errors.append(
            f"[data]: a data set's name must be 1 to 64 printable characters without '/' and no "
            f"dot at the start, got {name!r}; use the scenario's data.name"
        )
    if "name" in table:
        errors.append(f"{where}.name: no such key; the table's own name is the data set's")
        table = {key: value for key, value in table.items() if key != "name"}
    before = len(errors)
    read: DataSet = section(where, DataSet, table, errors)
    read = replace(read, name=name, source=read.source or name)
    if len(errors) > before:
        return read
    sources = [entry.name for entry in entries()]
    if read.source not in sources:
        errors.append(
            f"{where}.source: must be one of {', '.join(sources)}, got {read.source!r}"
            f"{did_you_mean(read.source, sources)}"
        )
    elif find(read.source).own:
        # Without a label column a table answers language models: see `records.own_source`.
        if not read.path:
            errors.append(
                f"{where}.path: must be given for {read.source}, got ''; name your file or folder"
            )
    else:
        errors += [
            f"{where}.{key}: is only for records of your own, got {getattr(read, key)!r} with "
            f"{read.source!r}; remove it, or set source to csv, parquet or another of your own"
            for key in ("path", "target")
            if getattr(read, key)
        ]
    return read


def _bundle(sha256: str, table: Mapping[str, Any], errors: list[str]) -> ApprovedBundle:
    where = f"bundles.{sha256}"
    if not SHA256.fullmatch(sha256):
        errors.append(
            f"[{where}]: must be named by 64 lower-case hex digits, a bundle's SHA-256; "
            "`fedlite site approve` writes these tables"
        )
    plain = {k: v for k, v in table.items() if k not in ("sha256", "settings", "at_most")}
    read: ApprovedBundle = section(where, ApprovedBundle, plain, errors)
    if "sha256" in table:
        errors.append(f"{where}.sha256: no such key; the table's own name is the bundle's")
    settings = _values(f"{where}.settings", table.get("settings", {}), errors)
    at_most = _values(f"{where}.at_most", table.get("at_most", {}), errors)
    for key, most in at_most.items():
        approved = settings.get(key)
        if not is_number(approved) or not is_number(most) or most < approved:
            errors.append(
                f"{where}.at_most.{key}: must be a number of at least the approved one, "
                f"{approved!r}, got {most!r}; remove it, or approve again with --at-most"
            )
    return replace(read, sha256=sha256, settings=settings, at_most=at_most)


def _values(where: str, table: Any, errors: list[str]) -> dict[str, Any]:
    """Return a flat table of plain values; anything else in it becomes an error."""
    if not isinstance(table, Mapping):
        errors.append(f"{where}: must be a table, got {table!r}; write [{where}] above its keys")
        return {}
    good = {}
    for key, value in table.items():
        if type(value) in (str, bool, int) or (type(value) is float and math.isfinite(value)):
            good[key] = value
        else:
            errors.append(
                f"{where}.{key}: must be a text, a finite number, true or false, got {value!r}; "
                "quote a key that holds dots"
            )
    return good


def is_number(value: Any) -> bool:
    """Return whether the value is an int or a float, which a bool is to Python only."""
    return type(value) in (int, float)


def _with_tuples(
    name: str, kind: type[Any], table: Mapping[str, Any], errors: list[str]
) -> dict[str, Any]:
    """Return the table with its lists as tuples; wrong lists become errors and are left out."""
    lists = {f.name: f for f in fields(kind) if isinstance(f.default, tuple)}
    checked: dict[str, Any] = {}
    for key, value in table.items():
        spec = lists.get(key)
        if spec is None:
            checked[key] = value
        elif (
            isinstance(value, list)
            and all(isinstance(one, str) for one in value)
            and spec.metadata["check"](value)
        ):
            checked[key] = tuple(dict.fromkeys(value))
        else:
            errors.append(
                f"{name}.{key}: must be {spec.metadata['rule']}, got {value!r}; "
                f"the default is {json.dumps(spec.default)}"
            )
    return checked


def for_data(policy: SitePolicy, name: str) -> SitePolicy:
    """Return the policy with the ceilings of the data set `name` applied; the lower ones count.

    A ceiling on a data set is one on what is left if others collude, too, unless it says otherwise.

    >>> mine = SitePolicy(epsilon=3.0, alone=9.0, data=(DataSet("scans", epsilon=1.0),))
    >>> for_data(mine, "scans").epsilon, for_data(mine, "other").epsilon
    (1.0, 3.0)
    >>> for_data(mine, "scans").collusion, for_data(mine, "other").collusion
    (1.0, 9.0)
    """
    found = policy.data_set(name)
    own = 0.0 if found is None else found.alone or found.epsilon
    if found is None or not own:
        return policy
    return replace(
        policy,
        epsilon=min(policy.epsilon, found.epsilon or policy.epsilon),
        alone=min(policy.alone, own),
    )


def unit_for(scenario: Scenario) -> str:
    """Return the unit that a site's policy must hold for a scenario; `none` claims nothing."""
    privacy = scenario.privacy
    if not scenario.claims_privacy:
        return "none"
    apart = privacy.unit == "client" or scenario.shared
    return f"{privacy.unit}-{privacy.noise_at}" if apart else privacy.unit


def for_scenario(scenario: Scenario, site: str) -> SitePolicy:
    """Return the policy that a simulated site is given when it has none: what the scenario needs.

    The ceiling is the plan's own epsilon unless `simulation.ceiling` says otherwise; where counts
    cost something, too, half as much again as both, as two plans go through a Renyi filter, which
    charges more than they cost. A run whose noise is repeatable claims nothing, so its unit is
    `none`. A home that outlives the run (`simulation.sites`) also answers `fedlite stats`, and its
    ceiling is that of a person: the same table in another format has another ledger.
    """
    privacy, unit = scenario.privacy, unit_for(scenario)
    metrics = ("records",) if scenario.federation.weighting == "records" else ()
    if scenario.inference.calibration:
        metrics = (*metrics, "counts")
    needed, counts = privacy.epsilon, scenario.inference.epsilon
    if counts:
        needed = min(1.5 * (needed + counts), CEILING.high)
    # Nobody real is at stake, so that the ceiling for collusion is off.
    lasting = bool(scenario.simulation.sites)
    shared = lasting or scenario.shared
    honest, alone = (scenario.honest - 1, CEILING.high) if shared else (0, 0.0)
    ceiling = scenario.simulation.ceiling or needed
    return SitePolicy(
        honest=honest,
        alone=alone,
        epsilon=ceiling,
        person=ceiling if lasting else 0.0,
        delta=privacy.delta,
        units=tuple(dict.fromkeys((unit, "record-shared"))) if lasting else (unit,),
        metrics=metrics,
        site=site,
    )
