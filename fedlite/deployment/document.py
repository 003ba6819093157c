"""Small JSON text files with a kind and a version: exactly the fields they should have, or refused.

They come by mail from people who are not trusted yet, so nothing in them is taken as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

Document = TypeVar("Document")
MAX_BYTES = 16384
VERSION = 1


def encode(kind: str, fields: Mapping[str, str]) -> bytes:
    """Return the file: sorted keys, one a line, so that people can read it too."""
    said = {"kind": kind, "version": VERSION, **fields}
    return json.dumps(said, indent=2, sort_keys=True).encode("ascii") + b"\n"


def told(document: Any) -> dict[str, str]:
    """Return what a dataclass of texts says: its fields, but for a protocol that is not told."""
    texts: dict[str, str] = asdict(document)
    return {name: text for name, text in texts.items() if text or name != "protocol"}


def decode(
    kind: str, names: Iterable[str], data: bytes, *, optional: Collection[str] = ()
) -> dict[str, str]:
    """Return the fields called `names`, all of them text; those that are optional may be missing.

    Raises ValueError when `data` is longer than 16 KiB, no JSON object, of another kind or
    version, or when a field is missing, unknown, given twice or no text.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{kind}: must be at most {MAX_BYTES} bytes, got {len(data)}; ask anew")
    try:
        read = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{kind}: must be a JSON text file ({error}); ask for it anew") from None
    if not isinstance(read, dict) or read.get("kind") != kind:
        got = read.get("kind") if isinstance(read, dict) else type(read).__name__
        raise ValueError(f"kind: must be {kind!r}, got {str(got)[:64]!r}; name the right file")
    version = read.get("version")
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"version: must be {VERSION}, got {str(version)[:64]!r}; it is of a later fedlite than "
            "the one here: upgrade this one"
        )
    wanted, there = set(names), set(read) - {"kind", "version"}
    missing = sorted(wanted - there - set(optional))
    if wrong := missing or sorted(there - wanted):
        what = "is missing" if missing else "is unknown"
        raise ValueError(f"{kind}: {wrong[0][:64]!r} {what}; ask for the file anew")
    for name in wanted & there:
        if not isinstance(read[name], str):
            raise ValueError(f"{kind}: {name} must be text, got {type(read[name]).__name__}")
    return {name: read[name] for name in wanted & there}


def read(path: Path, decode: Callable[[bytes], Document], mend: str) -> Document:
    """Return what `decode` makes of a file, of which no more is read than may be in one.

    mend: what to do where there is no such file. Raises ValueError, which names the file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; {mend}") from None
    try:
        return decode(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_text(field: str, value: str, longest: int = 64) -> None:
    """Raise ValueError unless `value` is 1 to `longest` printable characters."""
    if not (0 < len(value) <= longest and value.isprintable()):
        raise ValueError(
            f"{field}: must be 1 to {longest} printable characters, got {value[:longest]!r}"
        )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a field is given twice")
    return dict(pairs)
