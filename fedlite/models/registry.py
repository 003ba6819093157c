"""Models by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch

from fedlite.models import fixed, scatter, tinyml
from fedlite.models.branched import Branched

_BUILDERS: dict[str, Callable[..., Branched]] = {
    "cnn": tinyml.cnn,
    "cnn1d": tinyml.cnn1d,
    "cosine": fixed.cosine,
    "linear": fixed.linear,
    "mlp": tinyml.mlp,
    "scatter": scatter.scatter,
}


def names() -> tuple[str, ...]:
    """Names that ``build`` knows, sorted."""
    return tuple(sorted(_BUILDERS))


def options(name: str) -> tuple[str, ...]:
    """Options, beyond shape and classes, that the model takes; sorted.

    Raises:
        ValueError: if the name is unknown.
    """
    parameters = inspect.signature(_builder(name)).parameters.values()
    return tuple(sorted(p.name for p in parameters if p.kind is p.KEYWORD_ONLY))


def build(
    name: str, shape: tuple[int, ...], classes: int, *, seed: int, **settings: object
) -> Branched:
    """Build a model whose first weights depend on the arguments alone.

    The global random state is left as it was, and does not matter.

    Args:
        name: one of ``names()``.
        shape: shape of one record, without the batch axis.
        classes: number of classes, at least 2.
        seed: of the first weights, 0 up to 2**63 - 1; equal seeds give bit-identical weights.
        **settings: options of that model, see ``options(name)``.

    Raises:
        ValueError: if the name or an option is unknown, or the model does not fit the shape.

    Example:
        >>> model = build("cosine", (1, 8, 8), 10, seed=0)
        >>> sum(p.numel() for p in model.parameters())
        20640
    """
    builder = _builder(name)
    if not shape or min(shape) < 1:
        raise ValueError(f"shape must have sizes of at least 1, got {list(shape)}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be from 0 to 2**63 - 1, got {seed}")
    known = options(name)
    for key in settings:
        if key not in known:
            listed = ", ".join(known) or "none"
            raise ValueError(f"model '{name}' has no option '{key}'; its options: {listed}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return builder(tuple(shape), classes, **settings)


def _builder(name: str) -> Callable[..., Branched]:
    try:
        return _BUILDERS[name]
    except KeyError:
        raise ValueError(f"model '{name}' is unknown; known: {', '.join(names())}") from None
