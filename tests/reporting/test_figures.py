"""The figures of a run are drawn, and left out where there is nothing to draw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedlite.reporting.figures import rounds_figure
from fedlite.reporting.page import build
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


def test_of_a_model_with_one_branch_nothing_speaks_of_branches(
    make_run: Make, tmp_path: Path
) -> None:
    rounds, summary = make_run(private=False)
    summary["model"]["costs"] = {"network": {"parameters": 20_640, "macs": 1}}
    for part in (summary["accuracy"], *summary["accuracy"]["by_site"].values()):
        del part["shallow"]
    for record in rounds:
        record.accuracy.pop("shallow", None)
    text = build(rounds, summary, tmp_path)
    assert "deep" not in text and "shallow" not in text
    labels = [text.get_text() for text in rounds_figure(rounds, summary).axes[0].texts]
    assert labels == ["91.4 %"]


@pytest.mark.parametrize("value", [1.0, 0.98])
def test_the_axis_of_a_score_ends_where_the_score_does(make_run: Make, value: float) -> None:
    rounds, summary = make_run(private=False, binary=True)
    for record in rounds:
        record.auc.update({"deep": value, "shallow": 1.0} if record.auc else {})
    low, high = rounds_figure(rounds, summary).axes[0].get_ylim()
    assert low < value and 1.0 < high < 1.005


def test_the_bytes_of_a_small_run_stand_between_two_ticks(make_run: Make) -> None:
    rounds, summary = make_run(private=False)
    few = [replace(r, bytes_up=37, bytes_down=40, dense_up=40, dense_down=40) for r in rounds]
    axes = rounds_figure(few, summary).axes[1]
    low, high = axes.get_ylim()
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 3
    assert "up 444 bytes" in [text.get_text() for text in axes.texts]


def test_of_a_run_that_nobody_judged_the_panel_names_no_score(make_run: Make) -> None:
    rounds, summary = make_run(private=False)
    bare = [replace(record, accuracy={}, auc={}, scores={}) for record in rounds]
    axes = rounds_figure(bare, summary | {"accuracy": {}, "auc": {}}).axes[0]
    assert axes.get_title() == "scores on held-out data" and axes.get_ylabel() == "score"
