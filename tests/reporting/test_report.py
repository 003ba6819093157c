"""A report is made from a run directory and nothing else, and can be made again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedlite.reporting.report import report


@pytest.mark.long
def test_a_report_can_be_made_again(private: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("rounds.jsonl", "summary.json"):
        shutil.copy(private / name, copy / name)
    report(copy)
    first = (copy / "report.html").read_bytes()
    report(copy)
    assert (copy / "report.html").read_bytes() == first


def test_importing_the_room_loads_no_drawing_library() -> None:
    code = (
        "import sys, fedlite.reporting.report, fedlite.reporting.table, "
        "fedlite.reporting.progress; "
        "print(sorted({'jinja2', 'matplotlib', 'rich', 'numpy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
