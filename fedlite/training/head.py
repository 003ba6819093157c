"""A head fitted at home: the federation's deep head, adjusted to one site's own records.

It is valid only after training, and it never leaves the site. It is fitted on clear records, so it
may not be sent, and nothing of it may be fed back into a later round: gradients taken from a state
that was not noised would not be covered by the site's epsilon. The home head itself is **not
differentially private** towards anybody who sees it or what it answers; it is for use at home.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlite.data import Dataset
from fedlite.data.folds import stratified_folds
from fedlite.models import Branched, Model
from fedlite.models.fixed import Scale

Matrix = NDArray[np.float64]

STRENGTHS = (1000.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
"""Penalties tried, strongest first: the first keeps the centre, the last hardly holds it."""

INNER_FOLDS = 5
# An intercept is free to follow the site's own base rate; this keeps it finite where an inner fold
# has records of one class only.
_INTERCEPT = 1e-3
# Up to so many values Newton's method, whose curvature has their square, is the faster one.
_NEWTON = 500
# Keeps the inner folds apart from every other use of the same seed.
_HOME = 40_500


@dataclass(frozen=True)
class Head:
    """A linear head: `weight` float64 [classes, f] and `bias` float64 [classes].

    >>> Head.zero(2, 3).logits(np.ones((1, 3))).tolist()
    [[0.0, 0.0]]
    """

    weight: Matrix
    bias: Matrix

    @classmethod
    def zero(cls, classes: int, features: int) -> Head:
        """Return the head that answers every class alike."""
        return cls(np.zeros((classes, features)), np.zeros(classes))

    def logits(self, features: Matrix) -> Matrix:
        """Map features [n, f] to logits [n, classes]."""
        values: Matrix = features @ self.weight.T + self.bias
        return values


def deep_features(model: Model, x: NDArray[np.float32]) -> Matrix:
    """Return what the deep head reads for raw records `x` [n, *shape]: float64 [n, f].

    Raises ValueError when the deep branch is not a linear head on fixed features.
    """
    before, _, scale = _split(model)
    model.eval()
    with torch.no_grad():
        hidden: Tensor = before(model.prepare(torch.from_numpy(x)))
        features: Matrix = (hidden.flatten(1) * scale).double().numpy()
    return features


def deep_head(model: Model) -> Head:
    """Return the deep head of `model`, for what `deep_features` returns.

    Raises ValueError when the deep branch is not a linear head on fixed features.
    """
    _, linear, scale = _split(model)
    weight: Matrix = linear.weight.detach().double().numpy().copy()
    if linear.bias is None:
        return Head(weight, np.zeros(len(weight)))
    bias: Matrix = linear.bias.detach().double().numpy() * scale
    return Head(weight, bias)


def _split(model: Model) -> tuple[nn.Module, nn.Linear, float]:
    """The deep branch as fixed features, a linear layer, and a constant factor behind it."""

    def trained(module: nn.Module) -> bool:
        return any(p.requires_grad for p in module.parameters())

    if isinstance(model, Branched):
        parts = [model.stem, *model.tail.children()]
        heads = [i for i, part in enumerate(parts) if trained(part)]
        if isinstance(model.tail, nn.Sequential) and len(heads) == 1:
            linear, after = parts[heads[0]], parts[heads[0] + 1 :]
            scales = [part.factor for part in after if isinstance(part, Scale)]
            if isinstance(linear, nn.Linear) and len(scales) == len(after):
                return nn.Sequential(*parts[: heads[0]]), linear, float(np.prod(scales))
    raise ValueError(
        "inference.home_head: needs a model whose deep branch is one linear layer on fixed "
        "features, because only such a head has one best fit to few records; this model trains "
        "more than that; use linear, cosine or scatter, or turn it off"
    )


def fit(features: Matrix, labels: NDArray[np.int64], centre: Head, strength: float) -> Head:
    """Return the head that minimises `sum of log losses + strength * |W - W_centre|^2`.

    features [n, f] float64; labels [n] int64; `strength` > 0, per nat. The problem is convex, so
    the answer does not depend on where the search starts. The intercept is all but free.

    Raises ValueError when `strength` is not greater than 0, or there is no record.

    >>> features, labels = np.array([[-1.0], [1.0]]), np.array([0, 1])
    >>> held = fit(features, labels, Head.zero(2, 1), 1e6)
    >>> free = fit(features, labels, Head.zero(2, 1), 1e-2)
    >>> bool(abs(held.weight).max() < 1e-3), free.logits(features).argmax(1).tolist()
    (True, [0, 1])
    """
    if not strength > 0:
        raise ValueError(f"strength: must be greater than 0, got {strength}; 1 is usual")
    if not len(labels):
        raise ValueError("labels: must hold at least one record, got none; fit where records are")
    return _path(features, labels, centre, (strength,))[0]


def fit_by_validation(
    features: Matrix,
    labels: NDArray[np.int64],
    centre: Head,
    rng: np.random.Generator,
    strengths: Sequence[float] = STRENGTHS,
) -> Head:
    """Return `fit` with the strength whose log loss on inner folds of these records is lowest.

    The folds are stratified and drawn by `rng`; no other record is looked at.
    """
    folds = min(INNER_FOLDS, len(labels))
    if folds < 2:
        return fit(features, labels, centre, max(strengths))
    order = sorted(strengths, reverse=True)
    fold = stratified_folds(labels, folds, rng)
    losses = np.zeros(len(order))
    for number in range(folds):
        held = fold == number
        heads = _path(features[~held], labels[~held], centre, order)
        losses += [_log_loss(h.logits(features[held]), labels[held])[0] for h in heads]
    best = int(losses.argmin())
    return _path(features, labels, centre, order[: best + 1])[-1]


def home_head(model: Model, train: Dataset, *, seed: int) -> Head:
    """Fit the trained `model`'s deep head to a site's own `train` part, towards the model's own.

    Only after the last round, and only for use at this site: see the module. `seed` draws the inner
    folds. The model is not changed. Apply the head to `deep_features(model, x)`.

    Raises ValueError when the deep branch is not a linear head on fixed features.
    """
    features, centre = deep_features(model, train.x), deep_head(model)
    return fit_by_validation(features, train.y, centre, np.random.default_rng([_HOME, seed]))


def _path(
    features: Matrix, labels: NDArray[np.int64], centre: Head, strengths: Sequence[float]
) -> list[Head]:
    """Fit at each strength in turn, each from the one before: neighbours are a few steps apart."""
    width = centre.weight.shape[1]
    problem = _Problem.of(features, labels, centre)
    heads, current = [], problem.centre.ravel()
    for strength in strengths:
        current = problem.solve(current, strength)
        whole = current.reshape(problem.centre.shape).copy()
        heads.append(Head(whole[:, :width], whole[:, width]))
    return heads


@dataclass(frozen=True)
class _Problem:
    """One ridge logistic regression; the intercept is the last column of `rows` and `centre`."""

    rows: Matrix
    labels: NDArray[np.int64]
    centre: Matrix

    @classmethod
    def of(cls, features: Matrix, labels: NDArray[np.int64], centre: Head) -> _Problem:
        return cls(
            np.column_stack([features, np.ones(len(features))]),
            labels,
            np.column_stack([centre.weight, centre.bias]),
        )

    def solve(self, start: Matrix, strength: float) -> Matrix:
        pull = np.full(self.centre.shape, strength)
        pull[:, -1] = _INTERCEPT
        if start.size <= _NEWTON:
            return self._newton(start, pull)
        from scipy.optimize import minimize

        options = {"maxiter": 1000, "gtol": 1e-4, "ftol": 1e-9}
        found = minimize(
            self._value, start, args=(pull,), jac=True, method="L-BFGS-B", options=options
        )
        solution: Matrix = found.x
        return solution

    def _value(self, flat: Matrix, pull: Matrix) -> tuple[float, Matrix]:
        head = flat.reshape(self.centre.shape)
        moved = head - self.centre
        loss, slope = _log_loss(self.rows @ head.T, self.labels)
        gradient = slope.T @ self.rows + 2.0 * pull * moved
        return loss + float((pull * moved * moved).sum()), gradient.ravel()

    def _newton(self, flat: Matrix, pull: Matrix) -> Matrix:
        """Newton's method with halved steps: on few columns far faster than a quasi-Newton one."""
        value, gradient = self._value(flat, pull)
        for _ in range(100):
            if np.abs(gradient).max() < 1e-6:
                break
            step = np.linalg.solve(self._curvature(flat, pull), gradient)
            size = 1.0
            while size > 1e-8:
                after, slope = self._value(flat - size * step, pull)
                if after <= value:
                    break
                size /= 2
            else:
                break
            flat, value, gradient = flat - size * step, after, slope
        return flat

    def _curvature(self, flat: Matrix, pull: Matrix) -> Matrix:
        classes, width = self.centre.shape
        logits = self.rows @ flat.reshape(classes, width).T
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        blocks = np.empty((classes, width, classes, width))
        for one in range(classes):
            for other in range(one, classes):
                weight = share[:, one] * (float(one == other) - share[:, other])
                block = self.rows.T @ (weight[:, None] * self.rows)
                blocks[one, :, other] = blocks[other, :, one] = block
        curvature = blocks.reshape(classes * width, classes * width)
        curvature[np.diag_indices_from(curvature)] += 2.0 * pull.ravel()
        return curvature


def _log_loss(logits: Matrix, labels: NDArray[np.int64]) -> tuple[float, Matrix]:
    """Summed cross-entropy in nats, and its gradient in the logits [n, classes]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    totals = powers.sum(axis=1, keepdims=True)
    at = np.arange(len(labels))
    loss = float((np.log(totals[:, 0]) - shifted[at, labels]).sum())
    slope: Matrix = powers / totals
    slope[at, labels] -= 1.0
    return loss, slope
