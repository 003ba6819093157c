"""A ledger: what is written is read, in the documented format, and fast."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from fedlite.privacy import ledger as module
from fedlite.privacy.ledger import (
    Ledger,
    bodies,
    read,
    verify,
)
from tests.privacy.ledger.book import NEW, SITE, Quick, genesis, lines_of, released, reserve


def test_every_kind_of_row_verifies_and_reads_back(whole: bytes, path: Path) -> None:
    found = verify(whole)
    assert found.findings == [] and found.torn == b"" and found.errors == []
    assert {row.kind for row in found.rows} == set(bodies.KINDS)
    assert b"".join(row.line for row in found.rows) == whole
    path.write_bytes(whole)
    assert read(path) == found.rows
    with Ledger.open(path, NEW) as ledger:
        assert list(ledger.rows) == found.rows and ledger.exists
        assert ledger.id == found.rows[0].hash
        assert ledger.head == module.Head(
            ledger.id, found.rows[-1].seq, found.rows[-1].hash, found.rows[-1].signature
        )


def test_the_format_is_that_of_an_independent_reader(whole: bytes) -> None:
    """Verify with the standard library and the published byte strings alone."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    prev, key = "0" * 64, json.loads(lines_of(whole)[0])["body"]["key"]
    for number, line in enumerate(lines_of(whole)):
        row = json.loads(line)
        assert row["seq"] == number and row["prev"] == prev
        said = {name: row[name] for name in ("body", "kind", "prev", "seq", "time")}
        text = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(b"fedlite-ledger-row-v1\n" + text)
        assert row["hash"] == digest.hexdigest()
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(
            bytes.fromhex(row["signature"]), b"fedlite-ledger-v1\n" + digest.digest()
        )
        prev = row["hash"]
        if row["kind"] == "key-rotate":
            key = row["body"]["key"]


def test_rows_of_one_append_share_one_write_and_one_flush(begun: Path) -> None:
    class Counting(Quick):
        writes = flushes = 0

        def write(self, handle: int, data: bytes) -> int:
            self.writes += 1
            return super().write(handle, data)

        def fsync(self, handle: int) -> None:
            self.flushes += 1

    files = Counting()
    with Ledger.open(begun, SITE, files=files) as ledger:
        files.flushes = 0
        rows = ledger.append(*released(1, 0))
        assert (files.writes, files.flushes) == (1, 1)
        assert [row.seq for row in rows] == [5, 6] and ledger.rows[-2:] == rows
        assert ledger.append() == () and files.writes == 1


def test_what_was_written_does_not_follow_later_changes_of_its_body(begun: Path) -> None:
    kind, body = reserve(9)
    with Ledger.open(begun, SITE) as ledger:
        ledger.append((kind, body))
        body["steps"] = 99
        assert ledger.rows[-1].body["steps"] == 1


def test_a_short_write_is_continued(begun: Path) -> None:
    class Short(Quick):
        def write(self, handle: int, data: bytes) -> int:
            return super().write(handle, data[:100])

    with Ledger.open(begun, SITE, files=Short()) as ledger:
        ledger.append(reserve(5))
    assert len(read(begun)) == 6


# Speed, in processor time of one thread.


def test_verifying_and_appending_are_fast(path: Path) -> None:
    with Ledger.open(path, SITE, files=Quick()) as ledger:
        ledger.create(genesis(SITE))
        ledger.append(*map(reserve, range(1000)))
        batches = []
        for _ in range(5):
            started = time.process_time()
            for number in range(20):
                ledger.append(reserve(number))
            batches.append((time.process_time() - started) / 20)
    data = path.read_bytes()
    started = time.process_time()
    assert len(verify(data).rows) == 1101
    each = (time.process_time() - started) / 1101
    assert each * 10_000 < 10, f"10,000 rows would take {each * 10_000:.1f} s"
    # About 0.2 ms where nothing else runs; a neighbour on the same core doubles it.
    assert min(batches) < 0.001, f"an append takes {min(batches) * 1000:.2f} ms"
