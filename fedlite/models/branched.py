"""A network that can answer twice: early from a cheap exit, late from a deep tail."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

PARTS = ("stem", "exit", "tail")


class Branched(nn.Module):
    """A stem whose output feeds an early exit and a deep tail.

    The three parts are plain modules, so that a device may hold the stem and the exit alone.
    No part may mix records (no BatchNorm): a record's gradient must depend on that record only,
    otherwise per-record clipping bounds nothing.

    Args:
        stem: maps prepared records ``[n, ...]`` to hidden values ``[n, ...]``.
        exit: maps hidden values to the early answers ``[n, classes]``.
        tail: maps hidden values to the deep answers ``[n, classes]``.
        shape: shape of one raw record, without the batch axis.
        classes: width of an answer, at least 1: the number of classes, labels or targets.

    Example:
        >>> model = Branched(nn.Flatten(), nn.Linear(4, 3), nn.Linear(4, 3), shape=(4,), classes=3)
        >>> early, deep = model(model.prepare(torch.zeros(2, 4)))
        >>> early.shape, deep.shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
        >>> model.costs()["tail"]
        {'parameters': 15, 'macs': 12}
    """

    def __init__(
        self,
        stem: nn.Module,
        exit: nn.Module,
        tail: nn.Module,
        *,
        shape: tuple[int, ...],
        classes: int,
    ) -> None:
        """Keep the three parts; see the class."""
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}; give the label count")
        self.stem = stem
        self.exit = exit
        self.tail = tail
        self.shape = tuple(shape)
        self.classes = classes

    branches: tuple[str, ...] = ("shallow", "deep")

    def prepare(self, x: Tensor) -> Tensor:
        """Apply the model's fixed, public, parameter-free transform to raw records.

        It treats each record alone, so a site may compute it once and cache the result at no
        privacy cost. The default is the identity.

        Args:
            x: raw records, float32 ``[n, *shape]``.

        Returns:
            Prepared records, float32 ``[n, ...]``: what ``forward`` takes.
        """
        return x

    def one_by_one(self) -> None:
        """From now on give a record's answer the same bits whatever records stand beside it.

        Models do so as they are, save those that leave out work where a batch allows it.
        """

    def standing(self) -> tuple[tuple[str, ...], ...]:
        """Return which trained tensors stand still in a round, by name, for each turn in order.

        The rounds take the turns one after the other, from round 1 on. Without turns all moves in
        every round.
        """
        return ()

    def products(self) -> tuple[tuple[str, str], ...]:
        """Return the matrices that it uses through their product alone, by name: left and right.

        Averaged apart, both of which are trained, they come to another product than the mean.
        """
        return ()

    def made_up(self, count: int) -> Tensor:
        """Return raw records that nobody holds, [count, *shape], for trial steps: in [0, 1]."""
        return made_up(count, self.shape)

    def forward(self, prepared: Tensor) -> tuple[Tensor, ...]:
        """Return the early and the deep answers, each ``[n, classes]``."""
        hidden = self.stem(prepared)
        return self.exit(hidden), self.tail(hidden)

    def early(self) -> Branched:
        """Return the shallow branch alone, as a model of one branch that shares its parameters.

        They have the names that they have here. A model whose stem computes more than its exit
        reads returns a stem that does not.
        """
        return Early(self, self.stem)

    def deployed(self) -> Branched:
        """Return the same function as a model of raw records, sharing this one's parameters.

        ``deployed().forward(x)`` equals ``forward(prepare(x))``, but the fixed transform is
        split: what the exit needs is in the stem, the rest in the tail, so that a record which
        leaves early does not pay for the deep features. Export, routing and ``costs`` use it.
        Where ``prepare`` is the identity this is the model itself.
        """
        return self

    def costs(self) -> dict[str, dict[str, int]]:
        """Count, for stem, exit and tail, trainable parameters and work per raw record.

        Returns:
            For each part ``{"parameters": scalars, "macs": multiply-accumulates}``. MACs are
            those of convolutions and matrix products, fixed public filters included and booked
            to the part of ``deployed()`` that runs them; norms, pooling and activations, a few
            operations per value, are not counted.
        """
        model = self.deployed()
        parameter = next(self.parameters())
        record = torch.zeros((1, *self.shape), dtype=torch.float32, device=parameter.device)
        with torch.no_grad():
            macs = {"stem": macs_of(model.stem, record)}
            hidden = model.stem(record)
            macs["exit"] = macs_of(model.exit, hidden)
            macs["tail"] = macs_of(model.tail, hidden)
        return {
            part: {
                "parameters": sum(
                    p.numel() for p in getattr(self, part).parameters() if p.requires_grad
                ),
                "macs": macs[part],
            }
            for part in PARTS
        }


class Early(Branched):
    """The stem and the exit of a model: what a site trains that does not train its tail.

    whole: the model, whose parameters it shares. stem: what of the model's stem the exit needs.

    >>> whole = Branched(nn.Flatten(), nn.Linear(4, 3), nn.Linear(4, 3), shape=(4,), classes=3)
    >>> (shallow,) = whole.early()(torch.zeros(2, 4))
    >>> shallow.shape, [name for name, _ in whole.early().named_parameters()]
    (torch.Size([2, 3]), ['exit.weight', 'exit.bias'])
    """

    branches = ("shallow",)

    def __init__(self, whole: Branched, stem: nn.Module) -> None:
        """Keep the two parts; see the class."""
        super().__init__(stem, whole.exit, nn.Identity(), shape=whole.shape, classes=whole.classes)
        # Not as its module: no parameter of the tail is one of this model.
        self._whole = (whole,)
        if hasattr(whole, "block"):
            self.block = whole.block

    @property
    def whole(self) -> Branched:
        """The model whose shallow branch it is."""
        return self._whole[0]

    def _apply(self, fn: Any, recurse: bool = True) -> Early:
        # What prepares the records goes where the rest does.
        self.whole._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def prepare(self, x: Tensor) -> Tensor:
        """As the whole model does."""
        return self.whole.prepare(x)

    def one_by_one(self) -> None:
        """As the whole model does."""
        self.whole.one_by_one()

    def standing(self) -> tuple[tuple[str, ...], ...]:
        """Return what of this branch stands still in the turns of the whole model."""
        mine = {name for name, _ in self.named_parameters()}
        return tuple(tuple(n for n in names if n in mine) for names in self.whole.standing())

    def made_up(self, count: int) -> Tensor:
        """As the whole model does."""
        return self.whole.made_up(count)

    def early(self) -> Branched:
        """Return this model: it is the shallow branch."""
        return self

    def forward(self, prepared: Tensor) -> tuple[Tensor, ...]:
        """Return the early answers, [n, classes], alone in a tuple."""
        return (self.exit(self.stem(prepared)),)

    def costs(self) -> dict[str, dict[str, int]]:
        """Return those of the whole model's stem and exit; see `Branched.costs`."""
        return {part: cost for part, cost in self.whole.costs().items() if part != "tail"}


def made_up(count: int, shape: tuple[int, ...]) -> Tensor:
    """Return records in [0, 1] that nobody holds, float32 [count, *shape], always the same."""
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(0))


def macs_of(module: nn.Module, record: Tensor) -> int:
    """Return the multiply-accumulates of convolutions and matrix products on one record.

    As it is used: in training one record has no variance to normalise by, and would be remembered.
    """
    modes = [(part, part.training) for part in module.modules()]
    counter = _Counter()
    module.eval()
    # Transformers have ways of their own, single calls that hide their products.
    whole = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), counter:
            module(record)
    finally:
        torch.backends.mha.set_fastpath_enabled(whole)
        for part, training in modes:
            part.training = training
    return counter.flops // 2


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts as torch's `FlopCounterMode` does, which loads torch's compiler: over a second."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        count = flop_registry.get(func.overloadpacket)
        if count is None:
            with self:
                # A product may be within: in inference mode they come whole.
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        out = func(*args, **kwargs)
        self.flops += int(count(*args, **kwargs, out_val=out))
        return out
