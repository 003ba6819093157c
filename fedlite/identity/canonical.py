"""The one JSON form of a value: what is hashed and what is signed."""

from __future__ import annotations

import json
from typing import Any

# What json.dumps would make anew for every row.
_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
)


def canonical(value: Any) -> bytes:
    """Return the one JSON form of `value`: sorted keys, no spaces, ASCII, finite numbers.

    Raises ValueError for NaN and infinities, TypeError for what JSON cannot say.
    """
    return _ENCODER.encode(value).encode("ascii")
