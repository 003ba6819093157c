"""The compressors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedlite.compression.dense import Dense
from fedlite.compression.eden import Eden
from fedlite.compression.interface import Compressor
from fedlite.compression.quantization import quantizer
from fedlite.compression.randk import RandK
from fedlite.compression.rotated import RotatedTopK
from fedlite.compression.topk import TopK
from fedlite.registry import Registry


@dataclass(frozen=True)
class Settings:
    """What a scenario says of a compressor; each takes what it knows and ignores the rest.

    Attributes:
        density: the fraction of the coordinates that is sent, in (0, 1]; None for the
            compressor's own choice.
        values: how a sent value is written: a name in `quantization.QUANTIZERS`; dense takes
            all but fp16 for fp32. None for the compressor's own choice.
        bits: bits a rotated coordinate, 1 to 8.
        unbiased: scale what is sent so that its expectation is the vector, for links without error
            feedback; otherwise so that it is as near to the vector as it can be.
        sections: sizes of the model's tensors (`Layout.sizes`); empty stands for one tensor.
    """

    density: float | None = None
    values: str | None = None
    bits: int = 1
    unbiased: bool = True
    sections: tuple[int, ...] = ()


def _dense(settings: Settings) -> Dense:
    """Return fp16 or else fp32: who tries dense may leave in the plan how values are written."""
    if settings.values is not None:
        quantizer(settings.values)
    return Dense("fp16" if settings.values == "fp16" else "fp32")


COMPRESSORS: dict[str, Callable[[Settings], Compressor]] = {
    "dense": _dense,
    "topk": lambda s: TopK(
        0.03 if s.density is None else s.density, s.values or "sign", s.sections
    ),
    "randk": lambda s: RandK(
        0.1 if s.density is None else s.density, s.values or "fp16", s.sections, s.unbiased
    ),
    "rotated-topk": lambda s: RotatedTopK(
        0.03 if s.density is None else s.density, s.unbiased, s.sections
    ),
    "eden": lambda s: Eden(s.bits, s.unbiased),
}
KNOWN = Registry(
    "compressor", "fedlite.compressors", COMPRESSORS, "options", "(settings, **options)"
)

OWN_CODECS = range(128, 256)
"""The numbers for formats of others: fedlite will never give one of them a meaning."""


def make(
    name: str,
    *,
    density: float | None = None,
    values: str | None = None,
    bits: int = 1,
    unbiased: bool = True,
    sections: tuple[int, ...] = (),
    options: Mapping[str, Any] | None = None,
) -> Compressor:
    """Return the compressor that is called `name`, with the given `Settings`.

    Args:
        name: one of the house, of an installed package, or of one's own (`fedlite.registry`),
            which is called with the `Settings` and its options.
        options: what else it takes, by name.

    Raises:
        ValueError: there is none, it refuses its settings, or one of others has a codec number
            that is not in `OWN_CODECS`.

    >>> make("topk", density=0.03, values="sign")
    TopK(density=0.03, values='sign', sections=(), least=0)
    """
    made: Compressor = KNOWN.make(
        name, Settings(density, values, bits, unbiased, sections), options=options or {}
    )
    if not isinstance(made, Compressor):
        raise ValueError(
            f"compressor: {name!r} must make an object with name, codec, compress, decompress and "
            f"limit, got {type(made).__name__}; return such a one"
        )
    if name not in COMPRESSORS and made.codec not in OWN_CODECS:
        raise ValueError(
            f"compressor: {name!r} must have a codec from {OWN_CODECS.start} to "
            f"{OWN_CODECS.stop - 1} (rule: a number of fedlite's names a format of fedlite's), got "
            f"{made.codec}; give it another"
        )
    return made
