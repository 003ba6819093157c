"""Models by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from fedlite.models import fixed, mcmahan, pretrained, scatter, tinyml, vgg
from fedlite.models.branched import Branched
from fedlite.models.single import Single
from fedlite.registry import Registry

Model = Branched | Single

_HOUSE: dict[str, Callable[..., nn.Module]] = {
    "cnn": tinyml.cnn,
    "cnn1d": tinyml.cnn1d,
    "cosine": fixed.cosine,
    "linear": fixed.linear,
    "lora": pretrained.lora,
    "lora-lm": pretrained.lora_lm,
    "mcmahan": mcmahan.mcmahan,
    "mlp": tinyml.mlp,
    "scatter": scatter.scatter,
    "vgg": vgg.vgg,
}
MODELS = Registry(
    "model.name", "fedlite.models", _HOUSE, "model.options", "(shape, classes, **options)"
)


def names() -> tuple[str, ...]:
    """Names that ``build`` knows beside those of one's own, sorted."""
    return MODELS.names()


def of_the_house(name: str) -> bool:
    """Return whether a model is one of fedlite's own, and nobody else's code."""
    return name in _HOUSE


def build(
    name: str, shape: tuple[int, ...], classes: int, *, seed: int, **settings: object
) -> Model:
    """Build a model whose first weights depend on the arguments alone.

    The global random state is left as it was, and does not matter. A plain ``nn.Module`` becomes a
    model with one branch. Tensors of other precisions become float32.

    Args:
        name: one of ``names()``, or of one's own (``fedlite.registry``).
        shape: shape of one record, without the batch axis.
        classes: width of an answer, at least 1: the number of classes, labels or targets.
        seed: of the first weights, 0 up to 2**63 - 1; equal seeds give bit-identical weights.
        **settings: options of that model: what it takes beyond shape and classes.

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
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: object = MODELS.make(name, tuple(shape), classes, options=settings)
    if isinstance(model, Branched):
        return model.float()
    if not isinstance(model, nn.Module):
        raise MODELS.wrong(
            name,
            MODELS.get(name),
            f"must return a torch.nn.Module, got {type(model).__name__}; return the network, or a "
            "fedlite.models.Branched for one that can answer twice",
        )
    # Updates are float32, and so is what they are added to.
    return Single(model.float(), shape=shape, classes=classes)
