"""Per-record gradients of a model, as norms and one weighted sum: one forward and backward pass.

A linear layer's gradient on one record is an outer product, so its norm and a weighted sum need its
two factors only ("book-keeping": Bu, Wang, Zha, Karypis 2023, section 3): what comes into the layer
and the gradient of what comes out. A plain convolution's gradients are built of the same two
(`fedlite.privacy.convolutions`), so are GroupNorm's, and other layers' by Opacus, record by record.

Norms and sums are taken in float64 from the very same numbers, so that a clipped contribution is as
long as its norm says: in float32 the rounding of a sum of many records could exceed what the
mechanism leaves room for.

Records go by blocks of one size, filled up, for two reasons. A record's gradient must be the same,
to the bit, whatever records stand beside it: a hostile model can make the rounding of a matrix
product as large as the gradients, and then one record more, which moves all others by a place or
changes the shape that a kernel is chosen for, moves the gradients of all of them and not its own
alone. `fedlite.privacy.trial` tries that it does not. And the work depends on the number of blocks,
not on which records are in them: time is a channel too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from fedlite.privacy import aligned, convolutions
from fedlite.privacy.parts import Outer, Part, Whole, whole

Loss = Callable[[tuple[Tensor, ...], Tensor], Tensor]
Rows = NDArray[np.int64]


def check_model(model: nn.Module) -> None:
    """Raise ValueError naming a layer of `model` that has no per-record gradients (BatchNorm).

    Trained values of float64 are refused, too: norms are products of squares in float64, which can
    come out as 0 where the gradients of such a model are far from it.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype is torch.float64:
            raise ValueError(
                f"model: '{name}' is float64, which is not allowed under record-level privacy "
                "(rule: squares of gradients must be in float64's range); use float32"
            )
    modules = dict(model.named_modules())
    kinds = {of for module in modules.values() for of in type(module).__mro__} - _SOUND
    if not any(of.__module__.startswith(("torch.", "opacus.")) for of in kinds):
        return
    from opacus.validators import ModuleValidator

    for name, module in modules.items():
        # Of a class of one's own, what it was made from.
        known = (of for of in type(module).__mro__ if of in ModuleValidator.VALIDATORS)
        if (of := next(known, None)) is not None and ModuleValidator.VALIDATORS[of](module):
            kind = of.__name__
            raise ValueError(
                f"model: '{name}' is {kind}, which is not allowed under record-level privacy "
                "(rule: a record's gradient must be computable by itself and not depend on other "
                f"records); {_MENDS.get(kind, 'use GroupNorm')}"
            )


@contextmanager
def alike(model: nn.Module) -> Iterator[None]:
    """Let `model`, in training mode, compute a record alike at every place of a block.

    On one torch thread: another rounds and flushes its share by itself, and where that begins
    depends on nothing but the number of values, so that it may be within a record.
    """
    model.train()
    if (settle := getattr(model, "one_by_one", None)) is not None:
        settle()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # Arithmetic on denormal numbers is many times slower, and weights can make them of one record
    # alone. That holds for this thread only.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


# Of these Opacus, which takes seconds to load, has nothing to say.
_SOUND = {
    of
    for kind in (
        *(nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding),
        *(nn.Identity, nn.Flatten, nn.Sequential, nn.ModuleList, nn.ModuleDict),
        *(nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Dropout, nn.MaxPool2d, nn.AvgPool2d),
    )
    for of in kind.__mro__
}
_MENDS = {
    "LSTM": "use opacus.layers.DPLSTM",
    "GRU": "use opacus.layers.DPGRU",
    "MultiheadAttention": "use opacus.layers.DPMultiheadAttention",
    **{f"InstanceNorm{d}d": "leave track_running_stats out" for d in (1, 2, 3)},
}


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer's gradients follow from what goes in and the gradient of what comes out."""
    return type(layer) in (nn.Linear, nn.GroupNorm) or convolutions.is_plain(layer)


class _Plain:
    """Hooks that only remember what goes through the plain layers of a model.

    Of a model that trains nothing else they are all that is needed, and no other is put on.
    """

    def __init__(self, model: nn.Module) -> None:
        """Put them on."""
        self._of, self.uses = model, dict[nn.Module, list[_Use]]()
        # From a layer to the hook behind it.
        self._patches: dict[nn.Module, Tensor] = {}
        self.aligned: list[nn.Module] = []
        self._handles: list[RemovableHandle] = []
        for module in model.modules():
            if type(module) is nn.Linear and any(aligned.missing(module)):
                # Not the method of the class: somebody else may use the same layer elsewhere.
                module.forward = partial(aligned.linear, module)  # type: ignore[method-assign]
                self.aligned.append(module)
            if not (is_plain(module) and any(p.requires_grad for p in module.parameters())):
                continue
            if isinstance(module, nn.Conv2d):
                forward = partial(self._convolve, module, module.forward)
                module.forward = forward  # type: ignore[method-assign]
                self.aligned.append(module)
            self._handles.append(module.register_forward_hook(self._remember))

    def __call__(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what the model answers."""
        outputs: tuple[Tensor, ...] = self._of(inputs)
        return outputs

    def remove(self) -> None:
        """Take them off."""
        for handle in self._handles:
            handle.remove()
        for module in self.aligned:
            del module.forward

    def _remember(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = self._patches.pop(module, inputs[0].detach())
        # The edge and not the output, which the next layer may overwrite.
        self.uses.setdefault(module, []).append(_Use(x, x._version, get_gradient_edge(output)))

    def _convolve(self, layer: nn.Conv2d, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not convolutions.has_few(layer, x):
            return forward(x)
        values = layer.weight[None], None if layer.bias is None else layer.bias[None]
        output, self._patches[layer] = convolutions.convolve(layer, x, *values)
        return output

    def gradients(self, total: Tensor, parameters: list[nn.Parameter]) -> list[Part | None]:
        """Return each parameter's gradients by record; None where `total` does not depend on it."""
        uses = [(module, use) for module, found in self.uses.items() for use in found]
        plain = {id(p) for module in self.uses for p in module.parameters()}
        others = [p for p in parameters if id(p) not in plain]
        places: list[Any] = [*(use.edge for _, use in uses), *others]
        slopes = torch.autograd.grad(total, places, allow_unused=True)
        found: dict[int, Outer | Whole] = {}
        for (module, use), slope in zip(uses, slopes, strict=False):
            if use.x._version != use.version:
                raise ValueError(
                    "model: what goes into a layer must not be changed in place afterwards"
                )
            if slope is not None:
                of_layer(module, use.x, slope, found)
        for parameter in others:
            samples = getattr(parameter, "grad_sample", None)
            if isinstance(samples, Tensor):
                found[id(parameter)] = Whole(samples.detach().double().flatten(1))
        self.uses = {}
        return [found.get(id(p)) for p in parameters]


class _All(_Plain):
    """These, and Opacus's on what is no plain layer."""

    def __init__(self, model: nn.Module) -> None:
        """Put both on."""
        from fedlite.privacy.sampled import Samples

        self._samples = Samples(model, is_plain)
        super().__init__(model)
        self._of = self._samples

    def remove(self) -> None:
        """Take both off."""
        super().remove()
        self._samples.to_standard_module()

    def gradients(self, total: Tensor, parameters: list[nn.Parameter]) -> list[Part | None]:
        """As of plain layers alone."""
        found = super().gradients(total, parameters)
        self._samples.set_grad_sample_to_none()
        return found


def _hooked(model: nn.Module) -> _Plain:
    """Return the hooks that a model needs, put on it."""
    plain = {id(p) for m in model.modules() if is_plain(m) for p in m.parameters()}
    if all(id(p) in plain for p in model.parameters() if p.requires_grad):
        return _Plain(model)
    return _All(model)


@dataclass(frozen=True)
class _Use:
    """A layer's input, its version then, and the place of the output in the graph."""

    x: Tensor
    version: int
    edge: GradientEdge


def of_layer(module: nn.Module, x: Tensor, slope: Tensor, found: dict[int, Outer | Whole]) -> None:
    """Add what one use of a plain layer gives.

    x: what came in, or a convolution's patches; slope: the gradient of what came out; float32.
    """
    if isinstance(module, nn.Linear):
        of_linear(module, x.double(), slope.double(), found)
    elif isinstance(module, nn.GroupNorm):
        slope = slope.double()
        normal = functional.group_norm(x.double(), module.num_groups, eps=module.eps)
        for of, each in ((module.weight, normal * slope), (module.bias, slope)):
            _add(of, each.reshape(*slope.shape[:2], -1).sum(2), found)
    elif isinstance(module, nn.Conv2d):
        patches = x if x.dim() == 3 else convolutions.patches(module, x)
        for parameter, samples in convolutions.by_record(module, patches, slope).items():
            _add(parameter, samples.double(), found)


def _add(parameter: Tensor | None, values: Tensor, found: dict[int, Outer | Whole]) -> None:
    """Add gradients one by one, float64 [b, values], to those of the layer's earlier uses."""
    if parameter is not None and parameter.requires_grad:
        if (before := found.get(id(parameter))) is not None:
            values = values + whole(before).flatten(1)
        found[id(parameter)] = Whole(values)


def of_linear(
    module: nn.Linear,
    x: Tensor,
    slope: Tensor,
    found: dict[int, Outer | Whole],
    known: Tensor | None = None,
) -> None:
    """Add what one use of a linear layer gives: x [b, ..., in], slope [b, ..., out], float64.

    known: of x [b, in], as `Outer` takes it.
    """
    for parameter in (module.weight, module.bias):
        if parameter is None or not parameter.requires_grad:
            continue
        weight, before = parameter is module.weight, found.get(id(parameter))
        if x.dim() == 2 and before is None:
            found[id(parameter)] = Outer(slope, x, known) if weight else Outer(slope, None)
            continue
        values = torch.einsum(
            "n...o,n...i->noi" if weight else "n...o,n...->no",
            slope,
            x if weight else torch.ones_like(slope[..., 0]),
        )
        if before is not None:
            values = values + whole(before).reshape(values.shape)
        found[id(parameter)] = Whole(values.flatten(1))


class ModelGradients:
    """The gradients of a model's loss on each of some records (`fedlite.privacy.dpsgd.Gradients`).

    A context manager: inside, `model` is in training mode with Opacus's hooks on it, and torch has
    one thread; afterwards both are as before, but for the mode.

    model: any that `check_model` accepts. inputs: [n, ...] float32; labels: [n, ...], what it
    should answer; loss(outputs, labels) -> [n]. block: how many records share a pass, at least 1;
    `fedlite.privacy.trial.block_of` says how many may.
    """

    def __init__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, loss: Loss, block: int = 32
    ) -> None:
        """Keep the records; nothing is computed yet."""
        self._model, self._inputs, self._labels, self._loss = model, inputs, labels, loss
        self._block = block
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.size = sum(p.numel() for p in self.parameters)
        self._blocks: list[list[Part | None]] = []

    def __enter__(self) -> ModelGradients:
        """Put the hooks on."""
        with ExitStack() as entered:
            entered.enter_context(alike(self._model))
            self._hooked = _hooked(self._model)
            entered.callback(self._hooked.remove)
            self._entered = entered.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the hooks off."""
        self._entered.close()

    def norms(self, rows: Rows) -> NDArray[np.float64]:
        """Return the norm of each record's gradient, float64 [b]; not finite where it is not."""
        self._count = len(rows)
        self._blocks = []
        device = self._labels.device
        if len(self._labels):
            chosen = torch.from_numpy(self._padded(rows)).to(device)
            inputs, labels = self._inputs, self._labels
        else:
            chosen = torch.zeros(self._block, dtype=torch.int64, device=device)
            inputs = self._inputs.new_zeros((1, *self._inputs.shape[1:]))
            labels = self._labels.new_zeros((1, *self._labels.shape[1:]))
        with warnings.catch_warnings():
            # The inputs need no gradient; torch warns about that for full backward hooks.
            warnings.simplefilter("ignore", UserWarning)
            found_squares = [
                self._pass(inputs[where], labels[where])
                for where in torch.split(chosen, self._block)
            ]
        found: NDArray[np.float64] = torch.cat(found_squares).sqrt()[: self._count].cpu().numpy()
        return found

    def _pass(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Keep the gradients of one block's records; return their squared norms, float64 [block].

        Raises ValueError when the model takes the first axis of a tensor for another than records.
        """
        losses = self._loss(self._hooked(inputs), labels)
        parts = self._hooked.gradients(losses.sum(), self.parameters)
        self._blocks.append(parts)
        total = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
        self._norms(parts, total)
        # One bad loss can leave a gradient that looks sound.
        return torch.where(torch.isfinite(losses.detach()), total, torch.nan)

    def _norms(self, parts: list[Part | None], total: Tensor) -> None:
        """Add the squared norms of a block's gradients to `total`, float64 [block]."""
        for part in parts:
            if part is not None:
                found = part.squares()
                if found.shape != total.shape:
                    raise ValueError(
                        "model: the first axis of what goes into a layer must be the records, "
                        f"{len(total)} in a block, got {len(found)}"
                    )
                total += found

    def weighted(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of the same records' gradients, each times its factor, float64 [d].

        To be called once after `norms`, whose factors it uses up.
        """
        padded = self._padded(factors)
        device = self._labels.device
        sizes = [p.numel() for p in self.parameters]
        total = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
        for at, parts in enumerate(self._blocks):
            block = padded[at * self._block : (at + 1) * self._block]
            weights = torch.from_numpy(block).to(device)
            for piece, part in zip(torch.split(total, sizes), parts, strict=True):
                if part is not None:
                    piece += part.weighted(weights)
        self._blocks = []
        found: NDArray[np.float64] = total.cpu().numpy()
        return found

    def _padded(self, values: NDArray[Any]) -> NDArray[Any]:
        """Fill up with zeros to whole blocks, at least one: record 0, which gets no weight."""
        blocks = max(1, -(-len(values) // self._block))
        return np.concatenate([values, np.zeros(blocks * self._block - len(values), values.dtype)])
