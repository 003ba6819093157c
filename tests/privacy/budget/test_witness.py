"""Receipts of servers: kept, checked, and held against a ledger that went back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedlite.identity import keys
from fedlite.messages import Receipt
from fedlite.privacy.ledger import forget
from fedlite.privacy.ledger.rows import witness_message
from tests.privacy.budget.holder import OWNER, Site, gaussian, refusal

SERVER = keys.Key.generate()


# Witnesses.


def receipt(site: Site, seq: int, key: keys.Key = SERVER, hash: str = "") -> Receipt:
    rows = site.rows
    hash = hash or rows[seq].hash
    signature = keys.sign(key, witness_message(rows[0].hash, seq, hash))
    return Receipt(bytes.fromhex(keys.public_hex(key)), seq, bytes.fromhex(signature))


def witness(site: Site, seen: Receipt) -> None:
    with site.open() as budget:
        budget.witness(seen)
        # It is written with the next row, in one flush; here there is none.
        if budget._receipt:
            budget._append_all()


def test_a_receipt_is_kept_once(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    site.reserve(1)
    for seq in (1, 1, 0):
        witness(site, receipt(site, seq))
    assert site.kinds == ["genesis", "reserve", "witness"]
    assert site.rows[2].body["hash"] == site.rows[1].hash


def test_receipts_for_receipts_do_not_fill_the_disk(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    for _ in range(5):
        witness(site, receipt(site, len(site.rows) - 1))
        witness(site, receipt(site, len(site.rows) - 1, keys.Key.generate()))
    assert site.kinds == ["genesis", "witness"]


def test_a_ledger_from_an_old_copy_takes_no_private_step(site: Site, tmp_path: Path) -> None:
    site.begin(gaussian(20.0, 100))
    copy = site.path.read_bytes()
    site.reserve(1)
    seen = receipt(site, 1)
    forget(site.path)
    site.path.write_bytes(copy)
    assert refusal(witness, site, seen) == "regress"
    assert site.path.read_bytes() == copy, "a row here would make a fork of it"
    site.reserve(1, round=2)
    assert refusal(witness, site, seen) == "fork"
    empty = Site(tmp_path / "new.jsonl")
    assert refusal(witness, empty, seen) == "regress"
    assert not empty.path.exists()


def test_a_receipt_that_was_not_signed_by_its_server_is_refused(site: Site) -> None:
    site.begin(gaussian(20.0, 100))
    good = receipt(site, 0)
    for bad in (
        replace(good, signature=bytes(64)),
        replace(good, witness=bytes.fromhex(keys.public_hex(OWNER))),
        receipt(site, 0, hash="5" * 64),
    ):
        assert refusal(witness, site, bad) == "fork"
    assert site.kinds == ["genesis"]


def test_only_listed_servers_are_believed(site: Site) -> None:
    site.policy = replace(site.policy, servers=(keys.public_hex(SERVER),))
    site.begin(gaussian(20.0, 100))
    assert refusal(witness, site, receipt(site, 0, OWNER)) == "server"
    witness(site, receipt(site, 0))
    site.policy = replace(site.policy, servers=(keys.public_hex(OWNER),))
    site.begin(gaussian(20.0, 100))
    witness(site, receipt(site, 2, OWNER))
    assert site.kinds == ["genesis", "witness", "policy", "witness"]
