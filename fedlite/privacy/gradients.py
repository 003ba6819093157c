"""Per-record gradients of a model, as norms and one weighted sum: one forward and backward pass.

A linear layer's gradient on one record is an outer product, so its norm and a weighted sum need its
two factors only ("book-keeping": Bu, Wang, Zha, Karypis 2023, section 3): what comes into the layer
and the gradient of what comes out. Other layers' gradients are built by Opacus, record by record.

Norms and sums are taken in float64 from the very same numbers, so that a clipped contribution is as
long as its norm says: in float32 the rounding of a sum of many records could exceed what the
mechanism leaves room for.

The work of a pass depends on how many records it takes, rounded up to a multiple of 32, and not on
which: time is a channel too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Rows = NDArray[np.int64]

# One record more seldom changes a pass's shapes, and with them what kernels do.
_BLOCK = 32


def check_model(model: nn.Module) -> None:
    """Raise ValueError when per-record gradients of `model` are not defined (BatchNorm)."""
    from opacus.validators import ModuleValidator

    errors = ModuleValidator.validate(model, strict=False)
    if errors:
        raise ValueError(
            "model: not allowed under record-level privacy (rule: a record's gradient must not "
            f"depend on other records): {errors[0]}; use GroupNorm"
        )


@dataclass(frozen=True)
class _Outer:
    """Gradients `left_j right_j^T` of a weight, or `left_j` of a bias: float64 [b, .]."""

    left: Tensor
    right: Tensor | None

    def squares(self) -> Tensor:
        found = _squares(self.left)
        return found if self.right is None else found * _squares(self.right)

    def weighted(self, factors: Tensor, unused: Tensor) -> Tensor:
        left = self.left.index_fill(0, unused, 0.0) * factors[:, None]
        if self.right is None:
            return left.sum(0)
        # In place: a copy would take as long as the product.
        return (left.T @ self.right.index_fill_(0, unused, 0.0)).reshape(-1)


@dataclass(frozen=True)
class _Whole:
    """Gradients one by one: float64 [b, values of the tensor]."""

    values: Tensor

    def squares(self) -> Tensor:
        return _squares(self.values)

    def weighted(self, factors: Tensor, unused: Tensor) -> Tensor:
        return factors @ self.values.index_fill_(0, unused, 0.0)


def _squares(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.square()


class _Hooked(GradSampleModule):  # type: ignore[misc]
    """Opacus's hooks, and others that only remember what goes through a plain linear layer."""

    def add_hooks(self, **how: Any) -> None:
        """Put both kinds on."""
        super().add_hooks(**how)
        self.uses: dict[nn.Linear, list[tuple[Tensor, Tensor]]] = {}
        for module in self._module.modules():
            if type(module) is nn.Linear and any(p.requires_grad for p in module.parameters()):
                self._module.autograd_grad_sample_hooks.append(
                    module.register_forward_hook(self._remember)
                )

    def iterate_submodules(self, module: nn.Module) -> Iterable[nn.Module]:
        """Leave the plain linear layers to `_remember`."""
        return (m for m in super().iterate_submodules(module) if type(m) is not nn.Linear)

    def _remember(self, module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.uses.setdefault(module, []).append((inputs[0].detach(), output))

    def gradients(
        self, total: Tensor, parameters: list[nn.Parameter]
    ) -> list[_Outer | _Whole | None]:
        """Return each parameter's gradients by record; None where `total` does not depend on it."""
        uses = [(module, x, y) for module, pairs in self.uses.items() for x, y in pairs]
        linear = {id(p) for module in self.uses for p in module.parameters()}
        others = [p for p in parameters if id(p) not in linear]
        slopes = torch.autograd.grad(
            total, [*(y for *_, y in uses), *others], allow_unused=True, materialize_grads=True
        )
        found: dict[int, _Outer | _Whole] = {}
        for (module, x, _), slope in zip(uses, slopes, strict=False):
            _of_linear(module, x.double(), slope.double(), found)
        for parameter in others:
            samples = getattr(parameter, "grad_sample", None)
            if isinstance(samples, Tensor):
                found[id(parameter)] = _Whole(samples.detach().double().flatten(1))
        self.uses = {}
        self.set_grad_sample_to_none()
        return [found.get(id(p)) for p in parameters]


def _of_linear(
    module: nn.Linear, x: Tensor, slope: Tensor, found: dict[int, _Outer | _Whole]
) -> None:
    """Add what one use of a linear layer gives: x [b, ..., in], slope [b, ..., out]."""
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        weight, before = parameter is module.weight, found.get(id(parameter))
        if x.dim() == 2 and before is None:
            found[id(parameter)] = _Outer(slope, x if weight else None)
            continue
        values = torch.einsum(
            "n...o,n...i->noi" if weight else "n...o,n...->no",
            slope,
            x if weight else torch.ones_like(slope[..., 0]),
        )
        if before is not None:
            values = values + _whole(before).reshape(values.shape)
        found[id(parameter)] = _Whole(values.flatten(1))


def _whole(part: _Outer | _Whole) -> Tensor:
    if isinstance(part, _Whole):
        return part.values
    if part.right is None:
        return part.left
    return part.left[:, :, None] * part.right[:, None, :]


class ModelGradients:
    """The gradients of a model's loss on each of some records (`fedlite.privacy.dpsgd.Gradients`).

    A context manager: inside, `model` is in training mode with Opacus's hooks on it; afterwards the
    hooks are gone.

    model: any that `check_model` accepts. inputs: [n, ...] float32; labels: [n] int64;
    loss(exit_logits, deep_logits, labels) -> [n].
    """

    def __init__(self, model: nn.Module, inputs: Tensor, labels: Tensor, loss: Loss) -> None:
        """Keep the records; nothing is computed yet."""
        self._model, self._inputs, self._labels, self._loss = model, inputs, labels, loss
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.size = sum(p.numel() for p in self.parameters)
        self._parts: list[_Outer | _Whole | None] = []

    def __enter__(self) -> ModelGradients:
        """Put the hooks on."""
        self._model.train()
        # strict=False: the fixed public filters are buffers, which strict mode takes for
        # BatchNorm's.
        self._hooked = _Hooked(self._model, loss_reduction="sum", strict=False)
        return self

    def __exit__(self, *error: object) -> None:
        """Take the hooks off."""
        self._hooked.to_standard_module()

    def norms(self, rows: Rows) -> NDArray[np.float64]:
        """Return the norm of each record's gradient, float64 [b]; not finite where it is not."""
        self._count = len(rows)
        with warnings.catch_warnings():
            # The inputs need no gradient; torch warns about that for full backward hooks.
            warnings.simplefilter("ignore", UserWarning)
            losses = self._losses(rows)
            self._parts = self._hooked.gradients(losses.sum(), self.parameters)
        squares = torch.zeros_like(losses, dtype=torch.float64)
        for part in self._parts:
            if part is not None:
                squares += part.squares()
        # One bad loss can leave a gradient that looks sound.
        squares = torch.where(torch.isfinite(losses), squares, torch.nan)
        found: NDArray[np.float64] = squares.sqrt()[: self._count].detach().cpu().numpy()
        return found

    def weighted(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of the same records' gradients, each times its factor, float64 [d].

        To be called once after `norms`, whose factors it uses up.
        """
        padded = np.zeros(_padded(self._count))
        padded[: self._count] = factors
        device = self._labels.device
        weights = torch.from_numpy(padded).to(device)
        unused = torch.from_numpy(np.flatnonzero(padded == 0)).to(device)
        flat = torch.cat(
            [
                weights.new_zeros(p.numel()) if part is None else part.weighted(weights, unused)
                for p, part in zip(self.parameters, self._parts, strict=True)
            ]
        )
        self._parts = []
        found: NDArray[np.float64] = flat.cpu().numpy()
        return found

    def _losses(self, rows: Rows) -> Tensor:
        """Return the rows' losses, [padded b], filled up with others that get no weight."""
        device = self._labels.device
        if len(self._labels):
            chosen = np.zeros(_padded(len(rows)), np.int64)
            chosen[: len(rows)] = rows
            where = torch.from_numpy(chosen).to(device)
            inputs, labels = self._inputs[where], self._labels[where]
        else:
            inputs = self._inputs.new_zeros((_padded(0), *self._inputs.shape[1:]))
            labels = self._labels.new_zeros(_padded(0))
        shallow, deep = self._hooked(inputs)
        return self._loss(shallow, deep, labels)


def _padded(rows: int) -> int:
    return max(1, -(-rows // _BLOCK)) * _BLOCK
