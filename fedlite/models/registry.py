"""Models by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import nn

from fedlite.models import fixed, mcmahan, scatter, tinyml
from fedlite.models.branched import Branched
from fedlite.models.single import Single
from fedlite.registry import Registry

Model = Branched | Single

_HOUSE: dict[str, Callable[..., nn.Module]] = {
    "cnn": tinyml.cnn,
    "cnn1d": tinyml.cnn1d,
    "cosine": fixed.cosine,
    "linear": fixed.linear,
    "mcmahan": mcmahan.mcmahan,
    "mlp": tinyml.mlp,
    "scatter": scatter.scatter,
}
_MODELS = Registry("model.name", "fedlite.models", _HOUSE)


def names() -> tuple[str, ...]:
    """Names that ``build`` knows beside ``file.py:function``, sorted."""
    return _MODELS.names()


def options(name: str) -> tuple[str, ...]:
    """Options, beyond shape and classes, that the model takes; sorted.

    Raises:
        ValueError: if the name is unknown, or is of something that cannot be called.
    """
    builder: object = _MODELS.get(name)
    if not callable(builder):
        raise ValueError(
            f"model.name: {name!r} must be a function, got {builder!r}; name one that makes a model"
        )
    parameters = inspect.signature(builder).parameters.values()
    return tuple(sorted(p.name for p in parameters if p.kind is p.KEYWORD_ONLY))


def build(
    name: str, shape: tuple[int, ...], classes: int, *, seed: int, **settings: object
) -> Model:
    """Build a model whose first weights depend on the arguments alone.

    The global random state is left as it was, and does not matter. A plain ``nn.Module`` becomes a
    model with one branch. Tensors of other precisions become float32.

    Args:
        name: one of ``names()``, or ``file.py:function`` (``fedlite.registry``).
        shape: shape of one record, without the batch axis.
        classes: width of an answer, at least 1: the number of classes, labels or targets.
        seed: of the first weights, 0 up to 2**63 - 1; equal seeds give bit-identical weights.
        **settings: options of that model, see ``options(name)``.

    Raises:
        ValueError: if the name or an option is unknown, or the model does not fit the shape.

    Example:
        >>> model = build("cosine", (1, 8, 8), 10, seed=0)
        >>> sum(p.numel() for p in model.parameters())
        20640
    """
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
        model: object = _MODELS.make(name, tuple(shape), classes, **settings)
    if isinstance(model, Branched):
        return model.float()
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model.name: {name!r} must return a torch.nn.Module, got {type(model).__name__}; "
            "return the network, or a fedlite.models.Branched for one that can answer twice"
        )
    # Updates are float32, and so is what they are added to.
    return Single(model.float(), shape=shape, classes=classes)
