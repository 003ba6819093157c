"""A session of a ledger and its keys, for the tests of crashes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedlite.identity import keys
from fedlite.privacy.ledger import (
    Files,
    Ledger,
    Row,
    forget,
    verify,
)

RUN = "0123456789abcdef"
POLICY: dict[str, Any] = {
    "epsilon": 3.0, "delta": 1e-5, "person": 6.0, "per_run": 0.0,
    "units": ["record"], "metrics": [], "servers": [],
}  # fmt: skip
PLAN: dict[str, Any] = {
    "run": RUN, "unit": "record", "noise_multiplier": 8.0, "sampling_rate": 0.25, "steps": 30,
    "asked": 40, "clip": 0.1, "expected_batch": 64, "max_batch": 0, "max_records": 0,
    "delta": 1e-5, "epsilon_asked": 3.0, "bound": "pld", "charged": 2.5, "code": "ab" * 32,
}  # fmt: skip
KEY = keys.Key.from_private_bytes(b"k" * 32)
NEW = keys.Key.from_private_bytes(b"n" * 32)
GENESIS: dict[str, Any] = {
    "version": 1, "site": "a", "dataset": "heart", "key": keys.public_hex(KEY), "owner": "",
    "commitment": "cd" * 32, "code": "ef" * 20, "order": 12.0, "policy": POLICY, "plan": PLAN,
}  # fmt: skip


def one_round(
    book: Ledger, round: int, train: Callable[[], None], send: Callable[[str], None]
) -> None:
    """Do what a site does in a round, in the only right order."""
    body = {"plan": 0, "run": RUN, "round": round, "steps": 1, "model": "f" * 16}
    (row,) = book.append(("reserve", body))
    train()
    payload = hashlib.sha256(f"{round} {row.hash}".encode()).hexdigest()
    book.append(
        ("settle", {"of": row.seq, "steps": 1, "payload": payload}),
        ("release", {"of": row.seq, "payload": payload, "bytes": 812}),
    )
    send(payload)


def recorded(rows: list[Row]) -> set[str]:
    return {row.body["payload"] for row in rows if row.kind == "release"}


class Unsynced(Files):
    """The real disk without waiting for it."""

    def fsync(self, handle: int) -> None:
        pass


def session(path: Path, files: Files, sent: list[str]) -> None:
    """Create, three rounds, open again, a rotation and two more rounds."""
    with Ledger.open(path, KEY, files=files) as book:
        if not book.exists:
            book.create(GENESIS)
        for round in range(3):
            one_round(book, round, lambda: None, sent.append)
    with Ledger.open(path, KEY, files=files) as book:
        book.rotate(NEW)
        for round in range(3, 5):
            one_round(book, round, lambda: None, sent.append)


def key_of(path: Path) -> keys.Key:
    rows = verify(path.read_bytes()).rows
    return NEW if any(row.kind == "key-rotate" for row in rows) else KEY


@contextlib.contextmanager
def restarted(path: Path) -> Iterator[None]:
    """Forget what a process forgets when it ends."""
    forget(path)
    yield
    forget(path)
