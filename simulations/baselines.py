"""What a federation is set beside, trained and scored: alone, pooled, not private, head at home.

A fold is one division of the records. Whatever is here trains on its training parts; a federation
is a fresh simulation of the whole scenario.
"""

from __future__ import annotations

import math
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlite import depth, plan as plans
from fedlite.compression import Decoded
from fedlite.data import Dataset, SiteData
from fedlite.models import Model
from fedlite.parameters import Vector, load_vector
from fedlite.plan import Plan
from fedlite.privacy import RecordMechanism
from fedlite.privacy.mechanism import LEAST_NOISE
from fedlite.scenario import Scenario, with_values
from fedlite.tasks.curves import area_under_curve
from fedlite.training import Learner, head as home
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


def over_folds(values: Scores) -> Scores:
    """Return the mean over axis 1, leaving out NaN; NaN where nothing is left."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    mean: Scores = np.where(known.any(axis=1), total / np.maximum(1, known.sum(axis=1)), np.nan)
    return mean


def federated_name(scenario: Scenario) -> str:
    """Return what the rows call the scenario's own federation."""
    return f"federated, epsilon {scenario.privacy.epsilon:g}" if scenario.private else "federated"


def divided(scenario: Scenario, repeat: int, fold: int) -> Scenario:
    """Return the same scenario on another division into training and held-out records."""
    scenario = with_values(scenario, "data", fold=fold)
    # Nothing is scored on the way, so the last round it is.
    scenario = with_values(scenario, "selection", keep="last", patience=0)
    seed = scenario.federation.seed + repeat
    return with_values(scenario, "federation", seed=seed, evaluate_every=0)


def metric_of(classes: int) -> tuple[str, Score]:
    """Return the name of the measure that fits so many classes, and the measure."""
    return ("auc", _auc) if classes == 2 else ("accuracy", _accuracy)


def _auc(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    if not 0 < labels.sum() < len(labels):
        return math.nan
    return area_under_curve(logits[:, 1] - logits[:, 0], labels)


def _accuracy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    return float((logits.argmax(1) == labels).mean()) if len(labels) else math.nan


class Fold:
    """One division of the records: everything trained on its training parts, and scored.

    By way to train, a value a site: `logits` [held-out records, classes], `scores` by `metric`,
    `accuracy`. `own`: the heads that the sites trained alone. `held`: their held-out parts.
    """

    def __init__(self, model: Model, sites: Sequence[SiteData], seed: int) -> None:
        """Compute the features that all heads read; `seed` draws the inner folds."""
        self.metric, self.score = metric_of(model.classes)
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
        """Fit a head, not private, with the strength that inner folds of these records choose."""
        return home.fit_by_validation(x, y, centre, np.random.default_rng([_INNER, self.seed]))

    def zero(self) -> home.Head:
        """Return the head that answers every class alike."""
        return home.Head.zero(self.model.classes, self.x[0].shape[1])

    def add(self, way: str, heads: list[home.Head]) -> None:
        """Score one head a site on that site's held-out part."""
        pairs = list(zip(heads, self.held, strict=True))
        self.add_logits(way, [head.logits(x) for head, (x, _) in pairs])

    def add_logits(self, way: str, logits: list[NDArray[np.float64]]) -> None:
        """Score answers to each site's held-out part."""
        rows = list(zip(logits, (y for _, y in self.held), strict=True))
        self.logits[way] = logits
        self.scores[way] = [self.score(values, y) for values, y in rows]
        self.accuracy[way] = [_accuracy(values, y) for values, y in rows]


def train_fold(scenario: Scenario) -> Fold:
    """Train and score all ways on the division that the scenario says."""
    federation = scenario.federation
    plan, _, sites = plans.simulated(scenario)
    model = plan.model()
    fold, count = Fold(model, sites, federation.seed), len(sites)
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


def _shallow(model: Model, test: Dataset) -> NDArray[np.float64]:
    import torch

    model.eval()
    with torch.no_grad():
        logits: NDArray[np.float64] = (
            model(model.prepare(torch.from_numpy(test.x)))[0].double().numpy()
        )
    return logits


def over_records(folds: list[Fold], way: str) -> list[float]:
    """Return `metric` of one way at every site, over the held-out parts of all folds together."""
    return [
        folds[0].score(
            np.concatenate([fold.logits[way][site] for fold in folds]),
            np.concatenate([fold.held[site][1] for fold in folds]),
        )
        for site in range(len(folds[0].held))
    ]


def exchanged(folds: list[Fold]) -> list[list[float]]:
    """Return `metric` of each site's own heads at every site, over all folds' held-out parts."""
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


def home_scores(scenario: Scenario, vector: Vector) -> dict[str, dict[str, float]]:
    """Return `{metric: {site: score}}` of the home heads on the sites' held-out parts.

    Sites whose held-out part is empty, or of one class where the metric needs two, are left out.
    """
    seed = scenario.federation.seed
    plan, _, sites = plans.simulated(scenario)
    model = plan.model()
    load_vector(model, vector)
    metric, score = metric_of(plan.classes)
    found = {}
    for site in sites:
        head = home.home_head(model, site.train, seed=seed)
        value = score(head.logits(home.deep_features(model, site.test.x)), site.test.y)
        if math.isfinite(value):
            found[site.name] = value
    return {metric: found}


def _alone(scenario: Scenario, model: Model, sites: Sequence[SiteData]) -> list[home.Head]:
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


def train_here(
    scenario: Scenario, parts: list[Dataset], mechanism: RecordMechanism | None
) -> Vector:
    """Train on `parts` round by round as the federation does, but without messages or compression.

    mechanism: that of the scenario; None where nothing is private.

    Returns the released model, float32 [n].
    """
    from strategies import ServerState, make

    plan, _, _ = plans.simulated(scenario)
    learners = [Learner(plan, part) for part in parts]
    strategy = make(scenario.federation)
    state = ServerState.initial(learners[0].initial)
    size = len(state.model)
    for number in range(1, scenario.federation.rounds + 1):
        turn = plan.turn(number)
        moving = slice(None) if turn is None else turn.moving
        strategy.start(size if turn is None else turn.moving.size)
        for site, learner in enumerate(learners):
            delta = learner.delta(state.model, number, site, mechanism)[moving]
            strategy.add(Decoded(delta.size, None, delta), len(learner.labels))
        state = strategy.finish(state, number, turn)
    return state.released


def federate(scenario: Scenario) -> Vector:
    """Run the scenario's real federation, Flower apps and messages, and return what it releases.

    Nothing else of it is kept. Raises RuntimeError when a site did not take part in every round.
    """
    from server.roster import Roster
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
        grid = SimulationGrid(run_id, sites, engine)
        layouts = depth.layouts(plan)
        roster = Roster(grid, scenario.federation, plan.travelling.digest, layouts=layouts)
        rounds = Rounds(grid, plan, directory, roster, run=run_id.to_bytes(8, "little"))
        for record in rounds.play(
            epsilon=lambda _: None,
            evaluate=lambda _number, _vector: {},
            cpu_seconds=time.process_time,
        ):
            if record.dropped or record.missing:
                raise RuntimeError(
                    f"comparisons: every site must take part, but in round {record.round} "
                    f"{record.dropped or record.missing} did not; see the log, or set "
                    "report.baseline_repeats = 0"
                )
        return rounds.point.state.released
