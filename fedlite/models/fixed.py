"""Fixed public filters under linear, bias-free heads that start at zero.

Under record-level privacy every trained scalar costs noise. Filters that are fixed in advance and
public cost none, and what is left to learn is convex. The filters come from a public constant, not
from the scenario's seed, so that every site and every run has the same ones.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlite.models.branched import Branched, Early

PUBLIC_SEED = 20_070_001
# Records that share a pass of fixed filters, and rows of a matrix start at multiples of 64 bytes.
_CHUNK, _ALIGNED = 64, 16


class Scale(nn.Module):
    """Multiply by a constant: a linear head of scaled inputs, without scaling the inputs."""

    def __init__(self, factor: float) -> None:
        """Keep the factor."""
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return ``factor * x``."""
        return x * self.factor


class Columns(nn.Module):
    """Keep the columns ``[start, stop)`` of ``[n, columns]``."""

    def __init__(self, start: int, stop: int) -> None:
        """Keep the bounds."""
        super().__init__()
        self.start = start
        self.stop = stop

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x[:, start:stop]``."""
        return x[:, self.start : self.stop]


class UnitImage(nn.Module):
    """Flatten each record, centre it, and divide by its own Euclidean norm."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, ...]`` to ``[n, d]`` rows of mean 0 and norm 1 (0 for a constant record)."""
        flat = x.flatten(1)
        centred = flat - flat.mean(dim=1, keepdim=True)
        norm: Tensor = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
        return centred / norm.clamp_min(1e-6)


class Intercept(nn.Module):
    """Put a constant column before the others.

    It is a third and not 1: under per-record clipping a large constant takes the norm from the
    columns that tell records apart.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, columns]`` to ``[n, 1 + columns]``."""
        return functional.pad(x, (1, 0), value=1.0 / 3.0)


class CosineFeatures(nn.Module):
    """Random Fourier features ``sqrt(2 / F) cos(x W + b)`` of a Gaussian kernel.

    ``W`` is ``[inputs, F]`` of N(0, bandwidth^2), ``b`` is ``[F]``, uniform in [0, 2 pi). Both are
    public constants, made again from ``PUBLIC_SEED`` wherever the model is built.

    Source:
        Rahimi and Recht, "Random features for large-scale kernel machines" (2007), algorithm 1.
    """

    weight: Tensor
    phase: Tensor

    def __init__(self, inputs: int, features: int, bandwidth: float) -> None:
        """Draw the public projection."""
        super().__init__()
        bits = np.random.Philox(key=PUBLIC_SEED)
        weight = bandwidth * _normal(bits, inputs * features).reshape(inputs, features)
        phase = 2.0 * math.pi * _uniform(bits, features)
        self.register_buffer("weight", torch.from_numpy(weight.astype(np.float32)), False)
        self.register_buffer("phase", torch.from_numpy(phase.astype(np.float32)), False)
        self.scale = math.sqrt(2.0 / features)
        self.inputs, self.features = inputs, features

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, inputs]`` to ``[n, F]``, each within ``sqrt(2 / F)``.

        Of ``[n, inputs + F]``, where `Cosine.prepare` has put them already, take them.
        """
        if x.shape[1] == self.inputs + self.features:
            return x[:, self.inputs :]
        return self.scale * torch.cos(torch.addmm(self.phase, x, self.weight))


def _uniform(bits: np.random.Philox, count: int) -> npt.NDArray[np.float64]:
    # Only the raw stream of a numpy bit generator is promised to stay the same for ever; its
    # distributions are not, and every site must hold the same filters.
    raw = np.asarray(bits.random_raw(count), dtype=np.uint64)
    values: npt.NDArray[np.float64] = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return values


def _normal(bits: np.random.Philox, count: int) -> npt.NDArray[np.float64]:
    radius = np.sqrt(-2.0 * np.log1p(-_uniform(bits, count)))
    values: npt.NDArray[np.float64] = radius * np.cos(2.0 * math.pi * _uniform(bits, count))
    return values


def public_normal(number: int, *shape: int) -> npt.NDArray[np.float64]:
    """Return public values of N(0, 1), float64 of `shape`: the same wherever they are asked for.

    number: tells one such array of a model from another, at least 0.

    >>> public_normal(0, 2).round(3).tolist() == public_normal(1, 2).round(3).tolist()
    False
    """
    bits = np.random.Philox(key=[PUBLIC_SEED, 1 + number])
    return _normal(bits, math.prod(shape)).reshape(shape)


def zero_head(inputs: int, classes: int) -> nn.Linear:
    """Return a linear layer without bias whose weights are exactly zero."""
    head = nn.Linear(inputs, classes, bias=False)
    nn.init.zeros_(head.weight)
    return head


class Transformed(Branched):
    """Two heads on the values of one cheap fixed transform.

    Args:
        transform: parameter-free, maps raw records to what both heads read.
        exit: the early head.
        tail: the deep head, with whatever fixed filters it needs besides.
        shape: shape of one raw record.
        classes: number of classes.
    """

    def __init__(
        self,
        transform: nn.Module,
        exit: nn.Module,
        tail: nn.Module,
        *,
        shape: tuple[int, ...],
        classes: int,
    ) -> None:
        """Keep the transform beside the three parts."""
        super().__init__(nn.Identity(), exit, tail, shape=shape, classes=classes)
        self.transform = transform

    def prepare(self, x: Tensor) -> Tensor:
        """Apply the transform to ``[n, *shape]``."""
        prepared: Tensor = self.transform(x)
        return prepared

    def deployed(self) -> Branched:
        """Put the transform into the stem; see ``Branched.deployed``."""
        return Branched(
            self.transform, self.exit, self.tail, shape=self.shape, classes=self.classes
        )


class Cosine(Transformed):
    """Fixed features under linear heads, found once for each record and not at each step."""

    def prepare(self, x: Tensor) -> Tensor:
        """Map ``[n, *shape]`` to what the exit reads and, behind it, the cosines: [n, inputs + F].

        In chunks of one size, filled up, and in rows that begin alike: so a record's features have
        the same bits whatever records stand beside it, as privacy needs.
        """
        fixed: CosineFeatures = self.tail[0]  # type: ignore[index]
        wide, high = -fixed.inputs % _ALIGNED, -fixed.features % _ALIGNED
        weight = functional.pad(fixed.weight, (0, high, 0, wide))
        phase = functional.pad(fixed.phase, (0, high))
        flat = super().prepare(x)
        prepared = flat.new_empty((len(flat), fixed.inputs + fixed.features))
        prepared[:, : fixed.inputs] = flat
        for start in range(0, len(flat), _CHUNK):
            chunk = flat[start : start + _CHUNK]
            full = functional.pad(chunk, (0, wide, 0, _CHUNK - len(chunk)))
            found = fixed.scale * torch.cos(torch.addmm(phase, full, weight))
            prepared[start : start + _CHUNK, fixed.inputs :] = found[: len(chunk), : fixed.features]
        return prepared

    def forward(self, prepared: Tensor) -> tuple[Tensor, ...]:
        """Return the early and the deep answers, each ``[n, classes]``."""
        fixed: CosineFeatures = self.tail[0]  # type: ignore[index]
        return self.exit(prepared[:, : fixed.inputs]), self.tail(prepared)

    def early(self) -> Branched:
        """Return the shallow branch alone, which reads none of the cosines."""
        fixed: CosineFeatures = self.tail[0]  # type: ignore[index]
        return Early(self, Columns(0, fixed.inputs))


def cosine(
    shape: tuple[int, ...], classes: int, *, features: int = 2000, bandwidth: float = 1.5
) -> Branched:
    """Build ``cosine``: standardised pixels under a linear exit, their cosines under the tail.

    Args:
        shape: of one record, at least 3 values.
        classes: number of classes.
        features: number of cosines.
        bandwidth: standard deviation of the filters' weights.
    """
    if features < 1:
        raise ValueError(f"features must be at least 1, got {features}; 2000 is usual")
    if not bandwidth > 0.0:
        raise ValueError(f"bandwidth must be above 0, got {bandwidth}; 1.5 is usual")
    size = math.prod(shape)
    if size < 3:
        raise ValueError(
            "model 'cosine' needs at least 3 values a record (rule: it centres and scales each "
            "record over its own values, which leaves nothing of one and a sign of two); the "
            f"data's shape is {list(shape)}; take 'linear' or 'mlp'"
        )
    return Cosine(
        UnitImage(),
        zero_head(size, classes),
        nn.Sequential(CosineFeatures(size, features, bandwidth), zero_head(features, classes)),
        shape=shape,
        classes=classes,
    )


def linear(shape: tuple[int, ...], classes: int, *, exit_columns: int | None = None) -> Branched:
    """Build ``linear``: two logistic regressions on a table.

    The exit reads the first ``exit_columns`` columns only, the tail all of them, each with an
    intercept: put the columns that are cheap to measure first, and a record decided by the exit
    never needs the others.

    Args:
        shape: ``[columns]``, at least 1.
        classes: number of classes.
        exit_columns: how many columns the exit reads, 1 up to all; default half, rounded up.
    """
    if len(shape) != 1:
        raise ValueError(
            f"model 'linear' needs a table [columns]; the data's shape is {list(shape)}; take "
            "'cnn' for images, 'cnn1d' for sequences"
        )
    columns = shape[0]
    early = (columns + 1) // 2 if exit_columns is None else exit_columns
    if not 1 <= early <= columns:
        raise ValueError(
            f"exit_columns must be from 1 to the table's {columns} columns, got {early}"
        )
    return Transformed(
        Intercept(),
        nn.Sequential(Columns(0, 1 + early), zero_head(1 + early, classes)),
        nn.Sequential(zero_head(1 + columns, classes)),
        shape=shape,
        classes=classes,
    )
