"""Keys, grants, witnesses: who may sign what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedlite.identity import keys
from fedlite.privacy.ledger import (
    Ledger,
    LedgerError,
    bodies,
    read,
    verify,
)
from fedlite.privacy.ledger.rows import (
    grant_message,
    rotate_message,
)
from tests.privacy.ledger.book import (
    NEW,
    POLICY,
    SITE,
    Quick,
    genesis,
    granted,
    refused,
    reserve,
    rules,
    signed,
    witnessed,
)


def test_a_valid_rotation_hands_over(begun: Path) -> None:
    with Ledger.open(begun, SITE) as ledger:
        ledger.rotate(NEW)
        ledger.append(reserve(5))
    assert rules(begun.read_bytes()) == []
    assert refused(begun, SITE).rule == "wrong-key"
    with Ledger.open(begun, NEW) as ledger:
        assert len(ledger.rows) == 7


def test_a_forged_rotation_is_found(begun: Path) -> None:
    data, rows = begun.read_bytes(), read(begun)
    last, new = rows[-1], keys.public_hex(NEW)
    base = {"seq": 5, "prev": last.hash, "kind": "key-rotate"}
    proof = keys.sign(NEW, rotate_message(rows[0].hash, last.hash))
    good = {"key": new, "proof": proof}
    assert rules(data + signed(last, SITE, **base, body=good)) == []
    # Signed by the new key itself; without holding the new key; a proof made elsewhere; no change.
    assert rules(data + signed(last, NEW, **base, body=good)) == ["signature"]
    for place in (rows[0].hash, last.hash), (last.hash, rows[0].hash):
        proof = keys.sign(SITE if place[1] == last.hash else NEW, rotate_message(*place))
        body = {"key": new, "proof": proof}
        assert rules(data + signed(last, SITE, **base, body=body)) == ["rotation"]
    proof = keys.sign(SITE, rotate_message(rows[0].hash, last.hash))
    same = {"key": keys.public_hex(SITE), "proof": proof}
    assert rules(data + signed(last, SITE, **base, body=same)) == ["rotation"]


def test_a_row_by_the_old_key_after_a_rotation_is_found(begun: Path) -> None:
    with Ledger.open(begun, SITE) as ledger:
        row = ledger.rotate(NEW)
    late = signed(row, SITE, seq=6, prev=row.hash, kind="reserve", body=reserve(7)[1])
    assert rules(begun.read_bytes() + late) == ["signature"]


def test_a_policy_that_allows_more_needs_the_owners_grant(begun: Path) -> None:
    more = POLICY | {"epsilon": 9.0}
    with Ledger.open(begun, SITE) as ledger:
        for grant in ("", "00" * 64, keys.sign(SITE, grant_message(ledger.id, ledger.id, more))):
            with pytest.raises(LedgerError) as caught:
                ledger.append(("policy", {"policy": more, "grant": grant}))
            assert caught.value.rule == "grant" and "epsilon" in str(caught.value)
        kind, body = granted(ledger, more)
        ledger.append((kind, body))
        ledger.append(("policy", {"policy": POLICY, "grant": ""}))
        with pytest.raises(LedgerError, match="grant"):
            ledger.append((kind, body))  # used up: another policy is in force now
    assert rules(begun.read_bytes()) == []


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"epsilon": 2.0}, []), ({"epsilon": 3.5}, ["epsilon"]), ({"delta": 1e-4}, ["delta"]),
        ({"delta": 1e-6}, []), ({"person": 5.0}, []), ({"person": 7.0}, ["person"]),
        ({"person": 0.0}, ["person"]), ({"per_run": 1.0}, []), ({"units": []}, []),
        ({"units": ["client-site"]}, ["units"]), ({"metrics": []}, []),
        ({"metrics": ["accuracy", "loss"]}, ["metrics"]), ({"servers": ["00" * 32]}, []),
    ],
)  # fmt: skip
def test_what_a_policy_allows_more(change: dict[str, Any], names: list[str]) -> None:
    assert bodies.raised(POLICY, POLICY | change) == names


def test_without_an_owner_nothing_can_be_allowed(path: Path) -> None:
    with Ledger.open(path, SITE) as ledger:
        ledger.create(genesis(SITE))
        ledger.append(("policy", {"policy": POLICY | {"epsilon": 1.0}, "grant": ""}))
        for policy in (POLICY, POLICY | {"epsilon": 0.5}):
            with pytest.raises(LedgerError, match="no data owner"):
                ledger.append(granted(ledger, policy))


def test_a_forged_witness_is_found(begun: Path) -> None:
    with Ledger.open(begun, SITE) as ledger:
        kind, body = witnessed(ledger)
        other = ledger.rows[1].hash
        for change, rule in (
            ({"signature": "00" * 64}, "witness-signature"),
            ({"witness": keys.public_hex(NEW)}, "witness-signature"),
            ({"hash": other}, "witness-head"),
            ({"seq": 1}, "witness-head"),
            ({"seq": 5}, "witness-head"),
            ({"seq": 1, "hash": other}, "witness-signature"),
        ):
            with pytest.raises(LedgerError) as caught:
                ledger.append((kind, body | change))
            assert caught.value.rule == rule
        ledger.append((kind, body))
    assert rules(begun.read_bytes()) == []


def test_a_clock_that_jumps_back_is_a_note_and_no_failure(begun: Path) -> None:
    files = Quick()
    files.time -= 3600
    with Ledger.open(begun, SITE, files=files) as ledger:
        ledger.append(reserve(5))
    found = verify(begun.read_bytes())
    assert [(finding.rule, finding.row) for finding in found.findings] == [("clock", 5)]
    assert found.findings[0].severity == "note" and found.errors == []
    assert len(found.rows) == len(read(begun)) == 6
