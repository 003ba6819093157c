"""What a federation is set beside: each site alone, all records pooled, and heads fitted at home.

Everything is measured on each site's own held-out records, in a cross-validation whose every fold
trains all of it again. Every federation in it is a fresh simulation of the whole scenario: an
epsilon speaks of one of them, and only a simulation may hold the records to train so many.
"""

from __future__ import annotations

import math
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite import plan as plans
from fedlite.compression import Decoded
from fedlite.data import Dataset, SiteData
from fedlite.models import Branched
from fedlite.models.files import read_vector
from fedlite.parameters import Vector, load_vector
from fedlite.plan import Plan
from fedlite.privacy import RecordMechanism
from fedlite.privacy.mechanism import LEAST_NOISE
from fedlite.reporting.progress import Progress
from fedlite.reporting.record import read_summary
from fedlite.reporting.report import report
from fedlite.scenario import Scenario, ScenarioError, with_values
from fedlite.training import Learner, head as home
from fedlite.training.share import settle_process
from server.closing import finish, witness_of
from server.evaluation import area_under_curve
from simulations.engines import make_engine
from simulations.grid import SimulationGrid

Scores = NDArray[np.float64]
Score = Callable[[NDArray[np.float64], NDArray[np.int64]], float]

ALONE, POOLED = "alone, not private", "pooled, not private"
FEDERATED_CLEAR = "federated, not private"
COMMONEST = "always the commonest class"
# Noise a million times below the clip: the private recipe with nothing but its noise gone.
_NO_NOISE = LEAST_NOISE
_INNER = 71_300


@dataclass(frozen=True)
class Comparison:
    """Scores of every way to train; NaN where undefined.

    `metric` is "auc" for two classes, undefined where there is only one, otherwise "accuracy".
    `scores` [repeats, ways, sites] is `metric` over all of a site's records, each scored once a
    repeat by the model of the fold that did not train on it. `by_fold` [repeats, folds, ways,
    sites] is `metric` of each held-out part by itself: of a site with eight negatives a fold holds
    one or two, and a mean of such AUCs says little. `accuracy` has the shape of `by_fold`;
    `majority` [repeats, folds, sites] is the accuracy of always answering the training part's
    commonest class; `exchange` [repeats, from, to] is `metric` of the heads that one site trained
    alone, over all records of every site (its own ones out of fold).
    """

    metric: str
    ways: tuple[str, ...]
    sites: tuple[str, ...]
    scores: Scores
    by_fold: Scores
    accuracy: Scores
    majority: Scores
    exchange: Scores

    def by_site(self, way: str) -> Scores:
        """Return `metric` [repeats, sites] of one way to train, over all records of a site."""
        return self.scores[:, self.ways.index(way)]


def over_folds(values: Scores) -> Scores:
    """Return the mean over axis 1, leaving out NaN; NaN where nothing is left."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    mean: Scores = np.where(known.any(axis=1), total / np.maximum(1, known.sum(axis=1)), np.nan)
    return mean


def federated_name(scenario: Scenario) -> str:
    """Return what the rows call the scenario's own federation."""
    return f"federated, epsilon {scenario.privacy.epsilon:g}" if scenario.private else "federated"


def add_comparisons(scenario: Scenario, directory: Path, *, quiet: bool) -> None:
    """Add `home_head` and `baselines` to a finished run's summary and draw its report again.

    What is added is what `inference.home_head` and `report.baseline_repeats` ask for. `scenario` is
    checked and settled. Raises ValueError when its model or data do not allow it.
    """
    summary = read_summary(directory)
    if scenario.inference.home_head:
        summary["home_head"] = home_scores(
            scenario, read_vector(directory, plans.simulated(scenario)[0].layout)
        )
    repeats = scenario.report.baseline_repeats
    if repeats:
        with Progress(repeats, None, quiet=quiet) as progress:
            found = compare(scenario, repeats, progress.status)
            summary["baselines"] = as_summary(scenario, found)
            progress.status("writing the report")
    finish(directory, summary, witness_of(scenario, directory))
    report(directory)


def home_scores(scenario: Scenario, vector: Vector) -> dict[str, dict[str, float]]:
    """Return `{metric: {site: score}}` of the home heads on the sites' held-out parts.

    Sites whose held-out part is empty, or of one class where the metric needs two, are left out.
    """
    seed = scenario.federation.seed
    plan, _, sites = plans.simulated(scenario)
    model = plan.model()
    load_vector(model, vector)
    metric, score = _metric(plan.classes)
    found = {}
    for site in sites:
        head = home.home_head(model, site.train, seed=seed)
        value = score(head.logits(home.deep_features(model, site.test.x)), site.test.y)
        if math.isfinite(value):
            found[site.name] = value
    return {metric: found}


def compare(scenario: Scenario, repeats: int, say: Callable[[str], None]) -> Comparison:
    """Train and score everything, `repeats` times over all folds; a repeat divides them anew.

    `say` is told about each fold. Raises ScenarioError when no site holds records out, ValueError
    when the deep branch is not a linear head on fixed features.
    """
    if not scenario.data.test_fraction:
        raise ScenarioError(
            "data.test_fraction: must be greater than 0 with report.baseline_repeats, got 0; 0.2 "
            "gives five folds"
        )
    from threadpoolctl import threadpool_limits

    settle_process()
    folds = round(1 / scenario.data.test_fraction)
    rows: list[list[_Fold]] = []
    for repeat in range(repeats):
        rows.append([])
        for fold in range(folds):
            say(f"comparisons: repeat {repeat + 1} of {repeats}, fold {fold + 1} of {folds}")
            # On so few columns several BLAS threads only wait for each other.
            with threadpool_limits(1):
                rows[-1].append(_fold(_divided(scenario, repeat, fold)))
    first = rows[0][0]
    ways = tuple(first.scores)
    _, _, sites = plans.simulated(scenario)
    return Comparison(
        metric=first.metric,
        ways=ways,
        sites=tuple(site.name for site in sites),
        scores=np.array([[_pooled(row, way) for way in ways] for row in rows]),
        by_fold=np.array([[list(fold.scores.values()) for fold in row] for row in rows]),
        accuracy=np.array([[list(fold.accuracy.values()) for fold in row] for row in rows]),
        majority=np.array([[fold.majority for fold in row] for row in rows]),
        exchange=np.array([_exchanged(row) for row in rows]),
    )


def _pooled(folds: list[_Fold], way: str) -> list[float]:
    """`metric` of one way at every site, over the held-out parts of all folds together."""
    return [
        folds[0].score(
            np.concatenate([fold.logits[way][site] for fold in folds]),
            np.concatenate([fold.held[site][1] for fold in folds]),
        )
        for site in range(len(folds[0].held))
    ]


def _exchanged(folds: list[_Fold]) -> list[list[float]]:
    """`metric` of each site's own heads at every site, over the folds' held-out parts together."""
    sites = range(len(folds[0].held))
    return [
        [
            folds[0].score(
                np.concatenate([fold.own[owner].logits(fold.held[at][0]) for fold in folds]),
                np.concatenate([fold.held[at][1] for fold in folds]),
            )
            for at in sites
        ]
        for owner in sites
    ]


def _divided(scenario: Scenario, repeat: int, fold: int) -> Scenario:
    """The same scenario on another division into training and held-out records."""
    scenario = with_values(scenario, "data", fold=fold)
    seed = scenario.federation.seed + repeat
    return with_values(scenario, "federation", seed=seed, evaluate_every=0)


def _metric(classes: int) -> tuple[str, Score]:
    return ("auc", _auc) if classes == 2 else ("accuracy", _accuracy)


def _auc(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    if not 0 < labels.sum() < len(labels):
        return math.nan
    return area_under_curve(logits[:, 1] - logits[:, 0], labels)


def _accuracy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    return float((logits.argmax(1) == labels).mean()) if len(labels) else math.nan


class _Fold:
    """One division of the records: everything trained on its training parts, and scored."""

    def __init__(self, model: Branched, sites: tuple[SiteData, ...], seed: int) -> None:
        self.metric, self.score = _metric(model.classes)
        self.model, self.seed = model, seed
        self.x = [home.deep_features(model, site.train.x) for site in sites]
        self.y = [site.train.y for site in sites]
        self.held = [(home.deep_features(model, site.test.x), site.test.y) for site in sites]
        self.logits: dict[str, list[NDArray[np.float64]]] = {}
        self.own: list[home.Head] = []
        self.scores: dict[str, list[float]] = {}
        self.accuracy: dict[str, list[float]] = {}
        self.majority = [
            float((test == np.bincount(train).argmax()).mean()) if len(test) else math.nan
            for train, (_, test) in zip(self.y, self.held, strict=True)
        ]

    def ridge(self, x: NDArray[np.float64], y: NDArray[np.int64], centre: home.Head) -> home.Head:
        return home.fit_by_validation(x, y, centre, np.random.default_rng([_INNER, self.seed]))

    def zero(self) -> home.Head:
        return home.Head.zero(self.model.classes, self.x[0].shape[1])

    def add(self, way: str, heads: list[home.Head]) -> None:
        """Score one head a site on that site's held-out part."""
        pairs = list(zip(heads, self.held, strict=True))
        self.add_logits(way, [head.logits(x) for head, (x, _) in pairs])

    def add_logits(self, way: str, logits: list[NDArray[np.float64]]) -> None:
        rows = list(zip(logits, (y for _, y in self.held), strict=True))
        self.logits[way] = logits
        self.scores[way] = [self.score(values, y) for values, y in rows]
        self.accuracy[way] = [_accuracy(values, y) for values, y in rows]


def _fold(scenario: Scenario) -> _Fold:
    federation = scenario.federation
    plan, _, sites = plans.simulated(scenario)
    model = plan.model()
    fold, count = _Fold(model, sites, federation.seed), len(sites)
    fold.own = [fold.ridge(x, y, fold.zero()) for x, y in zip(fold.x, fold.y, strict=True)]
    fold.add(ALONE, fold.own)
    if scenario.privacy.unit == "record":
        fold.add(f"alone, epsilon {scenario.privacy.epsilon:g}", _alone(scenario, model, sites))
    pooled = fold.ridge(np.concatenate(fold.x), np.concatenate(fold.y), fold.zero())
    fold.add(POOLED, [pooled] * count)
    if scenario.privacy.unit == "record":
        clear = replace(_by_record(plan), noise_multiplier=_NO_NOISE)
        load_vector(model, train_here(scenario, [site.train for site in sites], clear))
        fold.add(FEDERATED_CLEAR, [home.deep_head(model)] * count)
    name = federated_name(scenario)
    load_vector(model, federate(scenario))
    shared = home.deep_head(model)
    fold.add(name, [shared] * count)
    homes = [fold.ridge(x, y, shared) for x, y in zip(fold.x, fold.y, strict=True)]
    fold.add(f"{name} + home head", homes)
    fold.add_logits(f"{name}, shallow branch", [_shallow(model, site.test) for site in sites])
    return fold


def _shallow(model: Branched, test: Dataset) -> NDArray[np.float64]:
    import torch

    model.eval()
    with torch.no_grad():
        logits: NDArray[np.float64] = (
            model(model.prepare(torch.from_numpy(test.x)))[0].double().numpy()
        )
    return logits


def _alone(scenario: Scenario, model: Branched, sites: tuple[SiteData, ...]) -> list[home.Head]:
    """The scenario's private recipe at each site by itself, without any message.

    The noised sum is divided by the site's own expected batch: no other site needs to agree on it.
    """
    heads, planned = [], _by_record(plans.simulated(scenario)[0])
    for site in sites:
        batch = max(1, round(scenario.privacy.sampling_rate * len(site.train)))
        mechanism = replace(planned, expected_batch=batch)
        load_vector(model, train_here(scenario, [site.train], mechanism))
        heads.append(home.deep_head(model))
    return heads


def _by_record(plan: Plan) -> RecordMechanism:
    if not isinstance(plan.mechanism, RecordMechanism):
        raise ValueError(f"privacy.unit: must be record here, got {plan.unit!r}")
    return plan.mechanism


def train_here(scenario: Scenario, parts: list[Dataset], mechanism: RecordMechanism) -> Vector:
    """Train on `parts` round by round as the federation does, but without messages or compression.

    Returns the released model, float32 [n].
    """
    from strategies import ServerState, make

    plan, _, _ = plans.simulated(scenario)
    learners = [Learner(plan, part) for part in parts]
    strategy = make(scenario.federation)
    state = ServerState.initial(learners[0].initial)
    size = len(state.model)
    for number in range(1, scenario.federation.rounds + 1):
        strategy.start(size)
        for site, learner in enumerate(learners):
            delta = learner.delta(state.model, number, site, mechanism)
            strategy.add(Decoded(size, None, delta), len(learner.labels))
        state = strategy.finish(state, number)
    return state.released


def federate(scenario: Scenario) -> Vector:
    """Run the scenario's real federation, Flower apps and messages, and return what it releases.

    Nothing else of it is kept. Raises RuntimeError when a site did not take part in every round.
    """
    from server.rounds import Rounds

    if scenario.claims_privacy:
        # Nobody gets to see this model: it claims nothing and spends from no ledger.
        scenario = with_values(scenario, "privacy", simulate_seed=secrets.randbits(31))
    plan, _, _ = plans.simulated(scenario)
    sites, run_id = scenario.federation.sites, secrets.randbits(63)
    # What will be thrown away need not reach a disk: in memory its many syncs cost nothing.
    memory = Path("/dev/shm")  # noqa: S108
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fedlite-", dir=place) as folder:
        directory = Path(folder)
        engine = make_engine(
            "serial",
            run_id=run_id,
            sites=sites,
            run_config=plan.scenario.to_run_config(),
            state=directory / "sites",
        )
        rounds = Rounds(
            SimulationGrid(run_id, sites, engine),
            plan,
            directory,
            run=run_id.to_bytes(8, "little"),
        )
        for record in rounds.play(
            epsilon=lambda _: None,
            evaluate=lambda _number, _vector: ({}, {}),
            cpu_seconds=time.process_time,
        ):
            if record.dropped or record.missing:
                raise RuntimeError(
                    f"comparisons: every site must take part, but in round {record.round} "
                    f"{record.dropped or record.missing} did not; see the log, or set "
                    "report.baseline_repeats = 0"
                )
        return rounds.point.state.released


def as_summary(scenario: Scenario, found: Comparison) -> dict[str, Any]:
    """Return the `baselines` part of the summary, without NaN: what is undefined is left out."""
    rows = []
    for way in found.ways:
        by_site = _known(found.sites, _mean(found.by_site(way)))
        mean = float(np.mean(list(by_site.values()))) if by_site else None
        rows.append({"name": way, "by_site": by_site, "mean": mean})
    exchange = {
        name: _known(found.sites, _mean(found.exchange[:, number]))
        for number, name in enumerate(found.sites)
    }
    accuracy = {
        way: _known(found.sites, _mean(over_folds(found.accuracy[:, :, number])))
        for number, way in enumerate(found.ways)
    }
    accuracy[COMMONEST] = _known(found.sites, _mean(over_folds(found.majority)))
    return {
        "metric": found.metric,
        "folds": found.by_fold.shape[1],
        "repeats": found.scores.shape[0],
        "rows": rows,
        "exchange": exchange,
        "accuracy": accuracy,
        "mean_of_folds": {
            way: _known(found.sites, _mean(over_folds(found.by_fold[:, :, number])))
            for number, way in enumerate(found.ways)
        },
        "note": note(scenario, found, accuracy),
    }


def _mean(values: Scores) -> Scores:
    """Mean over repeats [repeats, sites] to [sites], leaving out NaN."""
    mean: Scores = over_folds(values[None])[0]
    return mean


def _known(names: tuple[str, ...], values: Scores) -> dict[str, float]:
    return {
        name: float(v) for name, v in zip(names, values, strict=True) if math.isfinite(float(v))
    }


def note(scenario: Scenario, found: Comparison, accuracy: dict[str, dict[str, float]]) -> str:
    """Return what a reader must know beside the table."""
    parts = [
        "All rows but the last are the deep branch. Alone and pooled, not private: ridge logistic "
        "regression, its strength chosen by log loss on inner folds of the training part."
    ]
    if scenario.privacy.unit == "record":
        parts.append(
            f"{FEDERATED_CLEAR.capitalize()}: the private recipe, its clipping included, without "
            "noise and compression. Every fold is a fresh simulation; epsilon speaks of one "
            "federation, and does not cover the choice of its settings."
        )
        if scenario.privacy.simulate_seed >= 0:
            parts.append("The noise is repeatable here, so no privacy is claimed at all.")
    parts.append(
        "A home head is fitted after training, on the site's clear records, and never sent; it is "
        "not private towards those who see its answers."
    )
    if found.metric == "auc":
        parts += [_rarest_note(scenario, found), _accuracy_note(scenario, accuracy)]
    return " ".join(parts)


def _rarest_note(scenario: Scenario, found: Comparison) -> str:
    """Say how few records the coarsest site's AUC rests on, and what the mean of folds would be."""
    plan, _, sites = plans.simulated(scenario)
    counts = {
        site.name: int(
            np.bincount(np.concatenate([site.train.y, site.test.y]), minlength=plan.classes).min()
        )
        for site in sites
    }
    fewest = min(counts, key=lambda site: counts[site])
    by_fold = {
        way: float(np.nanmean(over_folds(found.by_fold[:, :, found.ways.index(way)])))
        for way in (ALONE, federated_name(scenario))
    }
    text = ", ".join(f"{way} {value:.3f}" for way, value in by_fold.items())
    return (
        "An AUC is over all of a site's records, each scored by a model that was not trained on it "
        f"(mean of the folds' own AUCs instead: {text}). It rests on the rarer class: {fewest} has "
        f"{counts[fewest]} records of it, so differences of a few points there are chance."
    )


def _accuracy_note(scenario: Scenario, accuracy: dict[str, dict[str, float]]) -> str:
    """Say what accuracy shows, and why it is not what the ways are compared by."""
    mean = {way: float(np.mean(list(v.values()))) for way, v in accuracy.items() if v}
    commonest = accuracy[COMMONEST]
    most = max(commonest, key=lambda site: commonest[site])
    return (
        f"Accuracy, mean of sites: alone {mean[ALONE]:.3f}, pooled {mean[POOLED]:.3f}, "
        f"{federated_name(scenario)} {mean[federated_name(scenario)]:.3f}. It is not the measure "
        f"here, and no gain in it is claimed: sites differ in how common a class is (at {most} "
        f"always answering the commonest is right for {100 * commonest[most]:.0f} %), which a site "
        "alone knows best; AUC asks only how well records are ranked."
    )
