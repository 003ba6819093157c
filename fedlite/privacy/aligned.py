"""Linear layers on rows that all start at a multiple of 64 bytes, whichever record stands where.

Rows that start elsewhere are summed in another order, so that a record's place in a block would
change its bits.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

ALIGNED = 16
"""Values of float32 in 64 bytes."""


def missing(layer: nn.Linear) -> tuple[int, int]:
    """Return how many values a row of what comes in, and of what goes out, is short of that."""
    return -layer.in_features % ALIGNED, -layer.out_features % ALIGNED


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Compute a linear layer on rows that all start so, both ways: x [..., in]."""
    wide, high = missing(layer)
    weight = functional.pad(layer.weight, (0, wide, 0, high))
    padded = functional.linear(filled(x, wide), weight)[..., : layer.out_features]
    return padded.clone() if layer.bias is None else padded + layer.bias


def filled(x: Tensor, wide: int) -> Tensor:
    """Return x with `wide` zeros behind each row, so that all rows start so."""
    # To fill up with nothing is a copy, too; of what lies otherwise, one that lies as it did.
    if wide or not x.is_contiguous() or not _starts_so(x):
        return functional.pad(x.contiguous(), (0, wide))
    return x


def _starts_so(x: Tensor) -> bool:
    try:
        return x.data_ptr() % (4 * ALIGNED) == 0
    except RuntimeError:  # within torch.func no tensor says where it lies
        return False
