"""Runs beside each other: those that differ by their seed only are one group, paired by the seed.

Everything comes from the run directories, so runs can be compared years later.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fedlite.reporting import scores, virtual, wording
from fedlite.reporting.compare_cost import Cost, cost_of
from fedlite.reporting.measures import measured as measured_by
from fedlite.reporting.record import SUMMARY, RoundRecord
from fedlite.reporting.report import load
from fedlite.settings import Value

SCENARIO = "scenario.toml"
# What runs are called and where they lie changes no result; a seed makes a repeat.
_NOT_COMPARED = ("federation.name", "federation.seed", "data.path", "simulation.", "report.")
# More keys than these make no name for a group that a reader takes in.
_KEYS_IN_A_NAME = 3


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of `n` values; sd is None of a single one."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Return the spread of the values that are known; None where none is.

        >>> Spread.of([1.0, 3.0, None])
        Spread(mean=2.0, sd=1.4142135623730951, n=2)
        """
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(mean(known), stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class Member:
    """One finished run: what it was told, and what it came to."""

    directory: Path
    settings: dict[str, Value]
    summary: dict[str, Any]
    rounds: list[RoundRecord]

    @property
    def seed(self) -> int:
        """The seed of all its public randomness."""
        return int(self.summary["seed"])

    @property
    def kind(self) -> tuple[tuple[str, Value], ...]:
        """All its settings but what makes a repeat: equal for runs of one group."""
        kept = ((k, v) for k, v in self.settings.items() if not k.startswith(_NOT_COMPARED))
        return tuple(sorted(kept))


@dataclass(frozen=True)
class Measure:
    """A figure of a run: its name in files, its heading, how it is read and how it is written."""

    name: str
    title: str
    read: Callable[[Member], float | None]
    say: Callable[[object], str]


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed only, by (seed, how often that seed was there before)."""

    name: str
    members: dict[tuple[int, int], Member]

    def values(self, measure: Measure) -> dict[tuple[int, int], float | None]:
        """Return a measure of each run."""
        return {repeat: measure.read(member) for repeat, member in self.members.items()}

    def spread(self, measure: Measure) -> Spread | None:
        """Return a measure's mean and deviation over the runs."""
        return Spread.of(self.values(measure).values())

    def beyond(self, first: Group, measure: Measure) -> Spread | None:
        """Return the mean and deviation of the differences to `first`, seed by seed."""
        mine, its = self.values(measure), first.values(measure)
        pairs = ((mine[repeat], its[repeat]) for repeat in mine.keys() & its.keys())
        return Spread.of(a - b for a, b in pairs if a is not None and b is not None)


@dataclass(frozen=True)
class Comparison:
    """Groups of runs in the order given, and what a reader must know before he believes them.

    score: the name of the score. on: what it was measured on. notes: a line each. cost: what all
    the runs together cost in privacy; None where none claims any. searched: whether the settings
    were searched by the sites' held-out records, so that a global test set is kept for the best.
    """

    score: str
    on: str
    groups: tuple[Group, ...]
    measures: tuple[Measure, ...]
    notes: tuple[str, ...] = ()
    cost: Cost | None = None
    unfinished: tuple[Path, ...] = ()
    searched: bool = False

    @property
    def shown(self) -> tuple[Measure, ...]:
        """The measures that are shown of every setting."""
        names = {measure.name for measure in self.measures}
        hidden = "score" if self.searched and "held_out" in names else ""
        return tuple(measure for measure in self.measures if measure.name != hidden)

    @property
    def judge(self) -> Measure | None:
        """The measure by which settings are ranked: of what the sites hold out, where they do."""
        by_name = {measure.name: measure for measure in self.measures}
        return by_name.get("held_out") or by_name.get("score")

    @property
    def ranked(self) -> list[tuple[Group, Spread]]:
        """The settings that were scored, the best mean first."""
        judge, less = self.judge, scores.less_is_better(self.score)
        found = [(group, group.spread(judge)) for group in self.groups if judge]
        known = [(group, spread) for group, spread in found if spread is not None]
        return sorted(known, key=lambda pair: pair[1].mean if less else -pair[1].mean)

    def as_dict(self) -> dict[str, Any]:
        """Return all figures, ready for JSON."""
        first = self.groups[0]
        groups = []
        for group in self.groups:
            found = {m.name: group.spread(m) for m in self.shown}
            beyond = {m.name: group.beyond(first, m) for m in self.shown}
            row: dict[str, Any] = {
                "name": group.name,
                "seeds": [member.seed for member in group.members.values()],
                "runs": [str(member.directory) for member in group.members.values()],
                "measures": {name: vars(s) for name, s in found.items() if s},
            }
            if group is not first:
                row["to_first"] = {name: vars(s) for name, s in beyond.items() if s}
            groups.append(row)
        return {
            "score": self.score,
            "on": self.on,
            "groups": groups,
            "best": self.ranked[0][0].name if self.ranked else None,
            "notes": list(self.notes),
            "privacy": self.cost.as_dict() if self.cost else None,
            "unfinished": [str(directory) for directory in self.unfinished],
        }


def compare(
    directories: Sequence[Path],
    score: str = "",
    *,
    fixed_beforehand: bool = False,
    searched: bool = False,
) -> Comparison:
    """Set finished runs beside each other; a folder of runs, as of a sweep, stands for all of them.

    score: as in `accuracy.deep`; empty: the AUC of the deep branch, of more classes than two its
    accuracy. fixed_beforehand: whether all the runs' plans were chosen before the first was played,
    which costs less privacy. searched: as in `Comparison`.

    Raises ValueError where there is no finished run, or where the runs cannot be compared.
    """
    finished, unfinished = expand(directories)
    if not finished:
        where = ", ".join(map(str, directories)) or "nothing"
        raise ValueError(
            f"compare: needs at least one finished run, got {where}; give run directories, or the "
            "folder of a sweep"
        )
    members = [member_of(directory) for directory in finished]
    summaries = [member.summary for member in members]
    check(members)
    score = score or scores.usual(measured_by(members[0].summary))
    _check_score(members, score)
    return Comparison(
        score,
        measured_on(members),
        groups_of(members),
        measures_of(members, score),
        tuple(_notes(members, score)),
        cost_of(finished, summaries, fixed_beforehand, searched),
        tuple(unfinished),
        searched,
    )


def expand(directories: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return the finished runs and the others, looking into folders that hold runs.

    Raises ValueError for a directory that is not there.
    """
    finished: list[Path] = []
    unfinished: list[Path] = []
    for directory in directories:
        if not directory.is_dir():
            raise ValueError(f"{directory}: no such directory; give that of a run, or of a sweep")
        own = (directory / SUMMARY).exists() or (directory / SCENARIO).exists()
        for run in [directory] if own else sorted(directory.iterdir()):
            if (run / SUMMARY).is_file():
                finished += [run] if run not in finished else []
            elif (run / SCENARIO).is_file():
                unfinished.append(run)
    return finished, unfinished


def member_of(directory: Path) -> Member:
    """Read a finished run; raises ValueError, naming the file and the mend, as `load` does."""
    rounds, summary = load(directory)
    path = directory / SCENARIO
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); restore it from a copy") from error
    settings = {f"{name}.{key}": value for name, t in tables.items() for key, value in t.items()}
    return Member(directory, settings, summary, rounds)


def groups_of(members: Sequence[Member]) -> tuple[Group, ...]:
    """Group runs by all but their seed, in the order in which the groups first appear."""
    kinds: dict[tuple[tuple[str, Value], ...], dict[tuple[int, int], Member]] = {}
    for member in members:
        repeats = kinds.setdefault(member.kind, {})
        before = sum(seed == member.seed for seed, _ in repeats)
        repeats[member.seed, before] = member
    names = _names([next(iter(repeats.values())) for repeats in kinds.values()])
    return tuple(Group(name, r) for name, r in zip(names, kinds.values(), strict=True))


def _names(firsts: Sequence[Member]) -> list[str]:
    """Name each group by the settings in which they differ, or else by its run."""
    told = (key for member in firsts for key in member.settings)
    keys = dict.fromkeys(key for key in told if not key.startswith(_NOT_COMPARED))
    differ = [k for k in keys if len({repr(m.settings.get(k)) for m in firsts}) > 1]
    if 0 < len(differ) <= _KEYS_IN_A_NAME:
        return [
            ", ".join(f"{_short(key, differ)} {_said(m.settings.get(key))}" for key in differ)
            for m in firsts
        ]
    names = [str(member.summary["scenario"]) for member in firsts]
    return names if len(set(names)) == len(names) else [m.directory.name for m in firsts]


def _short(key: str, others: Sequence[str]) -> str:
    """Return a key's own name, with its section where another has the same."""
    section, _, last = key.partition(".")
    if last == "name":
        return section
    return key if sum(o.rpartition(".")[2] == last for o in others) > 1 else last


def _said(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return wording.plain(f"{value:g}" if isinstance(value, float) else value) or '""'


def measures_of(members: Sequence[Member], score: str) -> tuple[Measure, ...]:
    """Return what is compared: the score where it is known, bytes, privacy and time."""
    say, title = scores.kind(score).say, scores.title(score)
    whole = any(m.summary["accuracy"].get("of") == "global test set" for m in members)
    found = [
        Measure("score", title, lambda m: scores.of_summary(m.summary, score), say),
        Measure("held_out", f"{title}, sites", lambda m: scores.held_out(m.summary, score), say),
        Measure("bytes_up", "sent up", lambda m: float(m.summary["bytes"]["up"]), _bytes),
        Measure("bytes_down", "sent down", lambda m: float(m.summary["bytes"]["down"]), _bytes),
        Measure("epsilon", "epsilon", _epsilon, wording.epsilon),
        Measure(
            "simulated",
            "time, virtual",
            lambda m: virtual.of(m.summary, "seconds"),
            virtual.minutes,
        ),
        Measure(
            "to_target",
            "target, after",
            lambda m: virtual.of(m.summary, "seconds_to_target"),
            virtual.minutes,
        ),
        Measure("seconds", "seconds", lambda m: float(m.summary["seconds"]["total"]), _seconds),
    ]
    # Where there is no global test set, the score is that of the held-out parts already.
    known = [m for m in found if whole or m.name != "held_out"]
    return tuple(m for m in known if any(m.read(member) is not None for member in members))


def _bytes(value: object) -> str:
    return wording.megabytes(value) if isinstance(value, int | float) else wording.ABSENT


def _seconds(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else wording.ABSENT


def _epsilon(member: Member) -> float | None:
    privacy = member.summary["privacy"]
    return wording.worst(privacy) if wording.claimed(privacy) else None


def measured_on(members: Sequence[Member]) -> str:
    """Return what the score of all runs was measured on, for a person."""
    told = {str(m.summary["accuracy"].get("on", "")) for m in members}
    return told.pop() if len(told) == 1 else "sites' own held-out parts"


def check(members: Sequence[Member]) -> None:
    """Raise ValueError where runs saw other data, or were scored on other test records."""
    first = members[0]
    for member in members[1:]:
        for rule, read in _SAME.items():
            one, other = read(first), read(member)
            if one is not None and other is not None and one != other:
                raise ValueError(
                    f"{member.directory}: must have {rule} as {first.directory} to be compared "
                    f"with it, got {_told(other)} instead of {_told(one)}; compare them apart"
                )


def _digest(member: Member) -> str | None:
    path = member.directory / "checkpoint" / "records.sha256"
    return path.read_text(encoding="ascii") if path.is_file() else None


def _test_set(member: Member) -> object:
    accuracy = member.summary["accuracy"]
    whole = accuracy.get("of") == "global test set"
    return (accuracy.get("of"), accuracy.get("records") if whole else None)


_SAME: dict[str, Callable[[Member], object]] = {
    "the same data set": lambda m: m.summary.get("data", {}).get("name"),
    "the same records": _digest,
    "the same test records": _test_set,
}


def _told(value: object) -> str:
    if isinstance(value, tuple):
        return " of ".join(str(v) for v in reversed(value) if v is not None) or "none"
    text = wording.plain(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _check_score(members: Sequence[Member], score: str) -> None:
    measured = [m for m in members if not wording.unmeasured(m.summary)]
    if measured and not any(scores.of_summary(m.summary, score) is not None for m in measured):
        known = scores.names(measured_by(measured[0].summary))
        raise ValueError(f"score: must be one of {', '.join(known)}, got {score!r}; name one")


def _parts_differ(members: Sequence[Member]) -> bool:
    # They do of one seed, too, where one run is private: no record may decide its division.
    rows = [(m.seed, b) for m in members if (b := m.summary["accuracy"].get("by_site"))]
    held = {(seed, *((site, row.get("records")) for site, row in r.items())) for seed, r in rows}
    return len(held) > len({seed for seed, _ in rows})


def _notes(members: Sequence[Member], score: str) -> list[str]:
    """Return what is not alike, though not so much as to forbid the comparison."""
    notes = []
    on_sites = any(m.summary["accuracy"].get("of") == "sites" for m in members)
    keys = ["data.test_fraction", "data.fold"]
    if score.startswith("auc."):
        keys += ["data.partition", "data.alpha", "federation.sites"]
    differ = [k for k in keys if len({m.settings.get(k) for m in members}) > 1]
    if score.startswith("auc.") and not differ and _parts_differ(members):
        differ = ["the sites' parts"]
    if on_sites and differ:
        notes.append(
            f"Not scored on the same records: {', '.join(differ)} differ, and the score is that of "
            "the sites' held-out parts."
        )
    notes += virtual.notes([m.summary for m in members])
    if any(wording.unmeasured(m.summary) for m in members):
        notes.append("Some runs were not scored: nobody but the sites held records.")
    if names := ", ".join(m.directory.name for m in members if wording.spoilt(m.summary)):
        notes.append(f"The model may be spoilt, see the report: {wording.plain(names)}.")
    if len({len(group.members) for group in groups_of(members)}) > 1:
        notes.append("Not every setting was run with every seed: means are of other seeds.")
    return notes
