"""The gradients of a block's records by one tensor: as factors, or one by one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Values of a record that are squared together: no second copy of all is made.
_TOGETHER = 4096


@dataclass(frozen=True)
class Outer:
    """Gradients `left_j right_j^T` of a weight, or `left_j` of a bias: float64 [b, .].

    known: the squared norms of the rows of `right`, float64 [b], where they are known and finite.
    """

    left: Tensor
    right: Tensor | None
    known: Tensor | None = None

    def squares(self, scales: Tensor | None = None) -> Tensor:
        """Return the squared norms, float64 [b]; each square times its scale, float64 [values]."""
        if scales is None:
            found = squares(self.left)
            if self.right is None:
                return found
            return found * (squares(self.right) if self.known is None else self.known)
        left = self.left.square()
        if self.right is None:
            return left @ scales
        # Never one by one: what a weight's values of one output share is multiplied once.
        return (left @ scales.view(left.shape[1], -1)).mul_(self.right.square()).sum(1)

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

    def squares(self, scales: Tensor | None = None) -> Tensor:
        """Return the squared norms, float64 [b]; each square times its scale, float64 [values]."""
        if scales is None:
            return squares(self.values)
        pairs = zip(
            torch.split(self.values, _TOGETHER, 1), torch.split(scales, _TOGETHER), strict=True
        )
        return sum((some.square() @ scale for some, scale in pairs), self.values.new_zeros(()))

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
