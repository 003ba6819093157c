"""A model's trainable tensors as one flat float32 vector.

Everything that travels, is compressed, averaged or stored is such a vector; its `Layout` says which
stretch belongs to which tensor, and the layout's digest lets both ends refuse a vector made for
another model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

Vector = NDArray[np.float32]
# What a site's objective remembers from round to round, by name.
Kept = dict[str, NDArray[Any]]

# A site whose training moved a parameter further has diverged, and sends nothing.
LARGEST_DELTA = 1e6
# In a private run a site takes no model with a larger weight: nobody trains one, it could make a
# chosen record's gradient overflow, and budget spent on it would be spent for nothing.
LARGEST_WEIGHT = 1e6
# A server takes no update with a larger value. It is far above the other bound, as an unbiased
# compressor and a residual multiply what they are given, and far below where float32 ends, so that
# no sum of updates that passed can overflow in a run of sane length and step.
LARGEST_UPDATE = 1e15

# Running statistics of which an average of compressed or hostile ones may fall below 0.
_COUNTS = "num_batches_tracked"
_NOT_NEGATIVE = ("running_var", _COUNTS)


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the trainable tensors, in the order in which they are laid out.

    frozen: SHA-256 of the parameters that are not trained, which no message holds: a vector means
    nothing beside others. Empty where there are none.

    >>> layout = Layout(("head.weight",), ((10, 64),))
    >>> layout.size, len(layout.digest)
    (640, 8)
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    frozen: bytes = b""

    def __post_init__(self) -> None:
        """Refuse tensors without values, which compressors would have nothing to say of."""
        for name, size in zip(self.names, self.sizes, strict=True):
            if not size:
                raise ValueError(
                    f"{name}: a trainable tensor must have a value at least, got none; freeze it"
                )

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """Return the layout of the parameters of `module` that require a gradient."""
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        names, shapes = tuple(n for n, _ in named), tuple(tuple(p.shape) for _, p in named)
        return cls(names, shapes, frozen_digest(module))

    @classmethod
    def running(cls, module: nn.Module) -> Layout:
        """Return the layout of the statistics that layers of `module` keep while they train.

        Those of BatchNorm and its kin: they are averaged over the sites like the parameters, and go
        exactly as they are.
        """
        named = _running(module)
        return cls(tuple(name for name, _ in named), tuple(tuple(b.shape) for _, b in named))

    def with_behind(self, other: Layout) -> Layout:
        """Return the layout of a vector with another behind it."""
        return Layout(self.names + other.names, self.shapes + other.shapes, self.frozen)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each tensor."""
        return tuple(int(np.prod(shape)) for shape in self.shapes)

    @cached_property
    def size(self) -> int:
        """Number of float32 values in the vector."""
        return sum(self.sizes)

    @cached_property
    def digest(self) -> bytes:
        """First 8 bytes of SHA-256 over the canonical JSON of names, shapes and what is frozen."""
        parts: list[Any] = [self.names, self.shapes]
        text = json.dumps(parts + [self.frozen.hex()] * bool(self.frozen), separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()[:8]


@dataclass(frozen=True, eq=False)
class Portion:
    """Some of a model's trained tensors: what moves where not everything does.

    Which they are follows from the model, the round's number and a site's name alone, so that
    server and sites know it without a word, and what stands still needs neither bytes nor noise: no
    record decides what moves.

    name: for what is remembered of it. standing: the trained tensors that do not move. moving:
    where the others' values are in the model's vector, int64 [m], ascending. sizes: of those
    tensors, in their order.
    """

    name: str
    standing: frozenset[str]
    moving: NDArray[np.int64]
    sizes: tuple[int, ...]

    @contextmanager
    def alone(self, model: nn.Module) -> Iterator[None]:
        """Let what stands still in `model` require no gradient, until the context is left."""
        still = [p for name, p in model.named_parameters() if name in self.standing]
        for parameter in still:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in still:
                parameter.requires_grad_(True)


def portion_of(layout: Layout, name: str, standing: Set[str]) -> Portion:
    """Return the portion of all tensors but those that are `standing`.

    >>> layout = Layout(("a", "b"), ((2,), (3,)))
    >>> portion_of(layout, "without a", {"a"}).moving.tolist()
    [2, 3, 4]
    """
    moves = [one not in standing for one in layout.names]
    sizes = tuple(size for size, moved in zip(layout.sizes, moves, strict=True) if moved)
    moving = np.flatnonzero(np.repeat(moves, layout.sizes))
    return Portion(name, frozenset(standing), moving, sizes)


def turns_of(layout: Layout, standing: Sequence[Sequence[str]]) -> tuple[Portion, ...]:
    """Return what moves in the turns of a model, the first one that of round 1.

    standing: for each turn the names of the trained tensors that stand still; nothing where all
    moves always.

    Raises ValueError where a name is no trained tensor's, or a turn moves nothing.

    >>> layout = Layout(("a", "b"), ((2,), (3,)))
    >>> [turn.moving.tolist() for turn in turns_of(layout, (("a",), ("b",)))]
    [[2, 3, 4], [0, 1]]
    """
    found = []
    for number, names in enumerate(standing):
        unknown = sorted(set(names) - set(layout.names))
        if unknown or not set(layout.names) - set(names):
            raise ValueError(
                f"model.standing: turn {number} must name some of the trained tensors and not all, "
                f"got {', '.join(unknown) or 'all'}; see what the model's `standing` returns"
            )
        found.append(portion_of(layout, f"turn {number}", set(names)))
    return tuple(found)


def vector_digest(vector: Vector) -> bytes:
    """Return the first 8 bytes of SHA-256 over the little-endian bytes of `vector`."""
    return hashlib.sha256(np.ascontiguousarray(vector, dtype="<f4").data).digest()[:8]


def frozen_digest(module: nn.Module) -> bytes:
    """Return SHA-256 over the parameters of `module` that are not trained; empty without any."""
    import torch

    frozen = [(name, p) for name, p in module.named_parameters() if not p.requires_grad]
    digest = hashlib.sha256()
    for name, parameter in frozen:
        values = parameter.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest() if frozen else b""


def to_vector(module: nn.Module) -> Vector:
    """Copy the trainable tensors of `module` into one float32 vector of `Layout.size` values."""
    import torch

    parts = [p.detach().reshape(-1).float() for p in module.parameters() if p.requires_grad]
    if not parts:
        return np.zeros(0, np.float32)
    flat: Vector = torch.cat(parts).cpu().numpy()
    return flat


def _running(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the running statistics of `module` by name; of other buffers none changes."""
    from torch.nn.modules.batchnorm import _NormBase

    kept = {
        f"{name}.{key}" if name else key
        for name, part in module.named_modules()
        if isinstance(part, _NormBase)
        for key, _ in part.named_buffers(recurse=False)
    }
    return [(name, buffer) for name, buffer in module.named_buffers() if name in kept]


def running_to_vector(module: nn.Module) -> Vector:
    """Copy the running statistics of `module` into one float32 vector, counts of batches too."""
    parts = [buffer.detach().reshape(-1).float().cpu().numpy() for _, buffer in _running(module)]
    return np.concatenate([*parts, np.zeros(0, np.float32)])


def least_running(layout: Layout) -> Vector:
    """Return what no running statistic may fall below: 0 for variances and counts, float32 [n]."""
    low = [0.0 if name.endswith(_NOT_NEGATIVE) else -np.inf for name in layout.names]
    return np.repeat(np.array(low, np.float32), layout.sizes)


def counts_running(layout: Layout) -> NDArray[np.bool_]:
    """Return which running statistics count batches, bool [n]."""
    return np.repeat([name.endswith(_COUNTS) for name in layout.names], layout.sizes)


def load_running(module: nn.Module, vector: Vector) -> None:
    """Copy `vector` into the running statistics of `module`; counts are rounded, at least 0."""
    import torch

    offset = 0
    with torch.no_grad():
        for name, buffer in _running(module):
            piece = torch.tensor(vector[offset : offset + buffer.numel()]).view(buffer.shape)
            if not buffer.is_floating_point():
                piece = piece.round()
            if name.endswith(_NOT_NEGATIVE):
                # An average of compressed or hostile ones must not make a square root of it fail.
                piece = piece.clamp_min(0)
            buffer.copy_(piece)
            offset += buffer.numel()


def load_vector(module: nn.Module, vector: Vector) -> None:
    """Copy `vector` into the trainable tensors of `module`, in place.

    Raises ValueError when the number of values differs from the model's.
    """
    import torch

    parameters = [p for p in module.parameters() if p.requires_grad]
    size = sum(p.numel() for p in parameters)
    if vector.shape != (size,):
        raise ValueError(
            f"vector: the model has {size} trainable values, got shape {vector.shape}; "
            "use a vector made for the same model"
        )
    offset = 0
    with torch.no_grad():
        for parameter in parameters:
            piece = vector[offset : offset + parameter.numel()]
            # torch warns of arrays that it could not write to, though nothing here does.
            piece = piece if piece.flags.writeable else piece.copy()
            parameter.copy_(torch.from_numpy(piece).view_as(parameter))
            offset += parameter.numel()
