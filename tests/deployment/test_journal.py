"""The journal: one line each, months that age, lines that a crash tore."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedlite.deployment import journal
from fedlite.deployment.journal import Journal


def test_lines_come_back_in_order_and_only_the_owner_can_read_them(tmp_path: Path) -> None:
    book = Journal(tmp_path / "audit")
    book.write("join", coordinator="fl.example.org:443", ok=True)
    book.write("rotate", note="two\nlines")
    said = journal.read(tmp_path / "audit")
    assert [line["action"] for line in said] == ["join", "rotate"]
    assert said[0]["ok"] is True and said[1]["note"] == "two\nlines" and said[0]["who"]
    (path,) = (tmp_path / "audit").iterdir()
    assert path.name == f"audit-{datetime.now(UTC):%Y-%m}.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(path.read_bytes().splitlines()) == 2
    assert list(json.loads(path.read_bytes().splitlines()[0])) == sorted(said[0])


def test_a_torn_line_is_told_and_costs_no_other(tmp_path: Path) -> None:
    Journal(tmp_path).write("one")
    (path,) = tmp_path.iterdir()
    with path.open("ab") as file:
        file.write(b'{"action":"tw')
    Journal(tmp_path).write("three")
    said = journal.read(tmp_path)
    assert [line["action"] for line in said] == ["one", "damaged", "three"]
    assert said[1]["line"] == 2 and said[1]["file"] == path.name


def test_months_that_ended_too_long_ago_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2026, 7, 1, 12, tzinfo=UTC)

    for month in ("2025-11", "2025-12", "2026-01"):
        (tmp_path / f"audit-{month}.jsonl").write_text('{"action":"old"}\n')
    (tmp_path / "notes.jsonl").write_text("mine")
    monkeypatch.setattr(journal, "datetime", Clock)
    Journal(tmp_path).write("now")
    # 180 days before 1 July is 2 January: December has ended by then, January has not.
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["audit-2026-01.jsonl", "audit-2026-07.jsonl", "notes.jsonl"]


def test_wrong_facts_and_wrong_ages(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_days: must be at least 180, got 30"):
        Journal(tmp_path, keep_days=30)
    for facts in ({"who": "root"}, {"keys": ["a"]}, {"x": float("nan")}):
        with pytest.raises(ValueError, match=r"journal: |compliant"):
            Journal(tmp_path).write("try", **facts)  # type: ignore[arg-type]
    assert journal.read(tmp_path) == []


def test_who_causes_refusals_cannot_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "REFUSALS", 2000)
    made = journal.Journal(tmp_path)
    for number in range(100):
        made.write("refuse", bundle=f"{number:064x}")
    made.write("approve", bundle="ab")
    lines = journal.read(tmp_path)
    assert [line["action"] for line in lines[:-1]] == ["refuse"] * (len(lines) - 1)
    assert lines[-1]["action"] == "approve" and len(lines) < 20
    assert ["last" in line for line in lines] == [False] * (len(lines) - 2) + [True, False]
