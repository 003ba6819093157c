"""The gradients of a block's records by one tensor: as factors, or one by one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Outer:
    """Gradients `left_j right_j^T` of a weight, or `left_j` of a bias: float64 [b, .]."""

    left: Tensor
    right: Tensor | None

    def at(self, where: Tensor) -> Tensor:
        """Return some coordinates of each record's gradient, float64 [b, len(where)]."""
        if self.right is None:
            return self.left[:, where]
        wide = self.right.shape[1]
        return self.left[:, where // wide] * self.right[:, where % wide]

    def squares(self) -> Tensor:
        """Return the squared norms, float64 [b]."""
        found = squares(self.left)
        return found if self.right is None else found * squares(self.right)

    def weighted(self, factors: Tensor) -> Tensor:
        """Return the sum of all, each times its factor, float64 [values]."""
        left = torch.nan_to_num(self.left, 0.0, 0.0, 0.0) * factors[:, None]
        if self.right is None:
            return left.sum(0)
        # In place: a copy would take as long as the product.
        return (left.T @ torch.nan_to_num_(self.right, 0.0, 0.0, 0.0)).reshape(-1)


@dataclass(frozen=True)
class Whole:
    """Gradients one by one: float64 [b, values of the tensor]."""

    values: Tensor

    def at(self, where: Tensor) -> Tensor:
        """Return some coordinates of each record's gradient, float64 [b, len(where)]."""
        return self.values[:, where]

    def squares(self) -> Tensor:
        """Return the squared norms, float64 [b]."""
        return squares(self.values)

    def weighted(self, factors: Tensor) -> Tensor:
        """Return the sum of all, each times its factor, float64 [values]."""
        return factors @ torch.nan_to_num_(self.values, 0.0, 0.0, 0.0)


Part = Outer | Whole


def squares(rows: Tensor) -> Tensor:
    """Return the squared norm of each row, float64 [b]."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.square()


def whole(part: Part) -> Tensor:
    """Return gradients one by one, float64 [b, ...]: values of the tensor, in its order."""
    if isinstance(part, Whole):
        return part.values
    if part.right is None:
        return part.left
    return part.left[:, :, None] * part.right[:, None, :]
