"""Files that are no ledger, lines that are huge or torn."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from fedlite.privacy.ledger import (
    Ledger,
    LedgerError,
    forget,
    read,
    verify,
)
from fedlite.privacy.ledger.rows import (
    MAX_LINE,
)
from tests.privacy.ledger.book import POLICY, SITE, Quick, lines_of, refused, reserve, rules


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
