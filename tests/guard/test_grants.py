from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedlite.guard.grants import sign_grant
from fedlite.identity import keys
from fedlite.privacy import RecordMechanism
from fedlite.privacy.budget import Budget
from fedlite.privacy.budget.policy import SitePolicy
from fedlite.privacy.ledger import Ledger, read
from fedlite.privacy.ledger.rows import grant_message

OWNER = keys.Key.generate()
POLICY = SitePolicy(epsilon=1.0, site="north", owner=keys.public_hex(OWNER))
MECHANISM = RecordMechanism(
    clip=0.1, noise_multiplier=50.0, sampling_rate=1.0, steps=10, expected_batch=5
)


@pytest.fixture
def budget(tmp_path: Path) -> Iterator[Budget]:
    with Ledger.open(tmp_path / "scans.jsonl", keys.Key.generate()) as ledger:
        budget = Budget(ledger)
        budget.begin(
            "a" * 16,
            MECHANISM,
            POLICY,
            asked_epsilon=1.0,
            delta=1e-5,
            dataset="scans",
            commitment="1" * 64,
            code="2" * 64,
        )
        yield budget


def test_the_owner_signs_this_ledger_this_row_and_this_policy(
    budget: Budget, tmp_path: Path
) -> None:
    rows = read(tmp_path / "scans.jsonl")
    wanted = replace(POLICY, epsilon=2.0)
    grant = sign_grant(OWNER, rows, wanted)
    message = grant_message(rows[0].hash, rows[0].hash, wanted.body())
    assert keys.verify(keys.public_hex(OWNER), grant, message)
    row = budget.raise_to(wanted, grant)
    assert (row.kind, row.body["policy"]["epsilon"]) == ("policy", 2.0)
    again = sign_grant(OWNER, read(tmp_path / "scans.jsonl"), replace(POLICY, epsilon=3.0))
    message = grant_message(rows[0].hash, row.hash, replace(POLICY, epsilon=3.0).body())
    assert keys.verify(keys.public_hex(OWNER), again, message)


@pytest.mark.usefixtures("budget")
def test_nobody_else_can_grant_and_nothing_is_granted_for_nothing(tmp_path: Path) -> None:
    rows = read(tmp_path / "scans.jsonl")
    with pytest.raises(ValueError, match="only the owner"):
        sign_grant(keys.Key.generate(), rows, replace(POLICY, epsilon=2.0))
    for same in (POLICY, replace(POLICY, epsilon=0.5, servers=("3" * 64,))):
        with pytest.raises(ValueError, match="needs no grant"):
            sign_grant(OWNER, rows, same)
