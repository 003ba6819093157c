"""The examples run as they stand, in a short form, and are as short as they are said to be.

Covers fedlite/reporting/notebook.py, fedlite/reporting/cell.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.examples.lines import lines_of
from tests.test_floors import ROOT

EXAMPLES = ROOT / "examples"


@pytest.mark.long
def test_an_experiment_of_three_seeds_and_four_settings_takes_ten_lines(tmp_path: Path) -> None:
    path = EXAMPLES / "experiment.py"
    text = path.read_text(encoding="utf-8")
    assert lines_of(text) <= 10
    assert '"federation.rounds": 30' in text
    short = tmp_path / "experiment.py"
    assert "[1, 2, 3]" in text
    cut = text.replace('"federation.rounds": 30', '"federation.rounds": 1')
    short.write_text(cut.replace("[1, 2, 3]", "[1]"))
    done = subprocess.run(
        [sys.executable, str(short)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "experiment/compare.html\n"
    assert done.stderr.count("  done  ") == 4 and "trial 4/4" in done.stderr
    for name in ("curves.png", "pareto.png"):
        assert (tmp_path / "experiment" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_the_notebook_runs_and_shows_runs_and_progress(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    folder = {"metadata": {"path": str(tmp_path)}}
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=folder).execute()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    started, shown, rows, answered, compared = (
        cell.outputs for cell in notebook.cells if cell.cell_type == "code"
    )
    # One line that changes, and no line a round.
    lines = [o.data["text/plain"] for o in started if o.output_type == "display_data"]
    assert lines == ["writing the model and the report"]
    assert "data:image/png;base64," in shown[0].data["text/html"]
    assert "3 sites trained one model in 12 rounds." in shown[0].data["text/html"]
    assert "accuracy.deep" in rows[0].data["text/html"]
    mine, told = answered[0].data["text/plain"].strip("()").replace("np.float64(", "").split(", ")
    assert abs(float(mine.strip("()")) - float(told)) < 1e-9
    page = compared[-1].data["text/html"]
    assert "server_momentum 0.8" in page and "data:image/png;base64," in page
