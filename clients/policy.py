"""The site's own `site.toml`: ceilings, units, and what may leave, read anew for every round.

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
```
Every key may be left out; the values above are the defaults, except for the name.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fedlite.config import Scenario, did_you_mean, section, setting
from fedlite.privacy.budget.policy import Policy, SitePolicy, owner_problem, site_problem
from fedlite.privacy.ledger.bodies import UNITS
from fedlite.storage import write_atomic

__all__ = ["METRICS", "PolicyError", "SitePolicy", "for_scenario", "load", "write"]

METRICS = ("records",)
_DEFAULT = Policy()


class PolicyError(ValueError):
    """One or more keys of a site's policy are wrong; the text has one line for each."""


def _list(default: tuple[str, ...], rule: str, check: Callable[[str], bool]) -> Any:
    return setting(default, rule, lambda values: all(check(value) for value in values))


def _among(default: tuple[str, ...], options: tuple[str, ...]) -> Any:
    return _list(default, "a list of " + ", ".join(options), lambda value: value in options)


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
        lambda v: re.fullmatch(r"[0-9a-f]{64}", v) is not None,
    )


_TABLES = {"site": _Site, "budget": _Budget, "egress": _Egress, "servers": _Servers}


def load(path: Path) -> SitePolicy:
    """Read a site's policy.

    Raises PolicyError when the file is missing or no TOML, and with one line for each unknown key
    and each wrong value, with the mend: a policy that is not understood allows nothing.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PolicyError(
            f"{path}: no such file; write one with `fedlite site init`, or check the path"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise PolicyError(f"{path}: cannot be read as TOML ({error}); mend that line") from None
    errors: list[str] = []
    for name in tables:
        if name not in _TABLES:
            errors.append(f"[{name}]: no such table{did_you_mean(name, _TABLES)}")
    read: dict[str, Any] = {}
    for name, kind in _TABLES.items():
        table = tables.get(name, {})
        if not isinstance(table, Mapping):
            errors.append(f"{name}: must be a table, got {table!r}; write [{name}] above its keys")
            continue
        read[name] = section(name, kind, _with_tuples(name, kind, table, errors), errors)
    if errors:
        raise PolicyError("\n".join(f"{path}: {error}" for error in errors))
    site, budget = read["site"], read["budget"]
    return SitePolicy(
        **vars(budget),
        metrics=read["egress"].metrics,
        servers=read["servers"].keys,
        site=site.name,
        owner=site.owner,
    )


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
    return f"""\
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
"""


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
