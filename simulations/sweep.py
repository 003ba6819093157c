"""Many trials of one scenario: a grid of settings and seeds, each trial a run directory.

A sweep's folder holds `sweep.json`, which says all trials beforehand, and a directory a trial.
Played again it keeps the finished ones, goes on with the interrupted and tries the failed anew.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedlite.messages import Code
from fedlite.reporting import wording
from fedlite.reporting.compare import Comparison, compare
from fedlite.reporting.record import SUMMARY, read_rounds
from fedlite.scenario import Scenario, ScenarioError, from_dict, overridden, tabular
from fedlite.settings import Value
from fedlite.storage import write_atomic
from server.directories import hold, resumable
from simulations import kept
from simulations.run import resume_scenario, simulate
from simulations.workers import work_through

FILE = "sweep.json"
# In the directory of a trial: what its server and its sites had to say.
LOG = "trial.log"
SEED = "federation.seed"
_NAME = 80
_MOST = 10_000

Tables = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: its directory's name, and the keys that it sets, the seed included."""

    name: str
    settings: dict[str, Value]


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: `error` is empty where it finished.

    spent: it was refused because the sites' own budgets are spent.
    """

    error: str = ""
    spent: bool = False


@dataclass(frozen=True)
class Sweep:
    """A scenario's tables, as `read` returns them, and the trials that change them.

    search: what chose later trials with earlier results in view (see `simulations.search`); None
    for a grid, all of which is said beforehand.
    """

    tables: dict[str, Any]
    trials: tuple[Trial, ...]
    search: dict[str, Any] | None = None

    def scenario(self, trial: Trial) -> Scenario:
        """Return a trial's scenario; raises ScenarioError naming the trial where a key is wrong."""
        tables = deepcopy(self.tables)
        for key, value in trial.settings.items():
            section, _, name = key.partition(".")
            tables.setdefault(section, {})[name] = value
        try:
            return from_dict(tables)
        except ScenarioError as error:
            raise ScenarioError(f"trial {trial.name}: {error}") from None

    def save(self, directory: Path) -> None:
        """Write `sweep.json`."""
        told = {
            "tables": self.tables,
            "trials": [vars(trial) for trial in self.trials],
            "search": self.search,
        }
        write_atomic(directory / FILE, json.dumps(told, indent=1).encode() + b"\n")


def opened(directory: Path) -> Sweep:
    """Return the sweep that a folder holds; raises ScenarioError where it holds none."""
    path = directory / FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        trials = tuple(Trial(str(t["name"]), dict(t["settings"])) for t in told["trials"])
        return Sweep(told["tables"], trials, told["search"])
    except FileNotFoundError:
        raise ScenarioError(
            f"--resume {directory}: no {FILE} there; give the folder of a sweep"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScenarioError(
            f"{path}: cannot be read ({type(error).__name__}); begin the sweep anew"
        ) from None


def grid(tables: Tables, choices: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> Sweep:
    """Return the sweep over every combination of `choices`, each with every seed.

    choices: a key, dotted, to its values as text, as `--set` takes them. seeds: empty: the
    scenario's own. Raises ScenarioError, before anything runs, where any trial's key is wrong.
    """
    varied = {key: values for key, values in choices.items() if len(values) > 1}
    count = len(seeds or [0])
    for values in choices.values():
        count *= len(values)
    if count > _MOST:
        raise ScenarioError(f"sweep: must have at most {_MOST:,} trials, got {count:,}; take less")
    trials: list[Trial] = []
    for combination in itertools.product(*choices.values()):
        texts = dict(zip(choices, combination, strict=True))
        placed = overridden(tables, [f"{key}={text}" for key, text in texts.items()])
        settings = {key: _value(placed, key) for key in choices}
        parts = [f"{key.rpartition('.')[2]}={texts[key]}" for key in varied]
        trials += repeats(len(trials), settings, parts, seeds)
    sweep = Sweep(dict(tables), tuple(trials))
    check([sweep.scenario(trial) for trial in sweep.trials])
    return sweep


def repeats(
    before: int, settings: dict[str, Value], parts: list[str], seeds: Sequence[int]
) -> list[Trial]:
    """Return a trial of the settings with each seed; before: how many trials there are already."""
    if not seeds:
        return [Trial(name_of(before + 1, parts), settings)]
    return [
        Trial(name_of(before + n, [*parts, f"seed={seed}"]), settings | {SEED: seed})
        for n, seed in enumerate(seeds, 1)
    ]


def begin(sweep: Sweep, directory: Path) -> None:
    """Write a sweep into a folder, which is made; one that holds the same sweep is left as it is.

    Raises ScenarioError where the folder holds anything else.
    """
    if (directory / FILE).is_file() and opened(directory) == sweep:
        return
    if directory.exists() and any(directory.iterdir()):
        raise ScenarioError(
            f"--out {directory}: already exists and holds something else (rule: no sweep is "
            f"overwritten); name another folder, or go on with --resume {directory}"
        )
    directory.mkdir(parents=True, exist_ok=True)
    sweep.save(directory)


class Told:
    """Says on standard error how each trial of a sweep ended."""

    def __init__(self, trials: int, *, quiet: bool) -> None:
        """trials: how many there will be at most. quiet: say nothing."""
        self._trials, self._quiet = trials, quiet
        self._done, self._started = 0, time.monotonic()

    def __call__(self, trial: Trial, outcome: Outcome) -> None:
        """Print one line."""
        self._done += 1
        if not self._quiet:
            how = f"failed: {outcome.error}" if outcome.error else "done"
            took = wording.duration(time.monotonic() - self._started)
            line = f"trial {self._done}/{self._trials}  {trial.name}  {how}  {took}"
            print(wording.plain(line.replace("\n", "; ")), file=sys.stderr)


def _value(tables: Mapping[str, Any], key: str) -> Value:
    section, _, name = key.partition(".")
    value: Value = tables[section][name]
    return value


def name_of(number: int, parts: Iterable[str]) -> str:
    """Return a trial's directory: its number, and its settings as far as a file name holds them.

    >>> name_of(7, ["learning_rate=0.1", "seed=2"])
    '007-learning_rate=0.1-seed=2'
    """
    text = re.sub(r"[^\w.=+-]", "_", "-".join(parts))[:_NAME]
    return f"{number:03d}-{text}" if text else f"{number:03d}"


def check(scenarios: Sequence[Scenario]) -> None:
    """Raise ScenarioError for a sweep whose trials would spoil each other."""
    keeping = any(scenario.simulation.sites for scenario in scenarios)
    seeds = {scenario.federation.seed for scenario in scenarios}
    if keeping and len(seeds) > 1:
        raise ScenarioError(
            "--seeds: must be one where simulation.sites is set (rule: a site's ledger speaks of "
            "its own records, and another seed divides them anew), got "
            f"{', '.join(map(str, sorted(seeds)))}; leave simulation.sites out, or take one seed"
        )


def choices_of(settings: Iterable[str]) -> dict[str, list[str]]:
    """Return the values of each `section.key=VALUE,VALUE`; a value that holds a comma is quoted.

    >>> choices_of(["training.epochs=1, 2", 'data.labels="no,yes"'])
    {'training.epochs': ['1', '2'], 'data.labels': ['no,yes']}
    """
    found: dict[str, list[str]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        values = list(tabular.names(text)) or [""]
        if not equals or "." not in key:
            raise ScenarioError(
                f"--set {setting}: must be section.key=value,value; for example "
                "training.learning_rate=0.1,0.3"
            )
        if key in found or len(set(values)) < len(values):
            raise ScenarioError(
                f"--set {setting}: must name a key once, and each of its values once; take the "
                "repeated one away"
            )
        if key == SEED:
            raise ScenarioError(
                f"--set {setting}: must not be the seed (rule: it pairs runs); give --seeds {text}"
            )
        found[key] = values
    return found


def seeds_of(text: str) -> list[int]:
    """Return the seeds of a text such as `1-3,7`; raises ScenarioError on any other form.

    >>> seeds_of("1-3, 7"), seeds_of("")
    ([1, 2, 3, 7], [])
    """
    found: list[int] = []
    for part in tabular.names(text):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not low <= high < low + _MOST:
            raise ScenarioError(f"--seeds: must be as in 1-5 or 1,3,7, got {text!r}; write it so")
        found += range(low, high + 1)
    if len(set(found)) < len(found):
        raise ScenarioError(f"--seeds: must name each seed once, got {text!r}; take one away")
    return found


@kept.keeping()
def play(
    sweep: Sweep,
    directory: Path,
    trials: Sequence[Trial],
    *,
    jobs: int = 1,
    engine: str = "auto",
    tell: Callable[[Trial, Outcome], None] = lambda _trial, _outcome: None,
) -> dict[str, Outcome]:
    """Play trials, `jobs` at a time, and return how each ended; told as soon as one has ended.

    A failed trial stops no other; only where the sites' own budgets are spent is the rest not
    tried: every further one would be refused for the same reason.
    """
    if jobs > 1 and any(sweep.scenario(trial).simulation.sites for trial in trials):
        raise ScenarioError(
            f"--jobs: must be 1 where simulation.sites is set (rule: one run at a time writes a "
            f"site's ledger), got {jobs}; leave it out"
        )
    outcomes: dict[str, Outcome] = {}
    work = partial(play_one, sweep, directory, engine=engine if jobs == 1 else _alone(engine))
    for trial, outcome in work_through(trials, work, min(jobs, max(1, len(trials))), _lost):
        outcomes[trial.name] = outcome
        tell(trial, outcome)
        if outcome.spent:
            break
    return outcomes


def _alone(engine: str) -> str:
    """Return the engine of a trial beside others, which have the other cores."""
    return "serial" if engine == "auto" else engine


def _lost(trial: Trial) -> Outcome:
    return Outcome("its process ended without a word: killed, or out of memory")


def play_one(sweep: Sweep, directory: Path, trial: Trial, *, engine: str) -> Outcome:
    """Play one trial, or go on with it; a finished one is left as it is."""
    run = directory / trial.name
    if (run / SUMMARY).exists():
        return Outcome()
    goes_on = resumable(run)
    try:
        scenario = resume_scenario(run) if goes_on else sweep.scenario(trial)
        with hold(run, fresh=not goes_on), _logged(run):
            simulate(scenario, run, engine=engine, quiet=True)
    except Exception as error:  # whatever a trial's own code raises stops no other trial
        known = isinstance(error, ValueError | OSError | RuntimeError)
        return Outcome(str(error) if known else f"{type(error).__name__}: {error}", _spent(run))
    return Outcome()


@contextmanager
def _logged(run: Path) -> Iterator[None]:
    """Keep what server and sites have to say with the trial: of many trials nobody reads it."""
    logger = logging.getLogger("fedlite")
    handler = logging.FileHandler(run / LOG, encoding="utf-8", delay=True)
    logger.addHandler(handler)
    propagated, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = propagated
        logger.removeHandler(handler)
        handler.close()


def compared(directory: Path, score: str = "") -> Comparison:
    """Set the finished trials of a sweep beside each other; raises ValueError as `compare` does.

    What a search has judged by the sites' held-out records shows a global test set for the setting
    that it chose only.
    """
    search = opened(directory).search
    chosen = score or (str(search["score"]) if search else "")
    return compare([directory], chosen, fixed_beforehand=not search, searched=bool(search))


def _spent(run: Path) -> bool:
    """Return whether the sites took no part because their own budgets are spent."""
    codes = {code for record in read_rounds(run) for code in record.dropped.values()}
    accepted = any(record.accepted for record in read_rounds(run))
    return codes == {Code.BUDGET.value} and not accepted
