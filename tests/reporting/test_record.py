"""A record that is cut, damaged or mistyped is named with its mend."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fedlite.reporting.report import report
from tests.reporting.reader import Make, read


def test_a_cut_record_is_said(make_run: Make, write_run: Make, tmp_path: Path) -> None:
    rounds, summary = make_run()
    report(write_run(tmp_path / "run", (rounds[:5], summary)))
    text, _ = read(tmp_path / "run" / "report.html")
    assert "rounds.jsonl holds 5 rounds, the summary speaks of 12" in text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: shutil.rmtree(d), "no such directory; give that of a run"),
        (lambda d: (d / "summary.json").unlink(), "no summary here"),
        (lambda d: (d / "summary.json").write_text("{"), r"summary\.json: not JSON .*; restore"),
        (lambda d: (d / "summary.json").write_bytes(b"\xff\xfe"), r"summary\.json: not JSON"),
        (lambda d: (d / "summary.json").write_text("[]"), "must be a JSON object, is list"),
        (lambda d: (d / "rounds.jsonl").unlink(), "must hold at least one round"),
        (lambda d: (d / "rounds.jsonl").write_text("{\n"), r"rounds\.jsonl: a line is not"),
        (lambda d: (d / "rounds.jsonl").write_text('{"x": 1}\n'), r"rounds\.jsonl: a line"),
        (lambda d: (d / "rounds.jsonl").write_text("[1]\n"), r"rounds\.jsonl: a line"),
    ],
)
def test_damage_is_named_with_a_mend(
    damage: Callable[[Path], object],
    message: str,
    make_run: Make,
    write_run: Make,
    tmp_path: Path,
) -> None:
    directory = write_run(tmp_path / "run", make_run())
    damage(directory)
    with pytest.raises(ValueError, match=message):
        report(directory)


@pytest.mark.parametrize("key", ["seed", "bytes.up_ratio", "privacy.sites", "seconds.total"])
def test_a_missing_or_mistyped_key_is_named(
    key: str, make_run: Make, write_run: Make, tmp_path: Path
) -> None:
    for value, message in ((None, "is missing"), ("7", "must be")):
        rounds, summary = make_run()
        *outer, last = key.split(".")
        at = summary[outer[0]] if outer else summary
        if value is None:
            del at[last]
        else:
            at[last] = value
        with pytest.raises(ValueError, match=f"key '{key}' {message}"):
            report(write_run(tmp_path / "run", (rounds, summary)))
