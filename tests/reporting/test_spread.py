"""How records are spread, told and drawn.

Covers fedlite/commands/data.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.data import Dataset, SiteData, Source
from fedlite.data.overview import division
from fedlite.reporting import spread


def invoke(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", "show", *map(str, words)])
    return result.exit_code, result.output


def made(rows: int, columns: int) -> dict[str, Any]:
    counts = np.random.default_rng(0).integers(0, 90, (rows, columns)).tolist()
    sites = [f"site-{n}" for n in range(rows)]
    names = [f"class number {n}" for n in range(columns)]
    return {"name": "toy", "sites": sites, "columns": names, "counts": counts, "skew": 0.4}


def blue(path: Path) -> int:
    """Return how many pixels are of the colour of records."""
    image = np.asarray(Image.open(path).convert("RGB"), int)
    return int((np.abs(image - [0x00, 0x72, 0xB2]).sum(axis=2) < 30).sum())


def test_counts_and_skew_are_those_of_the_records() -> None:
    """Two sites of 3 and 1 records; all together 2 of each class."""
    x = np.zeros((4, 1), np.float32)
    y = np.array([0, 0, 1, 1])
    source = Source("toy", Dataset(x, y), None, None, (), (1,), 2, ("no", "yes"), "here")
    parts = [
        SiteData("a", Dataset(x[:2], y[:2]), Dataset(x[2:3], y[2:3])),
        SiteData("b", Dataset(x[3:], y[3:]), Dataset(x[:0], y[:0])),
    ]
    found = division(source, parts)
    assert found["counts"] == [[2, 1], [0, 1]] and found["columns"] == ["no", "yes"]
    # Site a is 1/6 from halves, b 1/2: (3/6 + 1/2) / 4.
    assert found["skew"] == pytest.approx(0.25)


def test_numbers_are_counted_as_records_and_labels_each() -> None:
    x = np.zeros((3, 1), np.float32)
    y = np.array([[0, 1], [1, 1], [0, 0]], np.float32)
    for scale, counts in ((np.ones((2, 2)), [[3]]), (None, [[1, 2]])):
        source = Source(
            "toy", Dataset(x, y), None, None, (), (1,), 2, ("p", "q"), "here", scale=scale
        )
        found = division(source, [SiteData("a", Dataset(x, y), Dataset(x[:0], y[:0]))])
        assert found["counts"] == counts and found["skew"] is None


@pytest.mark.parametrize(("rows", "columns"), [(5, 10), (5, 1), (90, 10), (1, 60), (1, 2)])
def test_every_size_has_its_picture(tmp_path: Path, rows: int, columns: int) -> None:
    path = spread.draw(made(rows, columns), tmp_path / "a.png")
    width, height = Image.open(path).size
    assert width == 1280 and 300 < height <= 2000
    if columns > 1 and rows == 5:
        few = made(rows, columns)
        few["counts"] = np.eye(5, 10, dtype=int).tolist()
        assert blue(path) > blue(spread.draw(few, tmp_path / "b.png")) > 0


def test_a_table_is_shown_where_there_is_room() -> None:
    assert spread.table(made(5, 6), 80) is not None
    assert spread.table(made(5, 30), 80) is None and spread.table(made(90, 2), 80) is None


def test_the_command_shows_a_scenario_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "mine.toml"
    own.write_text('[federation]\nsites = 4\n[data]\npartition = "quantity"\nalpha = 1\n')
    code, output = invoke(own)
    assert code == 0 and "4 sites with" in output and "site-04" in output
    assert blue(tmp_path / "mine-records.png") > 100
    code, output = invoke(own, "--set", "data.least=300", "--json", "--out", "b.png")
    told = json.loads(output)
    assert code == 0 and np.array(told["counts"]).sum() == 1437 and told["picture"] == "b.png"
    assert min(map(sum, told["counts"])) >= 300 and "drawn" in told["notes"][0]
    code, output = invoke(own, "--out", "b.jpg")
    assert code == 2 and "--out: must name a .png file" in output
    code, output = invoke(own, "--set", "data.name=csv", "--set", "data.columns=a,b",
                          "--set", "data.labels=x,y")  # fmt: skip
    assert code == 2 and "they are at the sites only" in output
