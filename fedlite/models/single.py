"""Any PyTorch network as a model with one branch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fedlite.models.branched import macs_of, made_up


class Single(nn.Module):
    """A plain network that maps a batch of records to answers; see `Branched` for two branches.

    network: maps records [n, *shape] to answers [n, classes]. shape: of one record, without the
    batch axis. classes: width of an answer, at least 1.

    Its tensors have the names that they have in the network, so that what is trained is a state
    dict of it.

    >>> model = Single(nn.Linear(4, 3), shape=(4,), classes=3)
    >>> (deep,) = model(model.prepare(torch.zeros(2, 4)))
    >>> deep.shape, [name for name, _ in model.named_parameters()]
    (torch.Size([2, 3]), ['weight', 'bias'])
    """

    branches = ("deep",)

    def __init__(self, network: nn.Module, *, shape: tuple[int, ...], classes: int) -> None:
        """Keep the network; see the class."""
        super().__init__()
        self.network = network
        self.shape = tuple(shape)
        self.classes = classes

    def named_modules(self, *given: Any, **options: Any) -> Iterator[Any]:
        """Yield the network's modules, by the names that they have in it."""
        yield from self.network.named_modules(*given, **options)

    def prepare(self, x: Tensor) -> Tensor:
        """Return the records as they are: whatever a network does to them, it does each time."""
        return x

    def one_by_one(self) -> None:
        """As the network has it; see `Branched.one_by_one`."""
        own = getattr(self.network, "one_by_one", None)
        if callable(own):
            own()

    def standing(self) -> tuple[tuple[str, ...], ...]:
        """As the network has it; see `Branched.standing`."""
        own = getattr(self.network, "standing", None)
        return tuple(own()) if callable(own) else ()

    def products(self) -> tuple[tuple[str, str], ...]:
        """As the network has it; see `Branched.products`."""
        own = getattr(self.network, "products", None)
        return tuple(own()) if callable(own) else ()

    @property
    def block(self) -> int:
        """How many records may be clipped in one pass: what the network says, or any number."""
        return int(getattr(self.network, "block", 1 << 30))

    def early(self) -> NoReturn:
        """Raise ValueError: a plain network has no shallow branch."""
        raise ValueError(
            "model: must have a shallow branch where sites train that alone, and is a plain "
            "network; return a fedlite.models.Branched, or leave federation.weak and "
            "federation.weak_sites out"
        )

    def made_up(self, count: int) -> Tensor:
        """Return raw records that nobody holds: those of `network.made_up`, or in [0, 1]."""
        own = getattr(self.network, "made_up", None)
        found: Tensor = own(count) if callable(own) else made_up(count, self.shape)
        return found

    def forward(self, prepared: Tensor) -> tuple[Tensor, ...]:
        """Return the answers, [n, classes], alone in a tuple."""
        answers: Tensor = self.network(prepared)
        return (answers,)

    def costs(self) -> dict[str, dict[str, int]]:
        """Count trainable parameters and work per record, as `Branched.costs`, in one part."""
        where = next(self.parameters()).device
        with torch.no_grad():
            macs = macs_of(self.network, self.made_up(1).to(where))
        size = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return {"network": {"parameters": size, "macs": macs}}
