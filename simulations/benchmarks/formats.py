"""Other formats for k selected of n coordinates, which `codec` measures `TopK` beside.

Each writes strictly increasing indices, int32[k], and the values there, float32[k]: the values
themselves in COO, their signs everywhere else. They are written for comparison, for a sender who is
trusted, and do not check what they read.
"""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[Any]
Values = NDArray[np.float32]


@dataclass(frozen=True)
class Format:
    """A way to write a selection.

    Attributes:
        name: for a table.
        encode: from indices, values and n to bytes.
        decode: from bytes, n and k to indices and values, or signs as bool, true for negative.
    """

    name: str
    encode: Callable[[Indices, Values, int], bytes]
    decode: Callable[[bytes, int, int], tuple[Indices, NDArray[Any]]]


def installed() -> tuple[list[Format], list[str]]:
    """Return the formats whose packages can be imported, and the packages that cannot."""
    zstandard, constriction = _optional("zstandard"), _optional("constriction")
    missing = [
        name
        for name, module in (("zstandard", zstandard), ("constriction", constriction))
        if module is None
    ]
    coo = Format("COO int32 + fp32", _coo, _from_coo)
    bitmap = Format("bitmap + signs", _bitmap, _from_bitmap)
    found = [coo]
    for form in (coo, bitmap):
        found.append(_packed(form, "zlib -1", lambda data: zlib.compress(data, 1), zlib.decompress))
        if zstandard:
            into, out = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
            found.append(_packed(form, "zstd -3", into.compress, out.decompress))
    found.append(Format("Elias-Fano + signs", _elias_fano, _from_elias_fano))
    if constriction:
        found.append(_range_coder(constriction))
    return found, missing


def _optional(package: str) -> Any:
    if importlib.util.find_spec(package) is None:
        return None
    return importlib.import_module(package)


def _packed(
    form: Format, name: str, into: Callable[[bytes], bytes], out: Callable[[bytes], bytes]
) -> Format:
    return Format(
        f"{form.name}, {name}",
        lambda indices, values, n: into(form.encode(indices, values, n)),
        lambda data, n, k: form.decode(out(data), n, k),
    )


def _coo(indices: Indices, values: Values, n: int) -> bytes:
    return indices.astype("<i4", copy=False).tobytes() + values.tobytes()


def _from_coo(data: bytes, n: int, k: int) -> tuple[Indices, NDArray[Any]]:
    return np.frombuffer(data, "<i4", k), np.frombuffer(data, "<f4", k, 4 * k)


def _signs(values: Values) -> bytes:
    return np.packbits(values < 0, bitorder="little").tobytes()


def _from_signs(data: bytes, k: int) -> tuple[NDArray[np.bool_], bytes]:
    """Return the k signs at the end of `data`, and what is before them."""
    cut = len(data) - (k + 7) // 8
    packed = np.frombuffer(data, np.uint8, offset=cut)
    return np.unpackbits(packed, count=k, bitorder="little").view(np.bool_), data[:cut]


def _bitmap(indices: Indices, values: Values, n: int) -> bytes:
    bits = np.zeros(n, dtype=np.bool_)
    bits[indices] = True
    return np.packbits(bits, bitorder="little").tobytes() + _signs(values)


def _from_bitmap(data: bytes, n: int, k: int) -> tuple[Indices, NDArray[Any]]:
    signs, rest = _from_signs(data, k)
    bits = np.unpackbits(np.frombuffer(rest, np.uint8), count=n, bitorder="little")
    return np.flatnonzero(bits.view(np.bool_)), signs


def _elias_fano(indices: Indices, values: Values, n: int) -> bytes:
    """Low bits as planes; the high parts, which never fall, in unary of their differences."""
    k = indices.size
    low = max(0, (n // k).bit_length() - 1)
    planes = low * k
    bits = np.zeros(planes + k + (n >> low) + 1, dtype=np.bool_)
    for plane in range(low):
        np.not_equal(indices & (1 << plane), 0, out=bits[plane * k : (plane + 1) * k])
    bits[planes:][(indices >> low).astype(np.intp) + np.arange(k)] = True
    return np.packbits(bits, bitorder="little").tobytes() + _signs(values)


def _from_elias_fano(data: bytes, n: int, k: int) -> tuple[Indices, NDArray[Any]]:
    signs, rest = _from_signs(data, k)
    low = max(0, (n // k).bit_length() - 1)
    planes = low * k
    bits = np.unpackbits(np.frombuffer(rest, np.uint8), bitorder="little")
    indices = (np.flatnonzero(bits[planes:].view(np.bool_)) - np.arange(k)) << low
    for plane in range(low):
        indices |= bits[plane * k : (plane + 1) * k].astype(np.int64) << plane
    return indices, signs


def _range_coder(constriction: Any) -> Format:
    """Gaps under the geometric distribution that k out of n has; a table, and escapes behind it."""

    def model(n: int, k: int) -> tuple[Any, int]:
        escape = min(n, 16 * (n // k) + 16)
        density = k / n
        chances = density * (1 - density) ** np.arange(escape + 1)
        chances[escape] = max((1 - density) ** escape, 1e-9)
        return constriction.stream.model.Categorical(chances, perfect=False), escape

    def encode(indices: Indices, values: Values, n: int) -> bytes:
        gaps = np.diff(indices, prepend=-1) - 1
        table, escape = model(n, indices.size)
        coder = constriction.stream.queue.RangeEncoder()
        coder.encode(np.minimum(gaps, escape).astype(np.int32), table)
        words: bytes = coder.get_compressed().astype("<u4").tobytes()
        beyond = (gaps[gaps >= escape] - escape).astype("<u4").tobytes()
        return len(words).to_bytes(4, "little") + words + beyond + _signs(values)

    def decode(data: bytes, n: int, k: int) -> tuple[Indices, NDArray[Any]]:
        signs, rest = _from_signs(data, k)
        end = 4 + int.from_bytes(rest[:4], "little")
        table, escape = model(n, k)
        words = np.frombuffer(rest[4:end], "<u4").astype(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        gaps = decoder.decode(table, k).astype(np.int64)
        gaps[gaps == escape] += np.frombuffer(rest[end:], "<u4").astype(np.int64)
        return np.cumsum(gaps + 1) - 1, signs

    return Format("range coder (constriction) + signs", encode, decode)
