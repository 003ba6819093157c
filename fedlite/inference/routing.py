"""Whether the shallow answer will do: a score for each input before the deep branch has run.

A router is a function `(inputs, shares, **options)` that returns a score in [0, 1] for each input,
higher where the shallow answer can be trusted more. Without torch: a bundle is used without it.

inputs: raw records as the model reads them, [n, *shape]. shares: float64 [n, classes], the
probabilities that the shallow branch gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.registry import Registry

Inputs = NDArray[Any]
Scores = NDArray[np.float64]
Router = Callable[..., Scores]

_LEVELS = 32
_NONE: Mapping[str, Any] = {}


def confidence(inputs: Inputs, shares: Scores) -> Scores:
    """Return the probability of the likeliest class (Hendrycks and Gimpel 2017).

    >>> confidence(np.zeros((1, 2)), np.array([[0.75, 0.25]])).tolist()
    [0.75]
    """
    found: Scores = shares.max(axis=1)
    return found


def margin(inputs: Inputs, shares: Scores) -> Scores:
    """Return how far the likeliest class is ahead of the second.

    >>> margin(np.zeros((1, 2)), np.array([[0.75, 0.25]])).tolist()
    [0.5]
    """
    two = np.partition(shares, -2, axis=1)[:, -2:]
    found: Scores = two[:, 1] - two[:, 0]
    return found


def entropy(inputs: Inputs, shares: Scores) -> Scores:
    """Return 1 less the entropy of the probabilities, as a share of the largest there may be.

    Source: Teerapittayanon, McDanel and Kung 2016, "BranchyNet", section III.

    >>> entropy(np.zeros((2, 2)), np.array([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [0.0, 1.0]
    """
    return _ordered(shares)


def complexity(inputs: Inputs, shares: Scores) -> Scores:
    """Return how simple an input itself is; the shallow answer is not looked at.

    Of texts, tokens above a mask, it is the share of the longest text that is left free. Of all
    others 1 less the entropy of their values in 32 levels, from the input's least to its greatest.
    It tells easy inputs from hard ones much worse than the shallow answer does, often no better
    than chance: look at its AUROC in a run's summary before it is taken. An input with a value that
    is no number, or infinite, is not simple: 0.

    >>> flat, busy = np.zeros((1, 8, 8)), np.arange(64.0).reshape(1, 8, 8)
    >>> complexity(np.stack([flat, busy]), np.ones((2, 1))).tolist()
    [1.0, 0.0]
    """
    if inputs.dtype == np.int64 and inputs.ndim == 3:
        free: Scores = 1.0 - inputs[:, 1].astype(np.float64).mean(axis=1)
        return free
    rows = inputs.reshape(len(inputs), math.prod(inputs.shape[1:])).astype(np.float64)
    finite = np.asarray(np.isfinite(rows).all(axis=1))
    # Halved, as the range of float32's greatest values is infinite in float32, and of float64's in
    # float64.
    rows = np.where(finite[:, None], rows, 0.0) / 2
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    place = (rows - low) / np.where(high > low, high - low, 1) * _LEVELS
    levels = np.clip(place.astype(np.int64), 0, _LEVELS - 1)
    flat = (levels + _LEVELS * np.arange(len(rows))[:, None]).ravel()
    counts = np.bincount(flat, minlength=_LEVELS * len(rows)).reshape(-1, _LEVELS)
    return np.where(finite, _ordered(counts / rows.shape[1]), 0.0)


HOUSE: dict[str, Router] = {
    "complexity": complexity,
    "confidence": confidence,
    "entropy": entropy,
    "margin": margin,
}
ROUTERS: Registry[Router] = Registry(
    "inference.router",
    "fedlite.routers",
    HOUSE,
    "inference.router_options",
    "(inputs, shares, **options)",
)


def scores(name: str, inputs: Inputs, shares: Scores, options: Mapping[str, Any] = _NONE) -> Scores:
    """Return the scores of the router called `name`, float64 [n].

    An input whose probabilities are no numbers scores 0: nothing can be less sure. So one input
    that a model cannot answer does not make all others fail. Raises ValueError for an unknown
    router, and where one of one's own returns anything else.

    >>> scores("margin", np.zeros((1, 2)), np.array([[0.75, 0.25]])).tolist()
    [0.5]
    """
    answered = np.asarray(np.isfinite(shares).all(axis=1))
    if not answered.all():
        shares = np.where(answered[:, None], shares, 1 / shares.shape[1])
    found: Any = ROUTERS.make(name, inputs, shares, options=options)
    if not isinstance(found, np.ndarray) or found.shape != shares.shape[:1]:
        told = f"{type(found).__name__} {list(getattr(found, 'shape', ()))}"
        rule = f"must return an array of shape [{len(shares)}], a score an input, got {told}"
        raise ROUTERS.wrong(name, ROUTERS.get(name), rule)
    # A probability that was rounded may be a hair above 1.
    found = found.astype(np.float64)
    if not ((found >= 0) & (found <= 1 + 1e-9)).all():
        rule = f"must return scores from 0 to 1, got {found.min()} to {found.max()}"
        raise ROUTERS.wrong(name, ROUTERS.get(name), rule)
    bounded: Scores = np.where(answered, np.minimum(found, 1.0), 0.0)
    return bounded


def softmax(answers: Scores) -> Scores:
    """Return probabilities [n, classes] of logits; no numbers where a logit is none, or infinite.

    >>> softmax(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    with np.errstate(invalid="ignore"):  # infinity less infinity is no number, as is said
        powers = np.exp(answers - answers.max(axis=1, keepdims=True))
    found: Scores = powers / powers.sum(axis=1, keepdims=True)
    return found


def _ordered(shares: Scores) -> Scores:
    """Return 1 where one share is all of [n, width], and 0 where all are equal."""
    logs = np.log(np.where(shares > 0, shares, 1.0))
    spread = -(shares * logs).sum(axis=1) / np.log(max(2, shares.shape[1]))
    found: Scores = np.clip(1.0 - spread, 0.0, 1.0)
    return found
