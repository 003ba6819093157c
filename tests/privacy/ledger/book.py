"""A ledger with every kind of row, for the tests of ledgers."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from fedlite.identity import keys
from fedlite.privacy.ledger import (
    RULES,
    Files,
    Ledger,
    LedgerError,
    Row,
    forget,
    lock,
    verify,
)
from fedlite.privacy.ledger.rows import (
    grant_message,
    row_hash,
    row_message,
    witness_message,
)

RUN = "0123456789abcdef"
POLICY: dict[str, Any] = {
    "epsilon": 3.0, "delta": 1e-5, "person": 6.0, "per_run": 0.0,
    "units": ["record"], "metrics": ["accuracy"], "servers": [],
}  # fmt: skip
PLAN: dict[str, Any] = {
    "run": RUN, "unit": "record", "noise_multiplier": 8.0, "sampling_rate": 0.25, "steps": 30,
    "asked": 40, "clip": 0.1, "expected_batch": 64, "max_batch": 0, "max_records": 0,
    "delta": 1e-5, "epsilon_asked": 3.0, "bound": "pld", "charged": 2.5, "code": "ab" * 32,
}  # fmt: skip


def genesis(key: keys.Key, owner: keys.Key | None = None, **changes: Any) -> dict[str, Any]:
    body = {
        "version": 1, "site": "Städtische Klinik", "dataset": "heart", "key": keys.public_hex(key),
        "owner": keys.public_hex(owner) if owner else "", "commitment": "cd" * 32,
        "code": "ef" * 20, "order": 12.0, "policy": POLICY, "plan": PLAN,
    }  # fmt: skip
    return body | changes


def reserve(round: int) -> tuple[str, dict[str, Any]]:
    return "reserve", {"plan": 0, "run": RUN, "round": round, "steps": 1, "model": "f" * 16}


def payload(round: int) -> str:
    return hashlib.sha256(str(round).encode()).hexdigest()


def released(of: int, round: int) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("settle", {"of": of, "steps": 1, "payload": payload(round)}),
        ("release", {"of": of, "payload": payload(round), "bytes": 812}),
    ]


class Quick(Files):
    """The real disk without waiting for it, and with a clock of its own."""

    def __init__(self) -> None:
        self.time = 1_795_000_000.0
        self.bytes_read = 0

    def fsync(self, handle: int) -> None:
        pass

    def now(self) -> float:
        return self.time

    def read(self, handle: int, size: int, offset: int) -> bytes:
        data = super().read(handle, size, offset)
        self.bytes_read += len(data)
        return data


SITE, OWNER, SERVER, NEW = (keys.Key.generate() for _ in range(4))


def witnessed(ledger: Ledger) -> tuple[str, dict[str, Any]]:
    head = ledger.head
    signature = keys.sign(SERVER, witness_message(head.ledger, head.seq, head.hash))
    return "witness", {
        "seq": head.seq, "hash": head.hash, "witness": keys.public_hex(SERVER),
        "signature": signature,
    }  # fmt: skip


def granted(ledger: Ledger, policy: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    last = [row for row in ledger.rows if row.kind in ("genesis", "policy")][-1]
    return "policy", {
        "policy": policy,
        "grant": keys.sign(OWNER, grant_message(ledger.id, last.hash, policy)),
    }


def build(path: Path) -> bytes:
    """Write a ledger with every kind of row; SITE signs it up to the rotation, NEW after it."""
    with Ledger.open(path, SITE, files=Quick()) as ledger:
        ledger.create(genesis(SITE, OWNER))
        (row,) = ledger.append(reserve(0))
        ledger.append(*released(row.seq, 0))
        ledger.append(witnessed(ledger))
        ledger.append(("plan", {"plan": PLAN | {"run": "f" * 16, "bound": "rdp"}}))
        ledger.append(("policy", {"policy": POLICY | {"epsilon": 2.0}, "grant": ""}))
        ledger.append(
            granted(ledger, POLICY | {"epsilon": 4.0, "units": ["record", "client-site"]})
        )
        ledger.append(("dataset-change", {"commitment": "ee" * 32}))
        ledger.append(("refuse", {"run": RUN, "round": 1, "why": "ceiling"}))
        ledger.rotate(NEW)
        ledger.append(reserve(2), reserve(3))
    forget(path)
    return path.read_bytes()


def rules(data: bytes) -> list[str]:
    found = verify(data).findings
    assert all(finding.rule in RULES for finding in found)
    return [finding.rule for finding in found]


def refused(path: Path, key: keys.Key = SITE) -> LedgerError:
    """Open `path`, which must fail with a text that names the file; nothing stays locked."""
    with pytest.raises(LedgerError) as caught:
        Ledger.open(path, key)
    assert caught.value.rule in RULES
    assert str(path) in str(caught.value) and caught.value.rule in str(caught.value)
    lock.Lock(os.path.realpath(path), 0.0).release()
    return caught.value


def lines_of(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def signed(row: Row, key: keys.Key = SITE, **changes: Any) -> bytes:
    """Return the line of a changed row, hashed and signed again by the holder of the key."""
    said = {"seq": row.seq, "prev": row.prev, "kind": row.kind, "time": row.time}
    said |= {"body": row.body} | changes
    digest = row_hash(said["seq"], said["prev"], said["kind"], said["time"], said["body"])
    return Row(**said, hash=digest, signature=keys.sign(key, row_message(digest))).line
