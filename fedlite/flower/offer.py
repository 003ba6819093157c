"""What the server tells a client beside the model: how to compress, and what the message is.

It travels as one entry of a ConfigRecord that the message has anyway: a client without `compress`
never looks at it, and Flower's own mods refuse a message with a second ConfigRecord.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from fedlite.compression import COMPRESSORS, Compressor, Dense, make
from fedlite.identity.canonical import canonical
from fedlite.scenario.keys import Link
from fedlite.scenario.links import SMALL
from fedlite.settings import section

ENTRY = "fedlite.offer"
VERSION = 1
# An offer's names are read from a message: no file and no package is ever imported by them.
UP = ("dense", "eden", "randk", "rotated-topk")
_KEYS = ("compressor", "density", "values", "bits")
_MOST_BYTES = 65_536


@dataclass(frozen=True)
class Offer:
    """One message's terms.

    round: of the server, from 1. sender: number of the client in the round, from 1, so that
    rotations differ. seed: where public randomness comes from. link: how an update is compressed.
    exact: patterns of tensors that are not. small: vectors of fewer values go up dense. version and
    model: the number and the digest (hex) of the model that the client then has; 0 and "" where
    models go down whole and are not remembered.
    """

    round: int
    sender: int
    seed: int
    link: Link
    exact: tuple[str, ...] = ()
    small: int = SMALL
    version: int = 0
    model: str = ""

    def choice(self, sizes: tuple[int, ...]) -> Compressor:
        """Return the compressor for tensors of these sizes: no larger than float32 would be."""
        return compressor(self.link, sizes, self.small)

    def encode(self) -> bytes:
        """Return the canonical JSON."""
        table = asdict(self) | {"v": VERSION, "link": {k: getattr(self.link, k) for k in _KEYS}}
        return canonical(table)

    @classmethod
    def decode(cls, data: bytes) -> Offer | None:
        """Return the offer, or None for one of another version.

        Raises ValueError when it is malformed, or asks for a compressor that is not in `UP`.
        """
        if len(data) > _MOST_BYTES:
            raise ValueError(f"offer: must be at most {_MOST_BYTES} bytes, got {len(data)}")
        try:
            table = json.loads(data)
        except (ValueError, RecursionError):
            raise ValueError("offer: must be JSON; the server speaks another language") from None
        if not isinstance(table, dict) or table.pop("v", None) != VERSION:
            return None
        kinds: dict[str, type] = dict.fromkeys(("round", "sender", "seed", "small", "version"), int)
        kinds |= {"link": dict, "exact": list, "model": str}
        if {name: type(value) for name, value in table.items()} != kinds:
            raise ValueError(f"offer: must have exactly {', '.join(kinds)}, each of its type")
        if not all(isinstance(pattern, str) for pattern in table["exact"]):
            raise ValueError("offer: exact must hold texts")
        link, exact = up_link(table.pop("link")), tuple(table.pop("exact"))
        return cls(link=link, exact=exact, **table)


def up_link(table: Mapping[str, Any], name: str = "link") -> Link:
    """Return the link of these keys; raises ValueError for all that is wrong, a line each."""
    errors = [f"{name}.{key}: no such key" for key in table if key not in _KEYS]
    known = {key: value for key, value in table.items() if key in _KEYS}
    link = section(name, Link, known | {"error_feedback": False}, errors)
    if link.compressor not in UP:
        errors.append(
            f"{name}.compressor: must be one of {', '.join(UP)} (rule: nothing is remembered at "
            f"clients, so what is left out must not be biased), got {link.compressor!r}"
        )
    if not errors:
        try:
            _made(link, ())
        except ValueError as error:
            errors.append(f"{name}.{error}")
    if errors:
        raise ValueError("\n".join(errors))
    found: Link = link
    return found


def compressor(link: Link, sizes: tuple[int, ...], small: int = 0) -> Compressor:
    """Return the compressor of a link, or float32 where that is smaller or the model `small`."""
    size = sum(sizes)
    made = _made(link, sizes)
    return Dense() if size < small or made.limit(size) >= 4 * size else made


def _made(link: Link, sizes: tuple[int, ...]) -> Compressor:
    if link.compressor not in COMPRESSORS:
        raise ValueError(f"compressor: must be one of {', '.join(COMPRESSORS)}")
    return make(
        link.compressor,
        density=link.density or None,
        values=link.values or None,
        bits=link.bits,
        unbiased=not link.error_feedback,
        sections=sizes,
    )


def give(content: RecordDict, offer: Offer) -> RecordDict:
    """Return a copy of a message's content with an offer in it; strategies share one content."""
    copy = RecordDict(dict(content.items()))
    # In the first record there is: Flower's mods want no second one.
    key, record = next(iter(content.config_records.items()), ("fedlite", ConfigRecord()))
    copy[key] = ConfigRecord({**dict(record.items()), ENTRY: offer.encode()})
    return copy


def take(content: RecordDict) -> tuple[RecordDict, bytes | None]:
    """Return the content as the strategy made it, and the offer that was in it, if any."""
    copy, found = RecordDict(dict(content.items())), None
    for key, record in content.config_records.items():
        if isinstance(data := record.get(ENTRY), bytes):
            found = data
            told = {name: value for name, value in record.items() if name != ENTRY}
            if told or key != "fedlite":
                copy[key] = ConfigRecord(told)
            else:
                del copy[key]
    return copy, found
