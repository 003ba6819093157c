"""The keys of a scenario: one dataclass a table, each key with its default and its rule."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from fedlite.identity.names import site_problem
from fedlite.privacy import ranges
from fedlite.scenario import tabular
from fedlite.scenario.densities import densities_of
from fedlite.scenario.fields import named, path_setting
from fedlite.scenario.members import members_of
from fedlite.scenario.question import columns_of
from fedlite.scenario.texts import LANGUAGE
from fedlite.settings import (
    anything,
    at_least,
    below_one,
    between,
    choice,
    fraction,
    options_of,
    positive,
    setting,
)

# The tasks of the house, and those whose records hold numbers to be answered, and no class.
TASKS = ("classification", "regression", "multilabel", LANGUAGE)
NUMERIC = TASKS[1:]
_DEVICES = ("auto", "cpu", "cuda")


def _in(default: float, range: ranges.Range) -> Any:
    low = "exclusiveMinimum" if range.above else "minimum"
    limits = {low: range.low, "maximum": range.high}
    return setting(default, range.rule, range.__contains__, **limits)


def _inside(default: float) -> Any:
    limits = {"exclusiveMinimum": 0, "exclusiveMaximum": 1}
    return setting(default, "greater than 0 and less than 1", lambda v: 0 < v < 1, **limits)


@dataclass(frozen=True)
class Federation:
    """Who takes part, for how long, and how the server turns updates into the next model.

    `update_norm` > 0 bounds the L2 norm of every update after decoding, whatever a site sends.
    `outlier_factor` > 0: one that many times as long as the median of its round is cut to that.
    `members` are a coordinator's approved sites that alone see the run; empty: all of them.
    `average_last` is the share of the rounds, counted from the end, whose models are averaged into
    the released one; 0 releases the last model. `deliver`: a coordinator sends the released model
    to the sites that it was trained with. `weak` is the share of a simulation's sites, rounded
    down, that are drawn by the seed to train the shallow branch alone; `weak_sites` names them.
    """

    name: str = setting(
        "custom",
        "1 to 64 printable characters without '/' and no dot at the start",
        lambda v: not site_problem(v),
        pattern="^[^./][^/]{0,63}$",
    )
    rounds: int = at_least(30, 1)
    sites: int = at_least(5, 1)
    members: str = setting(
        "",
        "empty, @GROUP, or names of sites split by commas, each once",
        tabular.reads(tabular.distinct),
    )
    participation: float = fraction(1.0)
    seed: int = at_least(1, 0)
    quorum: int = at_least(1, 1)
    deadline_seconds: float = positive(600.0)
    strategy: str = named("fedavg")
    strategy_options: str = options_of("strategy")
    weighting: str = choice("uniform", "uniform", "records")
    update_norm: float = at_least(0.0, 0.0)
    outlier_factor: float = setting(
        100.0, "0, or at least 2", lambda v: v == 0 or v >= 2, anyOf=[{"const": 0}, {"minimum": 2}]
    )
    server_learning_rate: float = positive(1.0)
    server_momentum: float = below_one(0.0)
    average_last: float = between(0.0, 0.0, 1.0)
    evaluate_every: int = at_least(1, 0)
    deliver: bool = anything(False)
    weak: float = below_one(0.0)
    weak_sites: str = setting(
        "", "empty, or names of sites split by commas, each once", tabular.reads(tabular.distinct)
    )

    @property
    def weak_named(self) -> tuple[str, ...]:
        """The sites that `weak_sites` names."""
        return tabular.names(self.weak_sites)

    @property
    def participants(self) -> int:
        """Number of sites asked in one round: `ceil(participation * sites)`, at least 1."""
        return max(1, math.ceil(self.participation * self.sites - 1e-9))

    @property
    def group(self) -> str:
        """The group that `members` names, without its @; empty where it names none."""
        return self.members.strip()[1:] if self.members.strip().startswith("@") else ""

    @property
    def named(self) -> tuple[str, ...]:
        """The sites that `members` names one by one."""
        return () if self.group else tabular.names(self.members)


@dataclass(frozen=True)
class Task:
    """What the model learns to answer: `classification`, `regression` or `multilabel`.

    The two others answer with a number for each column that `data.target` names: what it holds, or
    whether it is 0 or 1. `like` says of which of the three one's own task takes the records, as
    its class says too: they are read where its code does not run.
    """

    name: str = named("classification")
    options: str = options_of("name")
    like: str = setting(
        "", f"empty, or one of {', '.join(TASKS)}", ("", *TASKS).__contains__, enum=("", *TASKS)
    )

    @property
    def reads(self) -> str:
        """The task of the house whose records are taken."""
        return self.name if self.name in TASKS else self.like or TASKS[0]


@dataclass(frozen=True)
class Model:
    """Which branched model is trained.

    Where the scenario names none, tables get `linear`: `cosine` centres each record over its own
    columns, so that it cannot see their sum. `start` is a safetensors file of the weights that it
    begins with.
    """

    name: str = named("cosine")
    options: str = options_of("name")
    start: str = path_setting()


@dataclass(frozen=True)
class Training:
    """What a site does in a round. `steps` > 0 replaces `epochs`.

    With schedule `linear` the learning rate holds for the share `hold` of the rounds and then falls
    in a straight line to `final` times itself. `logit_adjustment` tells the local loss how often
    each class occurs at the site, which keeps skewed sites from unlearning what they do not have.
    `objective` is what a site minimises beside the loss of its records (`fedlite.objectives`).
    `optimizer` adam starts anew in each round; where the scenario names no learning rate, it is
    0.001 then.
    """

    objective: str = named("plain")
    objective_options: str = options_of("objective")
    epochs: int = at_least(1, 1)
    steps: int = at_least(0, 0)
    batch_size: int = at_least(32, 1)
    optimizer: str = choice("sgd", "sgd", "adam")
    learning_rate: float = positive(0.1)
    schedule: str = choice("constant", "constant", "linear")
    hold: float = between(0.5, 0.0, 1.0)
    final: float = fraction(0.1)
    momentum: float = below_one(0.0)
    clip_norm: float = at_least(0.0, 0.0)
    weight_decay: float = at_least(0.0, 0.0)
    exit_weight: float = between(0.5, 0.0, 1.0)
    distill: float = at_least(0.0, 0.0)
    temperature: float = positive(3.0)
    logit_adjustment: bool = anything(False)
    device: str = setting("auto", "auto, cpu or cuda", _DEVICES.__contains__, enum=_DEVICES)


@dataclass(frozen=True)
class Link:
    """How vectors are compressed in one direction.

    A link that names no compressor, density or values gets what `links.recommend` picks.
    `density` 0 and `values` "" leave the choice to the compressor. `bits` is for rotated
    coordinates (eden).
    `densities` gives tensors, by how their names begin, a density of their own, as in
    "exit 0.3, tail 0.02" (up only, where noise is shared).
    `error_feedback` keeps what was not sent for the next update; where the key is missing, topk and
    dense have it, and the compressors that can be unbiased (eden, randk,
    rotated-topk) are that instead.
    `aggregate_feedback` > 0 is the share of the last broadcast that sites subtract from an update,
    and the server adds again (up only).
    """

    compressor: str = named("topk")
    options: str = options_of("compressor")
    density: float = between(0.0, 0.0, 1.0)
    densities: str = setting(
        "",
        "empty, or names that tensors begin with and densities in (0, 1], as in 'exit 0.3'",
        tabular.reads(densities_of),
    )
    values: str = anything("")
    bits: int = between(1, 1, 8)
    error_feedback: bool = anything(True)
    aggregate_feedback: float = between(0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Privacy:
    """The privacy unit and what may be spent on it.

    With unit `record`, each site's whole participation is (epsilon, delta)-differentially private
    for one record of that site. With unit `client` it is so for all that the site holds: `noise_at`
    says whether the site adds the noise itself, or the server that it must then trust. With
    noise_at `shared` the sites share it, and nobody sees more than sums, of steps (`record`) or of
    whole updates (`client`): epsilon holds if at least `honest` of the sites are (0: two thirds of
    them, rounded up). `groups` above 1 divides them anew in every round, by the seed, into as many
    groups with a sum each, which a robust strategy can judge. At real sites `members` are their
    names and keys, as JSON, and `coordinates` is how many values a sum has; a coordinator settles
    both.
    `expected_batch` is the public constant that the noised sum of clipped gradients is divided by;
    0 derives it from the public size of the data source. `max_batch` > 0 cuts a larger Poisson
    sample to that size, at sites of at most `max_records` records.
    `simulate_seed` >= 0 makes the noise repeatable, and then no privacy is claimed.
    """

    unit: str = choice("none", "none", "record", "client")
    noise_at: str = choice("site", "site", "server", "shared")
    honest: int = at_least(0, 0)
    groups: int = between(1, 1, 33)
    members: str = setting(
        "",
        "empty, or a JSON object of sites' names (A-Z a-z 0-9 . _ -) and their keys, 64 hex digits "
        "each",
        tabular.reads(members_of),
    )
    coordinates: int = at_least(0, 0)
    epsilon: float = _in(3.0, ranges.EPSILON)
    delta: float = _in(1e-5, ranges.DELTA)
    clip: float = _in(0.1, ranges.CLIP)
    sampling_rate: float = _in(1.0, ranges.RATE)
    expected_batch: int = at_least(0, 0)
    max_batch: int = at_least(0, 0)
    max_records: int = at_least(0, 0)
    simulate_seed: int = at_least(-1, -1)


@dataclass(frozen=True)
class Statistics:
    """Figures of the sites' tables, asked for by one sum in the place of training.

    `bins` above 0: of each histogram. `columns`: a JSON object of the columns' public ranges by
    their names, which `fedlite stats` and `fedlite server stats` settle. `most_records`: how many
    records of a site count at most, as everybody may know.
    """

    columns: str = setting(
        "",
        "empty, or a JSON object of columns and their ranges, two numbers each",
        tabular.reads(columns_of),
    )
    bins: int = setting(
        0,
        f"0, or from 2 to {ranges.MOST_BINS}",
        lambda v: v == 0 or 2 <= v <= ranges.MOST_BINS,
        anyOf=[{"const": 0}, {"minimum": 2, "maximum": ranges.MOST_BINS}],
    )
    most_records: int = between(100_000, 1, ranges.MOST_RECORDS)


@dataclass(frozen=True)
class Selection:
    """Which round's model is released, and when a run ends early.

    `keep` best releases the model of the round with the best `score`, in place of the last one.
    `score` is named as in the rounds' record (empty: the usual one of the data), measured `on` the
    `test` set of the record, or on what the `sites` hold out. A round counts as better where it
    gains more than `minimum`. `patience` > 0 ends the run after so many scored rounds in a row
    without one that is better.
    """

    keep: str = choice("last", "last", "best")
    score: str = setting(
        "",
        "empty, or a score and a branch, as in accuracy.deep",
        lambda v: re.fullmatch(r"([a-z][a-z0-9_]*\.[a-z][a-z0-9_]*)?", v) is not None,
    )
    on: str = choice("test", "test", "sites")
    minimum: float = at_least(0.0, 0.0)
    patience: int = at_least(0, 0)

    @property
    def active(self) -> bool:
        """Whether any round's score decides anything."""
        return self.keep == "best" or self.patience > 0


@dataclass(frozen=True)
class Simulation:
    """What only a simulation has to be told; nothing here changes the federation.

    `sites` is a folder where the simulated sites keep keys, ledgers and `site.toml` from run to run
    (empty: in the run directory). `ceiling` is the epsilon of the `site.toml` that is written for a
    new site (0: the plan's). `witness` is a file to which the server appends every ledger head that
    it has seen, and which it reads at the start of the next run (empty: the run directory only).
    """

    sites: str = path_setting()
    ceiling: float = _in(0.0, ranges.CEILING)
    witness: str = path_setting()


@dataclass(frozen=True)
class Inference:
    """What is done with the trained model.

    `home_head` fits heads at each site, never sent. `calibration` > 0 is the share of a site's
    records, those held out to be scored aside, that choose a threshold: an input on which the
    `router` scores at least that is answered by the shallow branch alone. It costs at most `alpha`
    of the deep branch's accuracy, with probability `confidence`. `threshold` says whose records
    choose it. `risk`: whether alpha is of harm (answers made wrong) or of the loss of accuracy (the
    same less those that the shallow branch alone has right). Without `labels` any answer in which
    the branches differ counts as harm. `epsilon` is what a private site's counts may cost, beside
    `privacy.epsilon`, at `privacy.delta`.
    """

    home_head: bool = anything(False)
    calibration: float = between(0.0, 0.0, 0.5)
    router: str = named("confidence")
    router_options: str = options_of("router")
    alpha: float = _inside(0.01)
    confidence: float = _inside(0.95)
    threshold: str = choice("pooled", "pooled", "site", "shrunk")
    risk: str = choice("harm", "harm", "loss")
    labels: bool = anything(True)
    epsilon: float = between(0.0, 0.0, 100.0)


@dataclass(frozen=True)
class Report:
    """What is set beside the federation in the report, and who else is told of the rounds.

    0 repeats: nothing. `trackers` write the rounds as other tools read them
    (`fedlite.reporting.trackers`). watts: of a busy core, where no counter says. grid: grams of CO2
    for a kWh; 0: not told (`fedlite.reporting.energy`).
    """

    baseline_repeats: int = at_least(0, 0)
    watts: float = between(10.0, 0.1, 1000.0)
    grid: float = between(0.0, 0.0, 5000.0)
    trackers: str = setting(
        "",
        "empty, or csv, tensorboard, mlflow, split by commas, each once",
        lambda text: (
            tabular.reads(tabular.distinct)(text)
            and set(tabular.names(text)) <= {"csv", "tensorboard", "mlflow"}
        ),
    )

    @property
    def tracker_names(self) -> tuple[str, ...]:
        """The trackers, by name."""
        return tabular.names(self.trackers)
