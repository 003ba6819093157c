"""Rows that are edited, deleted, reordered, repeated or foreign: each reported by its rule."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings, strategies as st

from fedlite.privacy.ledger import (
    Ledger,
    forget,
    read,
    verify,
)
from tests.privacy.ledger.book import (
    NEW,
    OWNER,
    PLAN,
    SITE,
    genesis,
    lines_of,
    refused,
    reserve,
    rules,
    signed,
)


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
