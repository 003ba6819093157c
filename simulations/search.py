"""A search in two stages: a coarse grid over ranges, then Bayesian steps around its best three.

The second stage is Optuna's tree-structured Parzen estimator (Bergstra, Bardenet, Bengio, Kegl
2011), loaded when it is first needed. Every proposal follows from the search's seed and from the
results before it, so a search that is interrupted and played again proposes the same.

A setting is judged by its mean score on the sites' own held-out records, and never by a global test
set: what is searched on is tuned on.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from fedlite.reporting import measures, scores
from fedlite.reporting.record import SUMMARY, read_summary
from fedlite.scenario import ScenarioError
from fedlite.scenario.whole import SECTIONS
from fedlite.settings import Value
from simulations import kept
from simulations.sweep import SEED, Outcome, Sweep, Trial, check, play, repeats

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

_BEST = 3
_RANGE = re.compile(r"([\w.]+)=([^:]+):([^:]+)(:log)?")
_DIGITS = 4

# Times that a proposal may be one already tried before there is nothing new to try.
_PATIENCE = 50
_SEEDS = 100_003

Point = dict[str, float]


@dataclass(frozen=True)
class Range:
    """What a numeric key may be: from `low` to `high`, evenly or, with `log`, evenly in its log."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> float:
        """Return the value at a share of the range from 0 to 1, with four significant digits.

        >>> Range(0.01, 1.0, log=True).at(0.5), Range(1, 9, whole=True).at(0.5)
        (0.1, 5)
        """
        if self.log:
            value = math.exp((1 - share) * math.log(self.low) + share * math.log(self.high))
        else:
            value = (1 - share) * self.low + share * self.high
        return self.rounded(value)

    def rounded(self, value: float) -> float:
        """Return a value as trials get it: whole, or with four significant digits, in range."""
        if self.whole:
            return min(max(round(value), int(self.low)), int(self.high))
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)

    def around(self, values: Sequence[float], share: float) -> Range:
        """Return the range from the least of `values` to the greatest, wider by `share` of this."""
        places = [self._place(value) for value in values]
        low, high = max(0.0, min(places) - share), min(1.0, max(places) + share)
        return replace(self, low=self.at(low), high=self.at(high))

    def _place(self, value: float) -> float:
        if self.low == self.high:
            return 0.0
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Search:
    """What is searched: ranges by key, how many settings in all, by which score.

    score: as in `accuracy.deep`; empty: the usual one of the data.
    """

    ranges: dict[str, Range]
    settings: int
    seeds: tuple[int, ...] = ()
    score: str = ""
    seed: int = 1

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        ranges = {key: vars(found) for key, found in self.ranges.items()}
        return vars(self) | {"ranges": ranges, "seeds": list(self.seeds)}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Search:
        """Read what `as_dict` returned."""
        ranges = {key: Range(**found) for key, found in told["ranges"].items()}
        return cls(**dict(told) | {"ranges": ranges, "seeds": tuple(told["seeds"])})

    def coarse(self) -> list[Point]:
        """Return the first stage: a grid of at most half the settings, of two points a key or more.

        Points stand in the middle of equal parts of the range, not on its ends.
        """
        each = max(2, int((self.settings / 2) ** (1 / len(self.ranges)) + 1e-9))
        lines = [[r.at((n + 0.5) / each) for n in range(each)] for r in self.ranges.values()]
        points = itertools.product(*(dict.fromkeys(line) for line in lines))
        return [dict(zip(self.ranges, point, strict=True)) for point in points]

    def fine(self, done: Sequence[tuple[Point, float]]) -> dict[str, Range]:
        """Return the ranges of the second stage: around the best three of the first."""
        less = scores.less_is_better(self.score)
        ranked = sorted(done, key=lambda pair: pair[1] if less else -pair[1])[:_BEST]
        each = max(2, round(len(self.coarse()) ** (1 / len(self.ranges))))
        return {
            key: found.around([point[key] for point, _ in ranked], 0.5 / each)
            for key, found in self.ranges.items()
        }


def ranges_of(texts: Sequence[str]) -> dict[str, Range]:
    """Return the range of each `section.key=LOW:HIGH` or `section.key=LOW:HIGH:log`.

    >>> ranges_of(["training.learning_rate=0.01:1:log"])
    {'training.learning_rate': Range(low=0.01, high=1.0, log=True, whole=False)}

    Raises ScenarioError for any other form, and for a key that holds no number.
    """
    found: dict[str, Range] = {}
    for text in texts:
        match = _RANGE.fullmatch(text.replace(" ", ""))
        try:
            key, low, high = (match[1], float(match[2]), float(match[3])) if match else ("", 0, 0)
        except ValueError:
            key, low, high = "", 0.0, 0.0
        log = bool(match and match[4])
        if not (key and math.isfinite(low) and math.isfinite(high) and low < high) or (
            log and low <= 0
        ):
            raise ScenarioError(
                f"--range {text}: must be section.key=LOW:HIGH with LOW < HIGH, and with LOW above "
                "0 where :log stands at its end; for example training.learning_rate=0.01:1:log"
            )
        section, _, name = key.partition(".")
        default = getattr(SECTIONS[section](), name, None) if section in SECTIONS else None
        whole = isinstance(default, int)
        if whole and not (float(low).is_integer() and float(high).is_integer()):
            raise ScenarioError(
                f"--range {text}: must have whole numbers, as {key} is one; write them so"
            )
        if type(default) not in (int, float) or key in found or key == SEED:
            raise ScenarioError(
                f"--range {text}: must name a key that holds a number, once, and not the seed; "
                "see docs/simulate.md"
            )
        found[key] = Range(low, high, log, whole)
    return found


def begin(tables: Mapping[str, Any], search: Search) -> Sweep:
    """Return the sweep of a search's first stage; raises ScenarioError where it cannot be begun."""
    _check_optuna()
    if not search.ranges:
        raise ScenarioError(
            "--search: needs a range to search, got none; give --range "
            "training.learning_rate=0.01:1:log"
        )
    first = search.coarse()
    if search.settings < len(first):
        raise ScenarioError(
            f"--trials: must be at least {len(first)}, the coarse grid of {len(search.ranges)} "
            f"ranges, got {search.settings}; raise it, or search fewer keys"
        )
    sweep = _with(Sweep(dict(tables), (), search.as_dict()), search, first)
    scenarios = [sweep.scenario(trial) for trial in sweep.trials]
    check(scenarios)
    if not scenarios[0].data.test_fraction:
        raise ScenarioError(
            "data.test_fraction: must be greater than 0 in a search (rule: settings are judged by "
            "what sites hold out, so that a global test set stays one), got 0; 0.2 holds out a "
            "fifth"
        )
    return sweep


def _check_optuna() -> None:
    if importlib.util.find_spec("optuna") is None:
        raise ScenarioError(
            "--search: needs Optuna, which is not installed; pip install 'fedlite[search]'"
        )


def _with(sweep: Sweep, search: Search, points: Sequence[Point]) -> Sweep:
    """Return the sweep with a trial of each point and seed more."""
    trials = list(sweep.trials)
    for point in points:
        parts = [f"{key.rpartition('.')[2]}={value:g}" for key, value in point.items()]
        trials += repeats(len(trials), dict(point), parts, search.seeds)
    return replace(sweep, trials=tuple(trials))


@kept.keeping()
def play_search(
    sweep: Sweep,
    directory: Path,
    *,
    jobs: int = 1,
    engine: str = "auto",
    tell: Callable[[Trial, Outcome], None] = lambda _trial, _outcome: None,
) -> tuple[Sweep, dict[str, Outcome]]:
    """Play a search to its end, or go on with it; return all its trials and how each ended."""
    _check_optuna()
    search = Search.of(sweep.search or {})
    outcomes: dict[str, Outcome] = {}
    while True:
        new = [trial for trial in sweep.trials if trial.name not in outcomes]
        outcomes |= play(sweep, directory, new, jobs=jobs, engine=engine, tell=tell)
        each = len(search.seeds) or 1
        tried = len(sweep.trials) // each
        spent = any(outcome.spent for outcome in outcomes.values())
        done, score = results(sweep, search, directory)
        if spent or tried >= search.settings or not done:
            return sweep, outcomes
        known = replace(search, score=score)
        points = propose(known, done, tried, min(jobs, search.settings - tried))
        if not points:
            return sweep, outcomes
        sweep = _with(sweep, search, points)
        # Written before it is played, so that it is played again after an interruption.
        sweep.save(directory)


def results(sweep: Sweep, search: Search, directory: Path) -> tuple[list[tuple[Point, float]], str]:
    """Return the settings that finished with every seed, with their mean score, and its name."""
    each, found, score = len(search.seeds) or 1, [], search.score
    for start in range(0, len(sweep.trials), each):
        trials = sweep.trials[start : start + each]
        folders = [directory / trial.name for trial in trials]
        if not all((folder / SUMMARY).exists() for folder in folders):
            continue
        summaries = [read_summary(folder) for folder in folders]
        score = score or scores.usual(measures.measured(summaries[0]))
        values = [scores.held_out(summary, score) for summary in summaries]
        known = [value for value in values if value is not None]
        point = {key: float(_number(trials[0].settings[key])) for key in search.ranges}
        if len(known) == each:
            found.append((point, mean(known)))
    return found, score


def _number(value: Value) -> float:
    return float(value)


def propose(
    search: Search, done: Sequence[tuple[Point, float]], tried: int, count: int
) -> list[Point]:
    """Return up to `count` new settings of the second stage; none where all were tried.

    done: settings with their scores, those of the first stage first. tried: how many were.
    """
    study, ranges = _study(search, done, tried)
    kinds = {key: _distribution(found) for key, found in ranges.items()}
    seen = [point for point, _ in done]
    found: list[Point] = []
    for _ in range(_PATIENCE):
        asked = study.ask(kinds).params
        point = {key: ranges[key].rounded(asked[key]) for key in ranges}
        if point not in seen:
            seen.append(point)
            found.append(point)
        if len(found) == count:
            break
    return found


def _study(
    search: Search, done: Sequence[tuple[Point, float]], tried: int
) -> tuple[Study, dict[str, Range]]:
    """Return an Optuna study that knows all results within the ranges of the second stage."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    first = search.coarse()
    ranges = search.fine([pair for pair in done if pair[0] in first])
    less = scores.less_is_better(search.score)
    study = optuna.create_study(
        direction="minimize" if less else "maximize",
        # A sampler of its own for each step: an interrupted search goes on as it would have.
        sampler=optuna.samplers.TPESampler(
            seed=_SEEDS * search.seed + tried, n_startup_trials=_BEST, constant_liar=True
        ),
    )
    kinds = {key: _distribution(found) for key, found in ranges.items()}
    for point, value in done:
        if all(found.low <= point[key] <= found.high for key, found in ranges.items()):
            study.add_trial(
                optuna.trial.create_trial(params=point, distributions=kinds, value=value)
            )
    return study, ranges


def _distribution(found: Range) -> BaseDistribution:
    import optuna

    if found.whole:
        return optuna.distributions.IntDistribution(int(found.low), int(found.high), log=found.log)
    return optuna.distributions.FloatDistribution(found.low, found.high, log=found.log)
