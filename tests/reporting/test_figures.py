"""The figures of a run are drawn, and left out where there is nothing to draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedlite.reporting.record import RoundRecord
from fedlite.reporting.report import report
from tests.reporting.reader import Make, read


def test_figures_are_drawn(private: Path) -> None:
    from matplotlib.image import imread

    image = imread(private / "figures" / "rounds.png")[..., :3]
    height, width, _ = image.shape
    assert width == 1280 and height > 900
    ink = (image < 0.9).any(axis=2)
    for third in np.array_split(ink, 3):
        assert third.mean() > 0.01, "every panel has something in it"
    for colour in ("0072B2", "D55E00", "009E73"):
        wanted = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        assert (np.abs(image - wanted).max(axis=2) < 0.02).sum() > 200, colour


def test_the_epsilon_panel_is_left_out_without_privacy(
    private: Path, make_run: Make, write_run: Make, tmp_path: Path
) -> None:
    from matplotlib.image import imread

    report(write_run(tmp_path / "run", make_run(private=False)))
    two = imread(tmp_path / "run" / "figures" / "rounds.png").shape[0]
    three = imread(private / "figures" / "rounds.png").shape[0]
    assert 0.6 < two / three < 0.75


@pytest.mark.filterwarnings("error")
def test_a_single_bare_round_can_be_drawn(make_run: Make, write_run: Make, tmp_path: Path) -> None:
    _, summary = make_run(private=False)
    summary |= {"rounds": 1, "accuracy": {}}
    for key in summary["bytes"]:
        summary["bytes"][key] = 0
    for key in ("updates", "energy", "model", "data", "versions", "cpu_seconds", "disclosed"):
        del summary[key]
    directory = write_run(tmp_path / "run", ([RoundRecord(1, 0)], summary))
    assert report(directory)["rounds"] == 1
    text, _ = read(directory / "report.html")
    assert "No accuracy was measured." in text and "None" not in text
