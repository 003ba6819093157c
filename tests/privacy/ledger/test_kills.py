"""A ledger under kill -9: what was sent is always recorded.

`python test_kills.py DIRECTORY KILLS SEED` is the process that the test starts.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedlite.privacy import ledger
from fedlite.privacy.ledger import (
    Ledger,
    read,
    verify,
)
from tests.privacy.ledger.crash import GENESIS, KEY, one_round, recorded


def work(path: Path, rounds: int | None = None) -> None:
    sent = os.open(path.with_suffix(".sent"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with Ledger.open(path, KEY) as book:
        if not book.exists:
            book.create(GENESIS)
        first = len(book.rows)
        for round in itertools.count(first) if rounds is None else range(first, first + rounds):
            one_round(
                book,
                round,
                lambda: time.sleep(0.001),
                lambda payload: os.write(sent, payload.encode() + b"\n") and None,
            )


def time_of_a_round(path: Path) -> float:
    """Seconds from a child's fork to the end of a round, on this machine and disk."""
    started = time.monotonic()
    for _ in range(5):
        child = os.fork()
        if not child:
            work(path, 1)
            os._exit(0)
        os.waitpid(child, 0)
    return (time.monotonic() - started) / 5


def kill_many(directory: Path, kills: int, seed: int) -> None:
    """Kill a working child at random instants; after each kill check every promise."""
    dice, total = random.Random(seed), {"kills": 0, "sent": 0, "unsettled": 0, "torn": 0}
    deadline = time.monotonic() + 300
    pace = time_of_a_round(directory / "pace.jsonl")
    while total["kills"] < kills and time.monotonic() < deadline:
        path = directory / f"{total['kills'] // 8}.jsonl"
        before = read(path) if path.exists() else []
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                work(path)
            os._exit(1)  # It never ends by itself: an error, which is seen below.
        # Early, to meet the opening, or later, to meet rounds.
        time.sleep(dice.choice([0.3, 1, 2]) * dice.random() * pace)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WTERMSIG(status) != signal.SIGKILL:
            raise SystemExit("a child ended by itself")
        total["kills"] += 1
        if not path.exists():
            continue
        found = verify(path.read_bytes())
        if found.errors or found.rows[: len(before)] != before:
            raise SystemExit(f"{path} is damaged: {found.errors}")
        total["torn"] += bool(found.torn)
        sent = set()
        if path.with_suffix(".sent").exists():
            sent = set(path.with_suffix(".sent").read_text().split())
        if not sent <= recorded(found.rows):
            raise SystemExit(f"{path}: sent and not recorded")
    for path in directory.glob("*.jsonl"):
        with Ledger.open(path, KEY) as book:
            reserves = {row.seq for row in book.rows if row.kind == "reserve"}
            settled = {row.body["of"] for row in book.rows if row.kind == "settle"}
            total["unsettled"] += len(reserves - settled)
        with contextlib.suppress(FileNotFoundError):
            total["sent"] += len(path.with_suffix(".sent").read_text().split())
    print(json.dumps(total))


@pytest.mark.long
def test_two_hundred_kills_lose_nothing_that_was_sent(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path), "204", "1"]
    root = str(Path(ledger.__file__).parents[3])
    shown = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": root}
    )
    assert shown.returncode == 0, shown.stderr
    total = json.loads(shown.stdout)
    # The kills met work: payloads had been sent, and some rounds were cut between two rows.
    assert total["kills"] >= 200 and total["sent"] >= 20 and total["unsettled"] >= 10, total


if __name__ == "__main__":
    kill_many(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
