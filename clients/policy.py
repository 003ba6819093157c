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
units = ["record"]        # record, client-site, client-server, none

[egress]
metrics = []              # what may leave beside an update: records

[servers]
keys = []                 # whose signatures are accepted; none listed: anybody's

[limits]
device = "auto"           # what approved code may use: auto, cpu, cuda
threads = 1               # of torch, 1 to 64
up = 10000000             # bytes of one message that leaves; a larger one is refused
down = 500000000          # bytes of one message that comes in
seconds = 3600            # a round that takes longer is ended
sandbox = true            # approved code runs under the kernel's Landlock
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
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fedlite.config import Scenario, Value, did_you_mean, section, setting
from fedlite.privacy.budget import policy as budget_policy
from fedlite.privacy.budget.policy import Policy, owner_problem, site_problem
from fedlite.privacy.ledger.bodies import UNITS
from fedlite.storage import write_atomic

__all__ = [
    "METRICS",
    "ApprovedBundle",
    "DataSet",
    "Limits",
    "PolicyError",
    "SitePolicy",
    "approve",
    "for_data",
    "for_scenario",
    "load",
    "revoke",
    "write",
]

METRICS = ("records",)
_DEFAULT = Policy()
_SHA256 = re.compile(r"[0-9a-f]{64}")


class PolicyError(ValueError):
    """One or more keys of a site's policy are wrong; the text has one line for each."""


def _list(default: tuple[str, ...], rule: str, check: Callable[[str], bool]) -> Any:
    return setting(default, rule, lambda values: all(check(value) for value in values))


def _among(default: tuple[str, ...], options: tuple[str, ...]) -> Any:
    return _list(default, "a list of " + ", ".join(options), lambda value: value in options)


def _whole(default: int, low: int, high: int) -> Any:
    return setting(default, f"from {low} to {high}", lambda v: low <= v <= high)


def _text(default: str = "") -> Any:
    return setting(default, "one printable line of at most 4096", _line)


def _line(value: str) -> bool:
    return len(value) <= 4096 and (not value or value.isprintable())


@dataclass(frozen=True)
class DataSet:
    """What answers a scenario's `data.name` at this site: a table `[data.NAME]`.

    source: a name of the catalogue, "csv" for a file of one's own. part: which site of a source
    that holds several; "" is all of it. path, target: the file and its label column, for csv only.
    epsilon: the ceiling of this data set beside that of the budget, of which the lower counts; 0
    leaves the budget's.
    """

    name: str = ""
    source: str = _text()
    part: str = _text()
    path: str = _text()
    target: str = _text()
    epsilon: float = setting(0.0, "from 0 to 100", lambda v: 0 <= v <= 100)

    def file(self, home: Path) -> Path:
        """Return the path of the site's own file; a relative one starts at the site's folder."""
        return home / Path(self.path).expanduser()


@dataclass(frozen=True)
class Limits:
    """What approved code may use in a round. up, down: bytes of one message; seconds of a round.

    sandbox: run it under the kernel's Landlock; false is for kernels that have none.
    """

    device: str = setting("auto", "auto, cpu or cuda", lambda v: v in ("auto", "cpu", "cuda"))
    threads: int = _whole(1, 1, 64)
    up: int = _whole(10_000_000, 1, 10**12)
    down: int = _whole(500_000_000, 1, 10**12)
    seconds: int = _whole(3600, 1, 10**7)
    sandbox: bool = setting(True, "true or false", lambda v: True)


@dataclass(frozen=True)
class ApprovedBundle:
    """A bundle of code that the operator has approved: a table `[bundles.SHA256]`.

    sha256: of the bundle's bytes, 64 hex digits. approved: when, UTC. by: who. settings: every
    dotted setting as it was shown. at_most: what a numeric setting may rise to instead.
    """

    sha256: str = ""
    name: str = _text()
    approved: str = _text()
    by: str = _text()
    settings: Mapping[str, Value] = field(default_factory=dict, hash=False)
    at_most: Mapping[str, int | float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class SitePolicy(budget_policy.SitePolicy):
    """All that a `site.toml` says: what the ledgers keep, and what may run here on which data."""

    data: tuple[DataSet, ...] = ()
    limits: Limits = Limits()
    bundles: tuple[ApprovedBundle, ...] = ()

    def data_set(self, name: str) -> DataSet | None:
        """Return what `[data.NAME]` says, if there is such a table."""
        return next((one for one in self.data if one.name == name), None)

    def bundle(self, sha256: str) -> ApprovedBundle | None:
        """Return what was approved under this SHA-256, if anything was."""
        return next((one for one in self.bundles if one.sha256 == sha256), None)


@dataclass(frozen=True)
class _Site:
    name: str = setting(
        SitePolicy.site,
        "1 to 64 printable characters without '/' and no dot at the start",
        lambda v: not site_problem(v),
    )
    owner: str = setting("", "64 lower-case hex digits or empty", lambda v: not owner_problem(v))


@dataclass(frozen=True)
class _Budget:
    epsilon: float = setting(_DEFAULT.epsilon, "from 0 to 100", lambda v: 0 <= v <= 100)
    delta: float = setting(_DEFAULT.delta, "greater than 0 and less than 1", lambda v: 0 < v < 1)
    person: float = setting(_DEFAULT.person, "from 0 to 100", lambda v: 0 <= v <= 100)
    per_run: float = setting(_DEFAULT.per_run, "from 0 to 100", lambda v: 0 <= v <= 100)
    units: tuple[str, ...] = _among(_DEFAULT.units, (*UNITS, "none"))


@dataclass(frozen=True)
class _Egress:
    metrics: tuple[str, ...] = _among(_DEFAULT.metrics, METRICS)


@dataclass(frozen=True)
class _Servers:
    keys: tuple[str, ...] = _list(
        _DEFAULT.servers,
        "a list of public keys, 64 lower-case hex digits each",
        lambda v: _SHA256.fullmatch(v) is not None,
    )


_TABLES: dict[str, type[Any]] = {
    "site": _Site,
    "budget": _Budget,
    "egress": _Egress,
    "servers": _Servers,
    "limits": Limits,
}


def load(path: Path) -> SitePolicy:
    """Read a site's policy.

    Raises PolicyError when the file is missing or no TOML, and with one line for each unknown key
    and each wrong value, with the mend: a policy that is not understood allows nothing.
    """
    return _parse(path, _read(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PolicyError(
            f"{path}: no such file; write one with `fedlite site init`, or check the path"
        ) from None
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read as TOML ({error}); mend that") from None


def _parse(path: Path, content: bytes) -> SitePolicy:
    try:
        tables = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PolicyError(f"{path}: cannot be read as TOML ({error}); mend that line") from None
    errors: list[str] = []
    known = (*_TABLES, "data", "bundles")
    for name in tables:
        if name not in known:
            errors.append(f"[{name}]: no such table{did_you_mean(name, known)}")
    read: dict[str, Any] = {}
    for name, kind in _TABLES.items():
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
        metrics=read["egress"].metrics,
        servers=read["servers"].keys,
        site=site.name,
        owner=site.owner,
        data=tuple(data),
        limits=read["limits"],
        bundles=tuple(bundles),
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
    from fedlite.data import entries

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
    elif read.source == "csv":
        errors += [
            f"{where}.{key}: must be given for csv, got ''; name your {what}"
            for key, what in (("path", "file"), ("target", "label column"))
            if not getattr(read, key)
        ]
    else:
        errors += [
            f"{where}.{key}: is only for source 'csv', got {getattr(read, key)!r} with "
            f"{read.source!r}; remove it"
            for key in ("path", "target")
            if getattr(read, key)
        ]
    return read


def _bundle(sha256: str, table: Mapping[str, Any], errors: list[str]) -> ApprovedBundle:
    where = f"bundles.{sha256}"
    if not _SHA256.fullmatch(sha256):
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


def write(path: Path, policy: SitePolicy) -> None:
    """Write a policy as TOML with its explanations, durably; replaces what is there."""
    write_atomic(path, _toml(policy).encode())


def _toml(policy: SitePolicy) -> str:
    limits = policy.limits
    text = f"""\
# What this site allows. The file is read anew in every round. Whatever is lowered here counts at
# once and is written into the ledgers; to raise a ceiling, or to allow more units or metrics, on a
# data set that has a ledger, the data owner must sign as well (`fedlite site grant`).

[site]
name = {json.dumps(policy.site, ensure_ascii=False)}
# The data owner's public key, 64 hex digits. Empty: no ceiling of a ledger can ever be raised.
# A ledger keeps the key that stands here when the data set is first trained on.
owner = "{policy.owner}"

[budget]
# What may be spent on one data set, over all runs and all servers: epsilon at this delta.
epsilon = {policy.epsilon!r}
delta = {policy.delta!r}
# The same over all data sets of this site, for a person who is in several. 0: no such ceiling.
person = {policy.person!r}
# What one run may spend by itself. 0: no such ceiling.
per_run = {policy.per_run!r}
# What may protect an update: "record" and "client-site" trust nobody but this site,
# "client-server" trusts the server to add the noise, "none" is no protection at all.
units = {json.dumps(policy.units)}

[egress]
# What may leave beside an update; "records" is the number of training records.
metrics = {json.dumps(policy.metrics)}

[servers]
# Public keys of the servers whose signature over the ledger's head is accepted. None: anybody's.
keys = {json.dumps(policy.servers)}

[limits]
# What approved code may compute on: "auto" (a GPU when there is one), "cpu", "cuda".
device = "{limits.device}"
# How many threads torch may use, 1 to 64. More than one pays only where the cores are idle.
threads = {limits.threads}
# The most bytes of one message that leaves, and of one that comes in. A larger one is refused.
up = {limits.up}
down = {limits.down}
# A round that takes longer than so many seconds is ended.
seconds = {limits.seconds}
# Run approved code under the kernel's Landlock, so that it reads and writes only what it needs.
# false only where the kernel has none: approved code can then read whatever this user can.
sandbox = {json.dumps(limits.sandbox)}

# One table for each data set that runs may train on. NAME is the scenario's data.name.
#   [data.NAME]
#   source = "NAME"     what holds the records: a name from `fedlite data list`, "csv" for your own
#                       file. Default: the table's name
#   part = ""           which site of a source that holds several. "": all of it
#   path = ""           csv only: the file; a relative path starts at this folder
#   target = ""         csv only: the column of the labels
#   epsilon = 0.0       ceiling of this data set; the lower of this and budget.epsilon counts.
#                       0: budget.epsilon
"""
    import tomli_w

    for one in policy.data:
        values = {key: value for key, value in vars(one).items() if key != "name"}
        text += "\n" + tomli_w.dumps({"data": {one.name: values}})
    text += """
# Bundles of code that may run here, by their SHA-256: `fedlite site approve` adds and removes them.
"""
    return text + "".join("\n" + _bundle_toml(one) for one in policy.bundles)


def _bundle_toml(bundle: ApprovedBundle) -> str:
    import tomli_w

    values = {key: value for key, value in vars(bundle).items() if key != "sha256"}
    if not bundle.at_most:
        del values["at_most"]
    return tomli_w.dumps({"bundles": {bundle.sha256: values}})


def approve(path: Path, bundle: ApprovedBundle) -> SitePolicy:
    """Add the table of an approved bundle to the file, in place of an older one of the same bundle.

    Every other byte stays as the operator wrote it. Returns the policy that is then in force.
    Raises PolicyError when the file is wrong, before or after, and leaves it as it is.
    """
    content = _read(path)
    old = _parse(path, content)
    if old.bundle(bundle.sha256) is not None:
        content = _without(content, bundle.sha256)
    gap = b"" if not content or content.endswith(b"\n") else b"\n"
    kept = tuple(one for one in old.bundles if one.sha256 != bundle.sha256)
    added = content + gap + b"\n" + _bundle_toml(bundle).encode()
    return _replace_by(path, added, replace(old, bundles=(*kept, bundle)))


def revoke(path: Path, sha256: str) -> SitePolicy:
    """Remove the table of a bundle from the file; every other byte stays as the operator wrote it.

    Returns the policy that is then in force. Raises PolicyError when the file is wrong or has no
    such table, and when the operator's own text around it cannot be told from it.
    """
    content = _read(path)
    old = _parse(path, content)
    if old.bundle(sha256) is None:
        raise PolicyError(f"{path}: [bundles.{sha256}]: no such table; nothing was removed")
    kept = tuple(one for one in old.bundles if one.sha256 != sha256)
    return _replace_by(path, _without(content, sha256), replace(old, bundles=kept))


def _without(content: bytes, sha256: str) -> bytes:
    """Return the text without the tables of a bundle; comments that follow them stay."""
    header = re.compile(rb"\s*\[\s*bundles\s*\.\s*([\"']?)" + sha256.encode() + rb"\1\s*[\].]")
    lines = content.splitlines(keepends=True)
    kept: list[bytes] = []
    inside, waiting = False, list[bytes]()
    for line in lines:
        plain = line.strip()
        if plain.startswith(b"["):
            mine = header.match(line) is not None
            if mine and not inside and kept and not kept[-1].strip():
                kept.pop()
            # What stands between two tables of the same bundle goes with them.
            kept += [] if mine and inside else waiting
            inside, waiting = mine, []
        if not inside:
            kept.append(line)
        elif not plain or plain.startswith(b"#"):
            waiting.append(line)
        else:
            waiting = []
    return b"".join([*kept, *waiting])


def _replace_by(path: Path, content: bytes, expected: SitePolicy) -> SitePolicy:
    """Write the content if it says what it should; an unusual text is not edited by guesses."""
    found = _parse(path, content)
    same = {one.sha256: one for one in found.bundles} == {o.sha256: o for o in expected.bundles}
    if not same or replace(found, bundles=()) != replace(expected, bundles=()):
        raise PolicyError(
            f"{path}: the tables of its bundles cannot be told from the rest; edit it by hand, "
            "with each table [bundles.SHA256] on lines of its own"
        )
    write_atomic(path, content)
    return found


def for_data(policy: SitePolicy, name: str) -> SitePolicy:
    """Return the policy with the ceiling of the data set `name` applied; the lower one counts.

    >>> mine = SitePolicy(epsilon=3.0, data=(DataSet("scans", epsilon=1.0),))
    >>> for_data(mine, "scans").epsilon, for_data(mine, "other").epsilon
    (1.0, 3.0)
    """
    found = policy.data_set(name)
    if found is None or not found.epsilon:
        return policy
    return replace(policy, epsilon=min(policy.epsilon, found.epsilon))


def for_scenario(scenario: Scenario, site: str) -> SitePolicy:
    """Return the policy that a simulated site is given when it has none: what the scenario needs.

    The ceiling is the plan's own epsilon unless `simulation.ceiling` says otherwise. A run whose
    noise is repeatable claims nothing, so its unit is `none`.
    """
    privacy = scenario.privacy
    unit = "none"
    if scenario.claims_privacy:
        unit = f"client-{privacy.noise_at}" if privacy.unit == "client" else privacy.unit
    return SitePolicy(
        epsilon=scenario.simulation.ceiling or privacy.epsilon,
        delta=privacy.delta,
        units=(unit,),
        metrics=("records",) if scenario.federation.weighting == "records" else (),
        site=site,
    )
