"""The lines of a witness file: canonical JSON, each with the hash of the one before, all signed.

A server writes one line for every ledger head that it sees, and one that closes a finished run: it
names the run's files by their SHA-256, and each site with the last head that was seen of it. Lines
of the first format have no `prev`; a file that began with them goes on in the second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from fedlite.identity import keys
from fedlite.identity.canonical import canonical
from fedlite.privacy.ledger.rows import decode
from fedlite.privacy.ledger.rules import LedgerError

DOMAIN = b"fedlite-witness-line-v2\n"
UNCHAINED_DOMAIN = b"fedlite-witness-line-v1\n"
CLOSED = "closed"
"""The kind of the line that closes a run."""

RUN_FILES = (
    "model.json",
    "model.safetensors",
    "rounds.jsonl",
    "scenario.toml",
    "summary.json",
)
"""What a closing line names, beside the lines before it and the sites."""

# A closing line names every site, with about 250 bytes each.
MAX_LINE = 2**24


def line_hash(line: bytes) -> str:
    """Return what the next line's `prev` must be: the SHA-256 of `line` without its end, in hex."""
    return hashlib.sha256(line.removesuffix(b"\n")).hexdigest()


def sign(row: Mapping[str, Any], prev: str, key: keys.Key) -> bytes:
    """Return the line that says `row`, end included; `prev`: `line_hash` of the line before."""
    chained = dict(row) | {"prev": prev}
    proof = keys.sign(key, DOMAIN + canonical(chained))
    return canonical(chained | {"proof": proof}) + b"\n"


def parse(line: bytes) -> dict[str, Any]:
    """Return what a line (without its end) says; nothing in it has been verified.

    Raises LedgerError unless it is the canonical form of one JSON object.
    """
    if len(line) > MAX_LINE:
        raise LedgerError("line-too-long", f"must have at most {MAX_LINE} bytes, got {len(line)}")
    row = decode(line)
    try:
        same = canonical(row) == line
    except RecursionError as error:
        raise LedgerError("not-canonical", f"must not be nested so deeply ({error})") from None
    if not same:
        raise LedgerError("not-canonical", "must be the canonical form of what it says")
    return row


def proven(row: Mapping[str, Any]) -> bool:
    """Tell whether the witness that a line names has signed it; never raises."""
    said = {name: value for name, value in row.items() if name != "proof"}
    witness, proof = row.get("witness"), row.get("proof")
    if not (isinstance(witness, str) and isinstance(proof, str)):
        return False
    domain = DOMAIN if "prev" in row else UNCHAINED_DOMAIN
    return keys.verify(witness, proof, domain + canonical(said))
