"""What a base model's folder says of itself, held against rules before a library believes it.

Read are the `config.json` and the header of the weights, never the weights: a config that claims
more layers than the file has tensors would have them built, and a header may claim any length.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
# Bytes of what is read as JSON.
_LONGEST = 1 << 25
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# Beside weights a file may hold places and masks.
_SIZES = _FLOATS | {"I64": 8, "BOOL": 1, "U8": 1}
# A number in a config that is no larger takes nobody's memory.
_HARMLESS = 1 << 20
_KEY = "model.options.base"


def told(file: Path) -> dict[str, Any]:
    """Return the object of a JSON file; raises ValueError naming file, rule and mend."""
    try:
        with file.open("rb") as content:
            found = json.loads(_bounded(content.read(_LONGEST + 1), file))
    except OSError as error:
        raise ValueError(
            f"{_KEY}: {file}: must be a file that can be read ({error.strerror or error})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{_KEY}: {file}: must be JSON ({error}); restore it") from None
    if not isinstance(found, dict):
        raise ValueError(f"{_KEY}: {file}: must be a JSON object, got {found!r:.80}; restore it")
    return found


def header(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a safetensors file's tensors by name; the weights are left alone.

    Raises ValueError where the header is not what the format says, the file is shorter or longer
    than it says, or its weights are no floating-point numbers.
    """
    try:
        with file.open("rb") as content:
            (size,) = struct.unpack("<Q", content.read(8))
            if size > _LONGEST:
                raise ValueError(f"its header claims {size:,} bytes")
            found = json.loads(content.read(size))
            behind = file.stat().st_size - 8 - size
        found.pop("__metadata__", None)
        shapes, end = {}, 0
        for name, one in found.items():
            shape, (start, stop) = tuple(map(int, one["shape"])), map(int, one["data_offsets"])
            if one["dtype"] not in _SIZES:
                raise ValueError(
                    f"{name!r:.80} is {one['dtype']!r:.20} and not one of {', '.join(_FLOATS)} "
                    "(rule: weights are numbers, and not another program's packing of them)"
                )
            if min(shape, default=0) < 0 or stop - start != math.prod(shape) * _SIZES[one["dtype"]]:
                raise ValueError(f"{name!r:.80} has not the bytes of its shape, {shape}")
            shapes[name], end = shape, max(end, stop)
        if end != behind:
            raise ValueError(f"{end:,} bytes of weights are announced, and {behind:,} are there")
    except OSError as error:
        raise ValueError(
            f"{_KEY}: {file}: must be a file that can be read ({error.strerror or error})"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise ValueError(
            f"{_KEY}: {file}: must be a whole safetensors file, and is not: {error!s:.300}; fetch "
            "it again, or save it anew by transformers as float32"
        ) from None
    return shapes


def check_folder(folder: Path) -> int:
    """Return how many values a folder's weights have, after its config was held against them.

    Raises ValueError for what would be taken from elsewhere, for weights that another program has
    packed, and for sizes that the weights do not have.
    """
    config, tensors = told(folder / CONFIG), header(folder / WEIGHTS)
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{_KEY}: {folder}: must hold a base and no adapters (rule: what an "
            "adapter_config.json names elsewhere is no part of it), holds adapter_config.json; "
            "take that away, or merge the adapters first"
        )
    for key in ("transformers_weights", "quantization_config"):
        if config.get(key):
            raise ValueError(
                f"{_KEY}: {folder / CONFIG}: must have no {key} (rule: the weights are those of "
                f"{WEIGHTS}, as they are), got {config[key]!r:.80}; leave it out, or save the "
                "model anew as float32"
            )
    largest = max((size for shape in tensors.values() for size in shape), default=0)
    for key, size in _whole(config):
        layers = "layer" in key or "expert" in key
        most = max(len(tensors), 1) if layers else max(largest, _HARMLESS)
        if not -1 <= size <= most or (layers and size < 0):
            counted = f"{most:,} tensors" if layers else f"no side longer than {largest:,}"
            raise ValueError(
                f"{_KEY}: {folder / CONFIG}: {key!r:.80}: must be a size that the weights have "
                f"(rule: {WEIGHTS} has {counted}), got {size:,}; restore the file"
            )
    return sum(map(math.prod, tensors.values()))


def _bounded(content: bytes, file: Path) -> bytes:
    if len(content) > _LONGEST:
        raise ValueError(f"has more than {_LONGEST >> 20} MB")
    return content


def _whole(found: Mapping[str, Any] | list[Any], above: str = "") -> Iterator[tuple[str, int]]:
    """Yield the whole numbers of a config with their keys, and the lengths of its lists."""
    items = found.items() if isinstance(found, Mapping) else ((above, one) for one in found)
    for key, value in items:
        if isinstance(value, Mapping):
            yield from _whole(value)
        elif isinstance(value, list):
            yield key, len(value)
            yield from _whole(value, key)
        elif type(value) is int and not key.endswith("token_id"):
            yield key, value
