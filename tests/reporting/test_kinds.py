"""What weak sites sent and computed, where people look at a run."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedlite.reporting import kinds
from fedlite.reporting.page import build
from fedlite.reporting.record import WEAK, WHOLE
from fedlite.reporting.table import print_summary

FOUND = {
    WEAK: {
        "sites": ["site-01", "site-02"],
        "parameters": 7786,
        "used": 8,
        "up": 16_000,
        "down": 24_000,
        "cpu_seconds": 0.4,
    },
    WHOLE: {
        "sites": ["site-03"],
        "parameters": 36_660,
        "used": 0,
        "up": 0,
        "down": 0,
        "cpu_seconds": 0.0,
    },
    "tail stood still": 4,
}


def test_both_kinds_are_told_on_the_terminal_and_on_the_page(
    make_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    rounds, summary = make_run()
    assert kinds.told(summary) == []
    summary["kinds"] = FOUND
    first, second, third = kinds.told(summary)
    assert first == (
        "2 sites trained the shallow branch, 7,786 values: an update took 0.0020 MB up and "
        "0.0030 MB down, and 50 ms of a processor."
    )
    # Of none that was used nothing is divided by nothing.
    assert second == "1 site trained the whole model, 36,660 values: no update was used."
    assert third.startswith("In 4 of ") and "stood still" in third
    stream = io.StringIO()
    print_summary(summary, tmp_path, stream)
    page = build(rounds, summary, tmp_path)
    for line in (first, second, third):
        assert line in stream.getvalue() and line in page
