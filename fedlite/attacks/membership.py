"""Membership inference on released models: a weaker figure, which people ask for.

A likelihood-ratio attack (Carlini et al. 2022, "LiRA") with few shadow models: who was in the
training data is guessed from the final model's loss on each record alone. It says how a known
attack fares against typical records, and bounds nothing: the worst record may be far worse off, and
whoever sees every update sees more.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from fedlite.attacks.bounds import gaussian_epsilon, step_mu
from fedlite.attacks.canaries import Values
from fedlite.attacks.subject import Subject
from fedlite.attacks.verdict import Finding
from fedlite.parameters import load_vector


def membership(
    subject: Subject,
    *,
    models: int,
    rounds: int,
    seconds: float = math.inf,
    tick: Callable[[str], None] = lambda _: None,
) -> Finding:
    """Train `models` models of random halves of the records, and guess each one's half.

    models: at least 4; each is attacked with all others as its shadows. rounds: of each model;
    fewer for all of them where the first one takes more than its share of `seconds`.
    """
    if models < 4:
        raise ValueError(f"models: must be at least 4, got {models}; 16 is usual")
    rng = np.random.default_rng()
    member = np.stack(
        [rng.permutation(subject.records) < subject.records // 2 for _ in range(models)]
    )
    losses = np.empty(member.shape)
    rounds = _affordable(subject, member[0], rounds, seconds / models)
    for number, chosen in enumerate(member):
        losses[number] = _losses(subject, np.flatnonzero(chosen), rounds)
        tick(f"membership inference: model {number + 1} of {models}")
    scores = np.concatenate([_ratios(losses, member, number) for number in range(models)])
    truth = member.ravel()
    inside, outside = scores[truth], scores[~truth]
    area = auc(inside, outside)
    cut = float(np.quantile(outside, 0.99))
    found = float((inside > cut).mean())
    mu = step_mu(inside, outside, 0.0, 0.05)
    return Finding(
        "membership inference",
        "pass",
        f"AUC {area:.3f}; {found:.1%} found at 1 % false alarms; {models} models of {rounds} "
        "rounds, half of the records each",
        "estimate",
        gaussian_epsilon(mu, subject.delta),
        assumes="records are alike and independent; only the final model of this site is seen",
        blind="the worst record; whoever sees more: a weak attack, and no bound",
        figures={"auc": area, "found_at_1_percent": found, "models": models},
    )


def auc(inside: Values, outside: Values) -> float:
    """Return the chance that a member's score is above another's, ties counting half."""
    ranks = rankdata(np.concatenate([inside, outside]))[: len(inside)].sum()
    pairs = len(inside) * len(outside)
    return float((ranks - len(inside) * (len(inside) + 1) / 2) / pairs)


def _affordable(subject: Subject, member: NDArray[np.bool_], rounds: int, seconds: float) -> int:
    """Return how many rounds fit into `seconds`, by the time of one."""
    started = time.monotonic()
    _losses(subject, np.flatnonzero(member), 1)
    return int(np.clip(seconds / (time.monotonic() - started), 1, rounds))


def _losses(subject: Subject, rows: NDArray[np.int64], rounds: int) -> Values:
    """Return every record's loss, float64 [n], under a model that was trained on `rows`."""
    real = subject.learner
    trained = copy.copy(real)
    trained.inputs, trained.labels = real.inputs[rows], real.labels[rows]
    model = real.initial
    for round_number in range(1, rounds + 1):
        model = model + trained.delta(model, round_number, 1, subject.mechanism)
    load_vector(real.model, model)
    with torch.no_grad():
        values = real.loss(real.model(real.inputs), real.labels)
    load_vector(real.model, real.initial)
    return np.asarray(values.double().cpu().numpy())


def _ratios(losses: Values, member: NDArray[np.bool_], number: int) -> Values:
    """Return each record's log-likelihood ratio under one model, from all the others."""
    others = np.arange(len(losses)) != number
    shown, chosen = losses[others], member[others]
    means = []
    for side in (chosen, ~chosen):
        count = np.maximum(side.sum(axis=0), 1)
        means.append(np.where(side, shown, 0.0).sum(axis=0) / count)
    spread = shown.var(axis=0) + 1e-12
    middle = (means[0] + means[1]) / 2
    ratios: Values = (losses[number] - middle) * (means[0] - means[1]) / spread
    return ratios
