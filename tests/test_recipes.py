"""The recipes of CONTRIBUTING.md, run as they stand: by file, and as an installed package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = {
    found[1]: found[2]
    for found in re.finditer(
        r"```python\n# (\w+\.py)\n(.*?)```",
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
}
SHORT = ("federation.rounds=3", "privacy.unit=none", "data.name=digits", "training.steps=5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipes as files, and as an installed package that offers them."""
    path = tmp_path_factory.mktemp("toys")
    for name, code in RECIPES.items():
        (path / name).write_text(code, encoding="utf-8")
    told = path / "toys-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(
        "[fedlite.models]\ntoy = toy_model:make\n"
        "[fedlite.strategies]\ntoy = toy_strategy:Signs\n"
        "[fedlite.compressors]\ntoy = toy_compressor:make\n"
        "[fedlite.data]\ntoy = toy_data:ENTRY\n"
    )
    return path


def simulate(folder: Path, out: str, *settings: str, installed: bool) -> dict[str, object]:
    words = [word for setting in (*SHORT, *settings) for word in ("--set", setting)]
    command = [sys.executable, "-c", "from fedlite.cli import main; main()", "simulate", "--json"]
    found = dict(os.environ)
    if installed:
        found["PYTHONPATH"] = os.pathsep.join((str(folder), str(ROOT)))
    done = subprocess.run(
        [*command, *words, "--out", str(folder / out), "--engine", "serial"],
        cwd=folder,
        env=found,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary: dict[str, object] = json.loads(done.stdout)
    return summary


def test_there_is_a_recipe_for_each() -> None:
    assert set(RECIPES) == {f"toy_{x}.py" for x in ("model", "strategy", "compressor", "data")}


@pytest.mark.long
def test_a_file_of_ones_own_needs_no_step(folder: Path) -> None:
    names = (
        "model.name=toy_model.py:make",
        "federation.strategy=toy_strategy.py:Signs",
        "uplink.compressor=toy_compressor.py:make",
    )
    summary = simulate(folder, "files", *names, installed=False)
    assert summary["parameters"] == 64 * 16 + 16 + 16 * 10 + 10 + 64 * 10 + 10
    bytes_up = json.loads((folder / "files" / "rounds.jsonl").read_text().splitlines()[0])
    assert 1.9 < bytes_up["dense_up"] / bytes_up["bytes_up"] <= 2.0
    # It goes on from anywhere: what the run keeps names the files by where they are.
    kept = (folder / "files" / "scenario.toml").read_text()
    assert f'"{folder / "toy_model.py"}:make"' in kept


@pytest.mark.long
def test_a_package_offers_all_four_by_name(folder: Path) -> None:
    names = (
        "model.name=toy",
        "federation.strategy=toy",
        "uplink.compressor=toy",
        "data.name=toy",
        "data.test_fraction=0.25",
        "federation.rounds=25",
        "federation.server_learning_rate=4",
    )
    summary = simulate(folder, "package", *names, installed=True)
    assert summary["parameters"] == 6 * 16 + 16 + 16 * 2 + 2 + 6 * 2 + 2
    accuracy = summary["accuracy"]
    assert isinstance(accuracy, dict) and min(accuracy["deep"], accuracy["shallow"]) > 0.7
