"""A written project runs as it stands: its scenario, and its own test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedlite.project import SCHEMA, templates, write
from fedlite.scenario import load

ROOT = Path(__file__).resolve().parents[1]


def call(folder: Path, *words: str) -> str:
    """Run Python in a folder, as somebody who has fedlite installed would."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("template", templates())
def test_its_own_test_passes_and_its_scenario_runs(template: str, tmp_path: Path) -> None:
    folder = tmp_path / "clinics"
    files = write(folder, template)
    assert {path.name for path in files} >= {"scenario.toml", "model.py", "test_project.py"}
    assert {path.name for path in files} == {path.name for path in folder.iterdir()}
    assert "2 passed" in call(folder, "-m", "pytest", "-p", "no:cacheprovider")
    main = "from fedlite.cli import main; main()"
    short = ("--rounds", "1", "--engine", "serial", "--json")
    told = json.loads(call(folder, "-c", main, "simulate", "scenario.toml", *short))
    assert told["scenario"] == "clinics" and (folder / "runs" / "clinics").is_dir()


@pytest.mark.parametrize("name", ['a"quoted\\one', "plain name", "ünïcode"])
def test_any_name_of_a_folder_makes_a_scenario(name: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    assert load(tmp_path / name / "scenario.toml").federation.name == name
    hidden = tmp_path / ".hidden"
    write(hidden)
    assert load(hidden / "scenario.toml").federation.name == "project"


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.md").write_text("years of work")
    with pytest.raises(ValueError, match=r"must be empty or not there yet.*holds thesis\.md"):
        write(tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.md"]
    with pytest.raises(ValueError, match=r"is no folder"):
        write(tmp_path / "full" / "thesis.md")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"is no folder"):
        write(tmp_path / "link")
    assert write(tmp_path / "empty")


def test_an_unknown_template_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--template: must be one of images, table, got 'tabel'"):
        write(tmp_path / "new", "tabel")
    assert not (tmp_path / "new").exists()


def test_the_editor_finds_the_schema(tmp_path: Path) -> None:
    write(tmp_path / "new")
    first = (tmp_path / "new" / "scenario.toml").read_text().splitlines()[0]
    assert first == f"#:schema ./{SCHEMA}"
    assert json.loads((tmp_path / "new" / SCHEMA).read_text())["properties"]["training"]
