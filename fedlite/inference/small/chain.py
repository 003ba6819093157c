"""The layers of a tail in their order, and which of them may be cut."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fedlite.models import Branched

# What computes products, and what hands values on channel by channel.
Product = nn.Conv1d | nn.Conv2d | nn.Linear
PRODUCTS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_PASSING = (
    *(nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Dropout, nn.Identity),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.Flatten),
)


def products(model: Branched) -> list[str]:
    """Return the names of the tail's layers that compute products, in their order.

    Raises ValueError for a tail that is no sequence of layers.
    """
    if not isinstance(model.tail, nn.Sequential):
        raise ValueError(
            f"tail: must be a torch.nn.Sequential to be made smaller, got "
            f"{type(model.tail).__name__}; export it without --max-loss"
        )
    return [name for name, layer in model.tail.named_children() if _plain(layer)]


def neighbours(model: Branched) -> Iterator[tuple[Product, Product]]:
    """Yield each layer of products with the next, where nothing between them mixes channels."""
    names = products(model)
    layers = dict(model.tail.named_children())
    order = list(layers)
    for name, following in zip(names, names[1:], strict=False):
        places = order[order.index(name) + 1 : order.index(following)]
        between = [layers[one] for one in places]
        ends = [isinstance(layers[one], nn.Linear) for one in (name, following)]
        flat = any(isinstance(one, nn.Flatten) for one in between)
        # A matrix behind maps reads channels only where they were laid out one after the other.
        if all(isinstance(one, _PASSING) for one in between) and flat != (ends[0] == ends[1]):
            yield layers[name], layers[following]  # type: ignore[misc]


def inputs(model: Branched, hidden: Tensor) -> dict[str, Tensor]:
    """Return what each layer of products reads, for hidden values [n, ...] behind the stem."""
    found, wanted = {}, set(products(model))
    with torch.no_grad():
        for name, layer in model.tail.named_children():
            if name in wanted:
                found[name] = hidden
            hidden = layer(hidden)
    return found


def _plain(layer: nn.Module) -> bool:
    return isinstance(layer, PRODUCTS) and getattr(layer, "groups", 1) == 1
