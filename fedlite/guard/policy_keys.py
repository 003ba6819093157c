"""The tables and keys of a `site.toml`: their defaults and rules, and the policy that they make.

`fedlite.guard.policy` tells of the file, and reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlite.identity.names import owner_problem, site_problem
from fedlite.privacy.budget import policy as budget_policy
from fedlite.privacy.budget.policy import Policy
from fedlite.privacy.ledger.bodies import UNITS
from fedlite.privacy.ranges import CEILING, DELTA
from fedlite.secure.group import MOST_MEMBERS
from fedlite.settings import Value, between, setting

METRICS = ("records", "counts")
SHA256 = re.compile(r"[0-9a-f]{64}")
_DEFAULT = Policy()


def _list(default: tuple[str, ...], rule: str, check: Callable[[str], bool]) -> Any:
    return setting(default, rule, lambda values: all(check(value) for value in values))


def _among(default: tuple[str, ...], options: tuple[str, ...]) -> Any:
    return _list(default, "a list of " + ", ".join(options), lambda value: value in options)


def _text(default: str = "") -> Any:
    return setting(default, "one printable line of at most 4096", _line)


def _line(value: str) -> bool:
    return len(value) <= 4096 and (not value or value.isprintable())


@dataclass(frozen=True)
class DataSet:
    """What answers a scenario's `data.name` at this site: a table `[data.NAME]`.

    source: a name of the catalogue, such as "csv" for a file of one's own. part: which site of a
    source that holds several; "" is all of it. path, target: the file or folder of one's own, and
    its label column where it is a table.
    epsilon: the ceiling of this data set beside that of the budget, of which the lower counts; 0
    leaves the budget's. alone: the same if all others collude with the server, where noise is
    shared; 0: no more than `epsilon` here, where that is set. records_at_most: a bound on its
    records that everybody may know, and that is chosen without counting them; 0 declares none.
    """

    name: str = ""
    source: str = _text()
    part: str = _text()
    path: str = _text()
    target: str = _text()
    epsilon: float = setting(0.0, CEILING.rule, CEILING.__contains__)
    alone: float = setting(0.0, CEILING.rule, CEILING.__contains__)
    records_at_most: int = between(0, 0, 10**9)

    def file(self, home: Path) -> Path:
        """Return the path of the site's own file; a relative one starts at the site's folder."""
        return home / Path(self.path).expanduser()


@dataclass(frozen=True)
class Limits:
    """What approved code may use in a round. up, down: bytes of one message; seconds of a round.

    state: bytes that it may keep on the disk for a run.

    sandbox: shut it in (Landlock, seccomp); false is for kernels that have neither.
    """

    device: str = setting("auto", "auto, cpu or cuda", lambda v: v in ("auto", "cpu", "cuda"))
    threads: int = between(1, 1, 64)
    up: int = between(10_000_000, 1, 10**12)
    down: int = between(500_000_000, 1, 10**12)
    seconds: int = between(3600, 1, 10**7)
    state: int = between(4_000_000_000, 1_000_000, 10**13)
    sandbox: bool = setting(True, "true or false", lambda v: True)


@dataclass(frozen=True)
class Releases:
    """Whether bundles of models that a coordinator releases are fetched: the table `[releases]`.

    fetch: false tells the operator of them, and fetches none. bytes: of all files of one. What is
    fetched is used by nobody before a person has said so.
    """

    fetch: bool = setting(False, "true or false", lambda v: True)
    bytes: int = between(200_000_000, 1, 10**12)


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
    """All that a `site.toml` says: what the ledgers keep, and what may run here on which data.

    clock: a reply leaves no earlier than a multiple of so many seconds after its instruction came,
    so that the time of its training tells nothing; 0 sends it when it is ready.
    """

    clock: int = 0
    data: tuple[DataSet, ...] = ()
    limits: Limits = Limits()
    bundles: tuple[ApprovedBundle, ...] = ()
    releases: Releases = Releases()

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
    epsilon: float = setting(_DEFAULT.epsilon, CEILING.rule, CEILING.__contains__)
    delta: float = setting(_DEFAULT.delta, DELTA.rule, DELTA.__contains__)
    person: float = setting(_DEFAULT.person, CEILING.rule, CEILING.__contains__)
    per_run: float = setting(_DEFAULT.per_run, CEILING.rule, CEILING.__contains__)
    units: tuple[str, ...] = _among(_DEFAULT.units, (*UNITS, "none"))
    honest: int = between(_DEFAULT.honest, 0, MOST_MEMBERS - 1)
    alone: float = setting(_DEFAULT.alone, CEILING.rule, CEILING.__contains__)


@dataclass(frozen=True)
class _Egress:
    metrics: tuple[str, ...] = _among(_DEFAULT.metrics, METRICS)
    clock: int = between(0, 0, 86_400)


@dataclass(frozen=True)
class _Servers:
    keys: tuple[str, ...] = _list(
        _DEFAULT.servers,
        "a list of public keys, 64 lower-case hex digits each",
        lambda v: SHA256.fullmatch(v) is not None,
    )


# Those that a file has once each.
TABLES: dict[str, type[Any]] = {
    "site": _Site,
    "budget": _Budget,
    "egress": _Egress,
    "servers": _Servers,
    "limits": Limits,
    "releases": Releases,
}
