"""The compressors by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedlite.compression.dense import Dense
from fedlite.compression.interface import Compressor
from fedlite.compression.topk import TopK


@dataclass(frozen=True)
class Settings:
    """What a scenario says of a compressor; each takes what it knows and ignores the rest.

    Attributes:
        density: the fraction of the coordinates that is sent, in (0, 1]; None for the
            compressor's own choice.
        values: how a sent value is written; None for the compressor's own choice.
        bits: bits a rotated coordinate, 1 to 8.
        sections: sizes of the model's tensors (`Layout.sizes`); empty stands for one tensor.
    """

    density: float | None = None
    values: str | None = None
    bits: int = 1
    sections: tuple[int, ...] = ()


COMPRESSORS: dict[str, Callable[[Settings], Compressor]] = {
    "dense": lambda s: Dense(),
    "topk": lambda s: TopK(
        0.03 if s.density is None else s.density, s.values or "sign", s.sections
    ),
}


def make(
    name: str,
    *,
    density: float | None = None,
    values: str | None = None,
    bits: int = 1,
    sections: tuple[int, ...] = (),
) -> Compressor:
    """Return the compressor that is registered under `name`, with the given `Settings`.

    Raises:
        ValueError: `name` is not registered, or the compressor refuses its settings.

    >>> make("topk", density=0.03, values="sign")
    TopK(density=0.03, values='sign', sections=())
    """
    if name not in COMPRESSORS:
        known = ", ".join(sorted(COMPRESSORS))
        raise ValueError(f"compressor must be one of {known}; got {name!r}")
    return COMPRESSORS[name](Settings(density, values, bits, sections))
