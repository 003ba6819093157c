"""Two coordinators spend from one budget, in parallel, whichever process is killed and when."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clients.runtime import setup
from fedlite.guard.folder import Home
from fedlite.guard.policy import DataSet
from fedlite.guard.register import Register
from fedlite.privacy.budget import Account
from fedlite.privacy.ledger import read

pytestmark = pytest.mark.faults
KILLS = 8 if os.environ.get("FEDLITE_FAULTS") == "short" else 200
CEILING = 3.0
SETTINGS = {
    "federation": {"rounds": 60, "sites": 2},
    "data": {"name": "digits"},
    "training": {"steps": 1},
    "privacy": {
        "unit": "record",
        "epsilon": 2.0,
        "expected_batch": 20,
        "sampling_rate": 1.0,
    },
}


class Side:
    """One coordinator's process at the site, and what it said that it had sent."""

    def __init__(self, home: Path, run: str) -> None:
        self.home, self.run = home, run
        self.log = home.parent / f"{run}.log"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "tests.guard.killed_guardian",
                    str(self.home), self.run, json.dumps(SETTINGS),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def lines(self) -> list[list[str]]:
        # A killed one's last line may be torn.
        text = self.log.read_text()
        return [line.split() for line in text.split("\n")[:-1] if line]


def test_the_ceiling_holds_over_both_under_kills(tmp_path: Path) -> None:
    home = tmp_path / "home"
    setup.init(home, "a", data=DataSet("digits", "digits"), epsilon=CEILING)
    sides = [Side(home, "aa" * 8), Side(home, "bb" * 8)]
    rng = random.Random(1)
    try:
        for _ in range(KILLS):
            side = rng.choice(sides)
            said = len(side.lines())
            until = time.monotonic() + 60
            while side.process.poll() is None and len(side.lines()) == said:
                assert time.monotonic() < until, side.log.read_text()
                time.sleep(0.01)
            time.sleep(rng.random() * 0.05)
            side.kill()
            side.start()
        for side in sides:
            until = time.monotonic() + 60
            said = len(side.lines())
            while side.process.poll() is None and len(side.lines()) < said + 3:
                assert time.monotonic() < until, side.log.read_text()
                time.sleep(0.01)
    finally:
        for side in sides:
            side.kill()

    path = home / "ledgers" / "digits.jsonl"
    rows = read(path)  # verifies every hash and signature
    account = Account.of(rows)
    assert {plan.run for plan in account.plans} == {side.run for side in sides}
    assert account.plans[-1].charged <= CEILING
    asked = [plan.asked for plan in account.plans]
    assert asked == [60, 60] and sum(plan.steps for plan in account.plans) < 120
    reserved = [account.reserved(number) for number in range(2)]
    assert all(spent <= plan.steps for spent, plan in zip(reserved, account.plans, strict=True))
    # Whatever left is on record, with the head that left beside it.
    released = {row.body["payload"] for row in rows if row.kind == "release"}
    for side in sides:
        sent = [line for line in side.lines() if line[0] == "sent"]
        assert sent, side.log.read_text()
        for _, _, frame, seq, hash in sent:
            assert hashlib.sha256(bytes.fromhex(frame)).hexdigest() in released
            assert rows[int(seq)].hash == hash
        assert not [line for line in side.lines() if line[0] == "declined" and line[1] != "budget"]
    seen = Register.own().seen(Home(home, "a", "digits"))
    assert seen is not None and rows[seen.seq].hash == seen.hash
