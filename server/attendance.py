"""Whom a round asks and how long it waits: a site that does not answer costs less each time.

A site that was missing, or sent no valid update, three times in a row is asked in one of 2 rounds,
then in one of 4, 8, 16 and 32; one good answer forgives it all. A code is an answer at once, costs
nothing, and changes nothing here, unless the round had to wait for it: then it is a strike. Where
the others are too few for the quorum, all are asked.

The deadline is three times what the slowest of the last rounds' used answers took, and the last
used answer of each site that is asked, doubled for every strike of one: a site that has become slow
gets the scenario's deadline again within a few rounds, and its next answer sets the pace. One that
was never heard of has the scenario's.

All of it follows from the record and the checkpoint: a run that goes on decides as it would have.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import overload

from fedlite.messages import Code
from fedlite.reporting.record import RoundRecord
from server.checkpoint import SiteRecord

STRIKES = 3
"""Rounds in a row without a valid answer after which a site is asked less."""

LONGEST_REST = 32
SHORTEST_SECONDS = 30.0
"""No deadline is adapted to less: a machine may be busy, and Flower misses a dead one in 20 s."""

_TIMES, _RECENT = 3.0, 5
_LATE_TIMES, _LATE_SECONDS = 2.0, 10.0
_BAD = {Code.BAD_UPDATE.value, Code.LEDGER.value}


def kept_out(
    there: Collection[str], sites: Mapping[str, SiteRecord], number: int, quorum: int
) -> dict[str, str]:
    """Return whom of those there round `number` may not ask, and why.

    Those at rest may be where the others are too few. Only sites that were ever asked are looked
    at: a round costs nothing for the rest, however many they are.
    """
    spent, rest = unwilling(there, sites, number)
    return spent if len(there) - len(spent) - len(rest) < quorum else spent | rest


def unwilling(
    there: Collection[str], sites: Mapping[str, SiteRecord], number: int
) -> tuple[dict[str, str], dict[str, str]]:
    """Return which of those there have spent their budgets, and which others are at rest."""
    spent = {name: "spent" for name, site in sites.items() if site.spent and name in there}
    rest = {
        name: "resting"
        for name, site in sites.items()
        if number < site.again and not site.spent and name in there
    }
    return spent, rest


def absent(
    there: Collection[str],
    joined: Set[str],
    sites: Mapping[str, SiteRecord],
    out: Mapping[str, str],
) -> dict[str, str]:
    """Return why each site cannot be asked that was ever there.

    there: who is, all of whom have joined. out: as of `kept_out`.
    """
    if len(joined) == len(there):
        return dict(sorted(out.items()))
    gone = {
        name: "spent" if name in sites and sites[name].spent else "offline"
        for name in joined
        if name not in there
    }
    return dict(sorted({**gone, **out}.items()))


class Without(Sequence[str]):
    """Names in order, less a few, without a copy of the others.

    >>> list(Without(["a", "b", "c", "d", "e"], {"b", "c", "x"}))
    ['a', 'd', 'e']
    """

    def __init__(self, names: Sequence[str], out: Collection[str]) -> None:
        """Take sorted names, each once."""
        found = ((bisect_left(names, name), name) for name in out)
        places = sorted(at for at, name in found if at < len(names) and names[at] == name)
        self._names = names
        # How many of the others stand before each that is out.
        self._before = [at - n for n, at in enumerate(places)]

    def __len__(self) -> int:
        """Return how many are left."""
        return len(self._names) - len(self._before)

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> list[str]: ...

    def __getitem__(self, at: int | slice) -> str | list[str]:
        """Return the name at a place among those that are left."""
        if isinstance(at, slice):
            return [self[n] for n in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        return self._names[at + bisect_right(self._before, at)]


def late(took: Mapping[str, float], used: Iterable[str]) -> set[str]:
    """Return whose answers came so late that a round of the used ones alone had long been over.

    took: seconds by site.
    """
    usual = max((took[name] for name in used), default=0.0)
    longest = max(_LATE_SECONDS, _LATE_TIMES * usual)
    return {name for name, seconds in took.items() if seconds > longest}


def judge(
    sites: Mapping[str, SiteRecord],
    number: int,
    *,
    used: Iterable[str],
    dropped: Mapping[str, str],
    missing: Iterable[str],
    late: Set[str] = frozenset(),
) -> dict[str, int]:
    """Count the strikes of round `number`; return those of each site that is now asked less.

    late: for whose answers the round had to wait; those that were used are no strikes.
    """
    for name in used:
        sites[name].strikes, sites[name].again = 0, 0
    struck = {*missing, *(name for name, code in dropped.items() if code in _BAD or name in late)}
    for name in struck:
        record = sites[name]
        record.strikes += 1
        if record.strikes >= STRIKES:
            rest = min(2 ** (record.strikes - STRIKES + 1), LONGEST_REST)
            record.again = number + rest
    return {name: sites[name].strikes for name in sorted(struck) if sites[name].again > number}


def deadline(
    most: float,
    records: Sequence[RoundRecord],
    sites: Mapping[str, SiteRecord],
    asked: Iterable[str],
) -> float:
    """Return the seconds for which a round waits; never more than `most`, the scenario's.

    Until some round was answered it is `most`.
    """
    times = [record.slowest for record in records if record.slowest > 0.0][-_RECENT:]
    wanted = [sites[name] for name in asked]
    # In its first round it is asked twice where it lacks the model.
    if not times or any(site.asked < 2 and not site.used + site.strikes for site in wanted):
        return most
    times += [site.took for site in wanted]
    strikes = max((site.strikes for site in wanted), default=0)
    usual = max(SHORTEST_SECONDS, _TIMES * max(times))
    return min(most, usual * 2.0 ** min(strikes, 64))
