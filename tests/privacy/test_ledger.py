"""What a ledger's file alone can show, and what it cannot; one test for each attack and fault."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fedlite.identity import keys
from fedlite.identity.canonical import canonical
from fedlite.privacy import ledger as module
from fedlite.privacy.ledger import (
    RULES,
    Files,
    Ledger,
    LedgerBusy,
    LedgerError,
    Row,
    bodies,
    chain,
    forget,
    lock,
    read,
    verify,
)
from fedlite.privacy.ledger.rows import (
    MAX_LINE,
    grant_message,
    rotate_message,
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return build(tmp_path_factory.mktemp("whole") / "heart.jsonl")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "ledgers" / "heart.jsonl"
    path.parent.mkdir()
    yield path
    forget(path)


@pytest.fixture
def begun(path: Path) -> Path:
    with Ledger.open(path, SITE, files=Quick()) as ledger:
        ledger.create(genesis(SITE, OWNER))
        ledger.append(*map(reserve, range(4)))
    forget(path)
    return path


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


# What is written, is read.


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


# Attacks on the file.


def test_an_edited_byte_is_found_wherever_it_is(whole: bytes) -> None:
    lines = lines_of(whole)
    for number in (0, 3, len(lines) - 1):
        start = sum(map(len, lines[:number]))
        for name in (b'"body":', b'"hash":"', b'"kind":"', b'"prev":"', b'"seq":', b'"time":"',
                     b'"signature":"', b'{', b'}', b'\n'):  # fmt: skip
            for offset in (0, len(name)):
                at = min(start + lines[number].index(name) + offset, len(whole) - 1)
                for bit in (0, 2, 5):
                    edited = bytearray(whole)
                    edited[at] ^= 1 << bit
                    found = verify(bytes(edited))
                    assert found.errors, (number, name, offset, bit)
                    assert len(found.rows) <= number + 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(where=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_any_byte_flipped_anywhere_is_found(whole: bytes, where: float, change: int) -> None:
    edited = bytearray(whole)
    edited[int(where * len(whole))] ^= change
    found = verify(bytes(edited))
    assert found.errors
    # What is still believed is a beginning of the truth.
    assert b"".join(row.line for row in found.rows) == whole[: sum(len(r.line) for r in found.rows)]


def test_an_edited_value_reports_the_hash_of_that_one_row(begun: Path) -> None:
    data = begun.read_bytes().replace(b'"round":2', b'"round":7')
    begun.write_bytes(data)
    assert [(finding.rule, finding.row) for finding in verify(data).findings] == [("hash", 3)]
    assert len(verify(data).rows) == 3
    error = refused(begun)
    assert (error.rule, error.row) == ("hash", 3) and "row 3" in str(error)


def test_an_edited_value_with_its_hash_mended_reports_the_signature(begun: Path) -> None:
    lines = lines_of(begun.read_bytes())
    row = read(begun)[3]
    lines[3] = signed(row, NEW, body={**row.body, "round": 7})
    assert rules(b"".join(lines)) == ["signature", "chain"]


def test_a_middle_row_deleted_reports_the_sequence(begun: Path) -> None:
    lines = lines_of(begun.read_bytes())
    del lines[2]
    begun.write_bytes(b"".join(lines))
    found = verify(begun.read_bytes())
    assert [(finding.rule, finding.row) for finding in found.findings] == [("sequence", 2)]
    assert refused(begun).rule == "sequence"


def test_a_middle_row_deleted_and_the_next_renumbered_reports_the_chain(begun: Path) -> None:
    lines, rows = lines_of(begun.read_bytes()), read(begun)
    lines[2:4] = [signed(rows[3], seq=2)]
    assert rules(b"".join(lines))[0] == "chain"


def test_rows_reordered_report_the_sequence(begun: Path) -> None:
    lines = lines_of(begun.read_bytes())
    lines[2], lines[3] = lines[3], lines[2]
    begun.write_bytes(b"".join(lines))
    assert set(rules(begun.read_bytes())) == {"sequence"} and refused(begun).row == 2


def test_a_row_replayed_reports_the_sequence(begun: Path) -> None:
    lines = lines_of(begun.read_bytes())
    begun.write_bytes(b"".join([*lines, lines[2]]))
    assert rules(begun.read_bytes()) == ["sequence"] and refused(begun).row == 5


def test_a_second_genesis_reports_genesis(begun: Path) -> None:
    lines = lines_of(begun.read_bytes())
    assert rules(b"".join([*lines, lines[0]])) == ["genesis"]
    assert rules(b"".join(lines[1:])) == ["not-a-ledger"]


def test_another_sites_ledger_reports_the_wrong_key(begun: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    with Ledger.open(other, NEW) as ledger:
        ledger.create(genesis(NEW))
    forget(other)
    begun.write_bytes(other.read_bytes())
    assert rules(begun.read_bytes()) == []  # It is a good ledger; it is not this site's.
    assert refused(begun).rule == "wrong-key"


def test_a_row_of_the_same_sites_other_ledger_reports_the_chain(
    begun: Path, tmp_path: Path
) -> None:
    other = tmp_path / "lungs.jsonl"
    with Ledger.open(other, SITE) as ledger:
        ledger.create(genesis(SITE, dataset="lungs"))
        ledger.append(reserve(0))
    lines = lines_of(begun.read_bytes())
    lines[1] = lines_of(other.read_bytes())[1]
    assert rules(b"".join(lines))[0] == "chain"


def test_the_file_alone_does_not_show_truncation_an_old_copy_or_a_rebuilt_ledger(
    begun: Path,
) -> None:
    """The limits of a local chain; the witness is what sees these."""
    data = begun.read_bytes()
    cut = b"".join(lines_of(data)[:3])
    assert rules(cut) == []  # cut at a row's end; an older copy is the same thing
    begun.write_bytes(cut)
    with Ledger.open(begun, SITE) as ledger:
        assert len(ledger.rows) == 3
    forget(begun)
    begun.unlink()
    with Ledger.open(begun, SITE) as ledger:  # rebuilt with its own key, cheaper
        ledger.create(genesis(SITE, OWNER, plan=PLAN | {"noise_multiplier": 80.0}))
    assert rules(begun.read_bytes()) == []
    # What the witness holds tells them apart: another id, or a lower row under the same id.
    assert verify(data).rows[0].hash != verify(begun.read_bytes()).rows[0].hash


# The form of a row: the key holder's own mistakes and tricks. All are signed.


def odd(begun: Path, **changes: Any) -> list[str]:
    """Sign a changed last row and return the rules that it breaks."""
    rows = read(begun)
    return rules(b"".join(row.line for row in rows[:-1]) + signed(rows[-1], **changes))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_found(begun: Path, word: str) -> None:
    data = begun.read_bytes()
    for old in (b'"clip":0.1', b'"order":12.0', b'"epsilon":3.0'):
        edited = data.replace(old, old.split(b":")[0] + b":" + word.encode())
        assert rules(edited) == ["not-finite"]
    edited = data.replace(b'"round":2', b'"round":' + word.encode())
    assert rules(edited) == ["not-finite", "chain"] or rules(edited) == ["not-finite"]


def test_a_duplicate_key_is_found(begun: Path) -> None:
    data = begun.read_bytes().replace(b'"round":3', b'"round":3,"round":3')
    assert rules(data) == ["duplicate-key"]
    data = begun.read_bytes().replace(b'"seq":4', b'"seq":4,"seq":4')
    assert rules(data) == ["duplicate-key"]


def test_an_unknown_kind_is_found(begun: Path) -> None:
    assert odd(begun, kind="refund") == ["unknown-kind"]


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ({}, "body-keys"),
        (reserve(3)[1] | {"note": 1}, "body-keys"),
        ({name: value for name, value in reserve(3)[1].items() if name != "run"}, "body-keys"),
        ([], "body-value"),
        (reserve(3)[1] | {"steps": 1.0}, "body-value"),
        (reserve(3)[1] | {"steps": True}, "body-value"),
        (reserve(3)[1] | {"steps": -1}, "body-value"),
        (reserve(3)[1] | {"steps": 0}, "body-value"),
        (reserve(3)[1] | {"steps": 2**53}, "body-value"),
        (reserve(3)[1] | {"run": "A" * 16}, "body-value"),
        (reserve(3)[1] | {"model": None}, "body-value"),
    ],
)
def test_a_body_with_other_keys_or_values_is_found(begun: Path, body: Any, rule: str) -> None:
    assert odd(begun, body=body) == [rule]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("plan.noise_multiplier", 0.0), ("plan.noise_multiplier", -1.0), ("plan.clip", 1),
        ("plan.sampling_rate", 1.5), ("plan.sampling_rate", 0.0), ("plan.delta", 1.0),
        ("plan.delta", 0.0), ("plan.steps", 0), ("plan.charged", -0.5), ("plan.unit", "person"),
        ("plan.bound", "gdp"), ("plan.code", "xyz"), ("policy.epsilon", -1.0),
        ("policy.person", "6"), ("policy.units", ["record", "record"]), ("policy.units", "record"),
        ("policy.servers", ["00"]), ("policy.metrics", [1]), ("order", 1.0), ("site", ""),
        ("site", "a\x1b[2J"), ("site", "a\u202eb"), ("site", "\ud800"), ("site", "x" * 201),
        ("owner", "00"), ("version", 0), ("version", True), ("version", "1"), ("key", "0" * 63),
    ],
)  # fmt: skip
def test_a_genesis_out_of_range_is_refused_when_written_and_found_when_read(
    path: Path, where: str, value: Any
) -> None:
    body = genesis(SITE) | {"policy": dict(POLICY), "plan": dict(PLAN)}
    *outer, name = where.split(".")
    (body[outer[0]] if outer else body)[name] = value
    with Ledger.open(path, SITE) as ledger, pytest.raises(LedgerError) as caught:
        ledger.create(body)
    assert caught.value.rule == "body-value" and name in caught.value.text
    assert not path.exists()
    row = Row(0, "0" * 64, "genesis", "2026-11-22T09:30:00Z", {}, "", "")
    assert rules(signed(row, body=body)) == ["body-value"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nothing_that_is_not_finite_is_written(begun: Path, value: float) -> None:
    before = begun.read_bytes()
    with Ledger.open(begun, SITE) as ledger:
        for name in ("noise_multiplier", "clip", "delta", "charged", "epsilon_asked"):
            with pytest.raises(LedgerError) as caught:
                ledger.append(reserve(8), ("plan", {"plan": PLAN | {name: value}}))
            assert caught.value.rule == "not-finite" and name in str(caught.value)
        assert len(ledger.rows) == 5
    assert begun.read_bytes() == before


def test_a_row_with_other_keys_or_fields_is_found(begun: Path) -> None:
    good = json.loads(lines_of(begun.read_bytes())[-1])
    head = b"".join(lines_of(begun.read_bytes())[:-1])

    def broken(**changes: Any) -> list[str]:
        row = {name: value for name, value in (good | changes).items() if value is not ...}
        return rules(head + canonical(row) + b"\n")

    assert broken() == []
    assert broken(note=1) == broken(seq=...) == broken(body=...) == ["row-keys"]
    for changes in (
        {"hash": "0"}, {"prev": None}, {"signature": "AB" * 64}, {"seq": -1}, {"seq": 4.0},
        {"seq": True}, {"seq": 2**32}, {"kind": 1}, {"time": 0}, {"time": "2026-13-22T09:30:00Z"},
        {"time": "2026-11-22T09:30:00+00:00"},
        {"time": "\N{FULLWIDTH DIGIT TWO}026-11-22T09:30:00Z"},
    ):  # fmt: skip
        assert broken(**changes) == ["row-value"]


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(b'":', b'": ', 1),
        lambda line: line.replace(b'"round":3', b'"round":3e0'),
        lambda line: line.replace(b"reserve", b"\\u0072eserve"),
        lambda line: b" " + line,
        lambda line: line[:-1] + b"\r\n",
    ],
)
def test_another_spelling_of_the_same_row_is_found(
    begun: Path, change: Callable[[bytes], bytes]
) -> None:
    lines = lines_of(begun.read_bytes())
    assert change(lines[-1]) != lines[-1]
    assert rules(b"".join([*lines[:-1], change(lines[-1])])) == ["not-canonical"]


@pytest.mark.parametrize(
    "line", [b"[]\n", b"null\n", b"{\n", b"\n", b"\xff\n", b"[" * 60000 + b"\n",
             b"9" * 5000 + b"\n", '{"é":1}\n'.encode()]
)  # fmt: skip
def test_a_line_that_is_no_object_is_found(begun: Path, line: bytes) -> None:
    assert rules(begun.read_bytes() + line) == ["not-json"]


def test_a_newer_version_is_never_a_pass(begun: Path) -> None:
    lines, rows = lines_of(begun.read_bytes()), read(begun)
    newer = signed(rows[0], body={**rows[0].body, "version": 2, "something": "new"})
    for data in (newer, newer + b"".join(lines[1:]), b'{"kind":"genesis","body":{"version":7}}\n'):
        found = verify(data)
        assert [finding.rule for finding in found.findings] == ["newer-version"]
        assert found.rows == [] and found.errors
        text = found.findings[0].text
        assert text.startswith("made by a newer fedlite") and text.endswith("update to read it")
        begun.write_bytes(data)
        assert refused(begun).rule == "newer-version"


def test_an_empty_file_is_no_ledger(path: Path) -> None:
    path.write_bytes(b"")
    assert rules(b"") == ["empty"] and refused(path).rule == "empty"
    with pytest.raises(LedgerError, match="empty"):
        read(path)


@pytest.mark.parametrize(
    "data",
    [
        b"site,epsilon\na,3\n",
        b'{"kind":"seen"}\n',
        b"PK\x03\x04" + bytes(range(256)) * 40,
        b"\0" * 10_000,
        b"\n",
        b"no line end",
        b'{"body":{"version":1',
    ],
)
def test_a_foreign_or_binary_file_is_no_ledger_and_stays_as_it_is(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert rules(data) == ["not-a-ledger"] and refused(path).rule == "not-a-ledger"
    with pytest.raises(LedgerError, match="not-a-ledger"):
        read(path)
    assert path.read_bytes() == data


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300), tail=st.binary(max_size=300))
def test_verify_never_raises(whole: bytes, data: bytes, tail: bytes) -> None:
    assert verify(data).findings
    assert verify(whole + data + b"\n" + tail).findings
    assert verify(whole[:700] + data + whole[700:]).rows == [] or not data


def test_a_huge_line_is_refused_without_reading_on(begun: Path) -> None:
    files, data = Quick(), begun.read_bytes()
    assert rules(data + b"{" * MAX_LINE + b"\n") == ["line-too-long"]
    assert rules(data + b"{" * (MAX_LINE + 1)) == ["line-too-long"]
    with begun.open("ab") as file:
        file.truncate(200_000_000)
    with pytest.raises(LedgerError) as caught:
        Ledger.open(begun, SITE, files=files)
    assert caught.value.rule == "line-too-long" and caught.value.row == 5
    assert files.bytes_read < 4_000_000
    begun.write_bytes(data)
    many = [f"metric {number:04d} " + "x" * 80 for number in range(1000)]
    with Ledger.open(begun, SITE) as ledger, pytest.raises(LedgerError) as caught:
        ledger.append(("policy", {"policy": POLICY | {"metrics": many}, "grant": ""}))
    assert caught.value.rule == "line-too-long" and begun.read_bytes() == data


def test_a_long_list_of_findings_ends(begun: Path) -> None:
    started = time.process_time()
    found = rules(begun.read_bytes() + b"x\n" * 100_000)
    assert found == ["not-json"] * 100 + ["too-many"]
    assert time.process_time() - started < 5


# Torn lines.


def test_a_torn_last_line_is_cut_when_opened_and_left_out_when_read(begun: Path) -> None:
    data = begun.read_bytes()
    last = lines_of(data)[-1]
    for kept in (1, 10, len(last) // 2, len(last) - 1):
        torn = data[: len(data) - len(last)] + last[:kept]
        for tail in (b"", b"\0" * 9)[: 1 + (kept < len(last) - 1)]:
            begun.write_bytes(torn + tail)
            found = verify(torn + tail)
            assert [(finding.rule, finding.row) for finding in found.findings] == [("torn-line", 4)]
            assert found.errors == [] and found.torn == last[:kept] + tail
            assert len(read(begun)) == 4 and begun.read_bytes() == torn + tail
            with Ledger.open(begun, SITE) as ledger:
                assert len(ledger.rows) == 4
                ledger.append(reserve(9))
            assert rules(begun.read_bytes()) == [] and len(read(begun)) == 5
            forget(begun)


def test_a_last_row_with_another_end_was_not_torn(begun: Path) -> None:
    """A crash leaves a beginning; a whole row and something else is damage to a durable row."""
    data = begun.read_bytes()
    for end in range(256):
        assert rules(data[:-1] + bytes([end])) == ["damaged-tail"] * (end != 10)
    for tail in (b"X", b"\0", b"\0\0\0", b" {"):
        begun.write_bytes(data[:-1] + tail)
        assert refused(begun).rule == "damaged-tail"
        with pytest.raises(LedgerError, match="damaged-tail"):
            read(begun)
    for tail in (b"x", b"\xff", b'{"body":{"plan":\xc3', b'{"prev":', b"\0\0{"):
        assert rules(data + tail) == ["damaged-tail"]
    for tail in (b"{", b'{"bo', b"\0", b'{"\0\0\0y":{"pl', b"\0" * 600):
        assert rules(data + tail) == ["torn-line"]


# Keys, grants, witnesses.


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


# One writer.


def test_a_second_writer_in_another_process_is_refused(begun: Path, tmp_path: Path) -> None:
    keys.generate(tmp_path / "key.pem")
    code = (
        "import sys\nfrom fedlite.privacy import ledger\nfrom fedlite.privacy.ledger import keys\n"
        "try: ledger.Ledger.open(sys.argv[1], keys.load(sys.argv[2]))\n"
        "except ledger.LedgerError as error: print(type(error).__name__, error.rule)\n"
    )
    command = [sys.executable, "-c", code, str(begun), str(tmp_path / "key.pem")]
    with Ledger.open(begun, SITE) as ledger:
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert shown.split() == ["LedgerBusy", "second-writer"]
        ledger.append(reserve(5))
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["LedgerError", "wrong-key"]  # The lock is free again.


def test_a_second_writer_in_another_thread_is_refused(begun: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias.jsonl"
    alias.symlink_to(begun)
    caught: list[LedgerError] = []

    def second() -> None:
        for name in (begun, alias):
            try:
                Ledger.open(name, SITE)
            except LedgerBusy as error:
                caught.append(error)

    with Ledger.open(begun, SITE):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert [error.rule for error in caught] == ["second-writer"] * 2
    Ledger.open(alias, SITE).close()


def test_a_second_thread_is_refused_where_locks_are_of_whole_processes(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS gives a lock to every thread of the process that holds it."""
    monkeypatch.setattr(fcntl, "flock", lambda handle, operation: None)
    with Ledger.open(begun, SITE), pytest.raises(LedgerBusy):
        Ledger.open(begun, SITE)
    Ledger.open(begun, SITE).close()


def test_a_disk_without_locks_is_refused(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        with pytest.raises(LedgerError) as caught:
            Ledger.open(begun, SITE)
    assert caught.value.rule == "no-lock" and "No locks available" in str(caught.value)
    Ledger.open(begun, SITE).close()


def test_a_second_writer_waits_as_long_as_it_was_told(begun: Path) -> None:
    first = Ledger.open(begun, SITE)
    started = time.monotonic()
    with pytest.raises(LedgerBusy, match=r"waited 0\.1 s"):
        Ledger.open(begun, SITE, wait=0.1)
    assert time.monotonic() - started >= 0.1
    timer = threading.Timer(0.05, first.close)
    timer.start()
    Ledger.open(begun, SITE, wait=30).close()


def test_threads_may_share_one_open_ledger(begun: Path) -> None:
    with Ledger.open(begun, SITE, files=Quick()) as ledger:
        threads = [threading.Thread(target=lambda: ledger.append(reserve(0))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert rules(begun.read_bytes()) == [] and len(read(begun)) == 13


def test_a_forked_child_does_not_write_with_its_parents_ledger(begun: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()

    def child(ledger: Ledger) -> None:
        for act in (lambda: ledger.append(reserve(5)), lambda: Ledger.open(begun, SITE)):
            try:
                act()
            except LedgerError as error:
                answers.put(error.rule)
        ledger.close()

    with Ledger.open(begun, SITE) as ledger:
        process = context.Process(target=child, args=(ledger,))
        process.start()
        assert [answers.get(timeout=30), answers.get(timeout=30)] == ["closed", "second-writer"]
        process.join()
        with Path(f"{begun}.lock").open("a") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the child did not give it away
        ledger.append(reserve(5))


def test_a_removed_lock_stops_the_writer(begun: Path) -> None:
    with Ledger.open(begun, SITE) as ledger:
        Path(f"{begun}.lock").unlink()
        with pytest.raises(LedgerBusy) as caught:
            ledger.append(reserve(5))
        assert caught.value.rule == "second-writer" and "removed" in str(caught.value)
    assert len(read(begun)) == 5


def test_a_failed_open_leaves_no_lock_and_no_open_file(begun: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for key, data in ((NEW, begun.read_bytes()), (SITE, b"x\n"), (SITE, begun.read_bytes()[9:])):
        begun.write_bytes(data)
        refused(begun, key)

    class Broken(Files):
        def read(self, handle: int, size: int, offset: int) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(LedgerError, match="unreadable"):
        Ledger.open(begun, SITE, files=Broken())
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_ledger_is_not_used(begun: Path) -> None:
    ledger = Ledger.open(begun, SITE)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError) as caught:
        ledger.append(reserve(5))
    assert caught.value.rule == "closed"


# Files in the wrong place.


def test_a_directory_or_a_pipe_instead_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()
    assert refused(path).rule == "not-a-file"
    with pytest.raises(LedgerError, match="not-a-file"):
        read(path)
    path.rmdir()
    os.mkfifo(path)
    assert refused(path).rule == "not-a-file"
    path.unlink()
    Path(f"{path}.lock").unlink()
    Path(f"{path}.lock").mkdir()
    with pytest.raises(LedgerError, match="not-a-file"):
        Ledger.open(path, SITE)


def test_a_file_without_permission_is_refused(begun: Path) -> None:
    class Denied(Files):  # Permissions do not bind root, who may run this test.
        def open(self, path: str, flags: int) -> int:
            raise PermissionError(13, "Permission denied")

    with pytest.raises(LedgerError) as caught:
        Ledger.open(begun, SITE, files=Denied())
    assert caught.value.rule == "unreadable" and "permissions" in caught.value.text


def test_a_missing_ledger_is_made_once(path: Path) -> None:
    with pytest.raises(LedgerError, match="unreadable"):
        read(path)
    with Ledger.open(path, SITE) as ledger:
        assert not ledger.exists and ledger.rows == () and not path.exists()
        for act in (lambda: ledger.head, lambda: ledger.append(reserve(0)), lambda: ledger.id):
            with pytest.raises(LedgerError) as caught:
                act()
            assert caught.value.rule == "no-ledger"
        with pytest.raises(LedgerError) as caught:
            ledger.create(genesis(NEW))
        assert caught.value.rule == "genesis" and not path.exists()
        row = ledger.create(genesis(SITE))
        assert ledger.head.hash == ledger.id == row.hash and ledger.head.seq == 0
        with pytest.raises(LedgerError) as caught:
            ledger.create(genesis(SITE))
        assert caught.value.rule == "already-exists"
        for kind in ("genesis", "key-rotate"):
            with pytest.raises(LedgerError) as caught:
                ledger.append((kind, {}))
            assert caught.value.rule == "own-method"
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(path.parent)) == ["heart.jsonl", "heart.jsonl.lock"]


# Opening again in one process.


def test_opening_again_reads_and_verifies_only_what_is_new(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    true = keys.verify
    monkeypatch.setattr(chain.keys, "verify", lambda *a: (checked.append(a[1]), true(*a))[1])
    Ledger.open(begun, SITE).close()
    assert len(checked) == 5
    with Ledger.open(begun, SITE, files=Quick()) as ledger:
        assert len(ledger.rows) == 5 and len(checked) == 5
        ledger.append(reserve(5))
    files, last = Quick(), read(begun)[-1]
    checked.clear()
    added = signed(last, seq=6, prev=last.hash)
    with begun.open("ab") as file:
        file.write(added)
    with Ledger.open(begun, SITE, files=files) as ledger:
        assert len(ledger.rows) == 7 and len(checked) == 1
    assert files.bytes_read == len(last.line) + len(added)


def test_opening_again_notices_that_the_file_became_shorter(begun: Path) -> None:
    Ledger.open(begun, SITE).close()
    data = begun.read_bytes()
    begun.write_bytes(b"".join(lines_of(data)[:-1]))
    assert refused(begun).rule == "rolled-back"
    begun.write_bytes(data[:-1])
    assert refused(begun).rule == "rolled-back"
    begun.write_bytes(b"")
    assert refused(begun).rule == "rolled-back"
    begun.unlink()
    assert refused(begun).rule == "rolled-back"
    assert not begun.exists()
    begun.write_bytes(data)
    Ledger.open(begun, SITE).close()


def test_opening_again_notices_that_the_last_line_changed(begun: Path) -> None:
    Ledger.open(begun, SITE).close()
    rows = read(begun)
    other = signed(rows[-1], body={**rows[-1].body, "round": 9})
    begun.write_bytes(b"".join(row.line for row in rows[:-1]) + other)
    assert rules(begun.read_bytes()) == []  # a fork by the key holder
    error = refused(begun)
    assert (error.rule, error.row) == ("changed", 4)


def test_a_change_behind_the_writers_back_stops_it(begun: Path) -> None:
    with Ledger.open(begun, SITE) as ledger:
        with begun.open("ab") as file:
            file.write(b"x")
        with pytest.raises(LedgerError) as caught:
            ledger.append(reserve(5))
        assert caught.value.rule == "changed"


def test_an_interrupted_append_is_not_forgotten(begun: Path) -> None:
    """Control-C between the write and the flush: the row is in the file and counts."""

    class Interrupted(Quick):
        def fsync(self, handle: int) -> None:
            raise KeyboardInterrupt

    Ledger.open(begun, SITE, files=Quick()).close()
    with Ledger.open(begun, SITE, files=Interrupted()) as ledger:
        with pytest.raises(KeyboardInterrupt):
            ledger.append(reserve(5))
        assert len(ledger.rows) == 5
        with pytest.raises(LedgerError) as caught:
            ledger.append(reserve(6))
        assert caught.value.rule == "changed"
    flushed: list[int] = []
    files = Quick()
    files.fsync = flushed.append  # type: ignore[method-assign]
    with Ledger.open(begun, SITE, files=files) as ledger:
        assert len(ledger.rows) == 6 and flushed  # It is relied on only once it is flushed.


# The rules themselves.


def test_every_rule_is_used_and_explained_in_a_sentence() -> None:
    folder = Path(module.__file__).parent
    names = ("bodies", "chain", "files", "keys", "ledger", "lock", "rows")
    source = "".join((folder / f"{name}.py").read_text() for name in names)
    words = set(re.findall(r'"([a-z]+(?:-[a-z]+)*)"', source))
    for rule, sentence in RULES.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule) and rule in words
        assert sentence[0].isupper() and sentence.endswith(".") and "\n" not in sentence
    raised = re.findall(r'(?:Error|Busy|Poisoned|_Bad|Finding)\(\s*"([a-z-]+)"', source)
    assert len(raised) > 40 and set(raised) <= set(RULES)


def test_errors_survive_another_process() -> None:
    # A copy is made by the same protocol as the message to another process.
    for kind in (LedgerError, LedgerBusy, module.LedgerPoisoned):
        error = copy.copy(kind("hash", "text", 3, "a.jsonl"))
        assert type(error) is kind and isinstance(error, ValueError)
        assert str(error) == "a.jsonl: row 3: hash: text" and error.row == 3


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, fedlite.privacy.ledger, fedlite.identity.keys\n"
        "print({'torch', 'flwr', 'dp_accounting', 'numpy', 'scipy'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


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
