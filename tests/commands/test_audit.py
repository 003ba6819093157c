"""`fedlite audit ledgers`: exit codes, one JSON object, the page, and what it does without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedlite.commands.main import app
from tests.privacy.federation import World

ROOT = Path(__file__).resolve().parents[1]
# What an auditor's machine need not have.
HEAVY = ("torch", "flwr", "opacus", "matplotlib")
WITHOUT = f"""
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"{{name}} is not on this machine")

sys.meta_path.insert(0, Missing())
from fedlite.cli import main
main()
"""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("honest"), sites=2, rounds=3)


@pytest.fixture
def world(honest: World, tmp_path: Path) -> World:
    return honest.move(tmp_path / "world")


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["audit", "ledgers", *map(str, words)])


def test_a_clean_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = call(world.run)
    assert result.exit_code == 0
    rows = [line.split() for line in result.output.splitlines() if " site-1 " in line[:12]]
    assert rows[0][:2] == ["site-1", "3"] and rows[0][-1] == "clean"
    assert "data set digits" in result.output
    assert "site-2: clean. 3 releases cost at most epsilon 0.7" in result.output
    assert "Clean: 2 ledgers checked, no finding." in result.output
    table = [line for line in result.output.splitlines() if "clean" in line and "/ 3" in line]
    assert len(table) == 2 and all(len(line.rstrip()) <= 80 for line in table)


def test_json_is_one_object_and_nothing_else(world: World) -> None:
    value = json.loads(call(world.run, "--json").stdout)
    assert set(value) == {
        "checked",
        "clean",
        "findings",
        "format",
        "libraries",
        "notes",
        "page",
        "runs",
        "sites",
        "unchecked",
        "verdict",
    }
    assert value["clean"] is True and len(value["sites"]) == 2
    assert value["runs"][0]["unit"] == "record"


def test_a_finding_fails(world: World) -> None:
    world.copy_of(world.sites[0]).write_bytes(b"")
    result = call(world.run)
    assert result.exit_code == 1
    assert "NOT clean" in result.output and "empty" in result.output
    failed = call(world.run, "--json")
    assert failed.exit_code == 1
    (finding,) = [f for f in json.loads(failed.stdout)["findings"] if f["rule"] == "empty"]
    assert finding["path"] == str(world.copy_of(world.sites[0]))
    assert finding["means"] and finding["mend"]


def test_what_is_not_there_fails_and_wrong_use_is_told_apart(tmp_path: Path) -> None:
    assert call(tmp_path / "nowhere").exit_code == 2
    assert call().exit_code == 2
    assert call(tmp_path, "--fast").exit_code == 2


def test_a_key_that_is_known_from_elsewhere_is_asked_for(world: World) -> None:
    assert world.server.public in call(world.run).output
    assert call(world.run, "--witness-key", world.server.public).exit_code == 0
    other = call(world.run, "--witness-key", "ab" * 32)
    assert other.exit_code == 1 and "other-witness" in other.output
    both = call(world.run, "--witness-key", "ab" * 32, "--witness-key", world.server.public)
    assert both.exit_code == 0
    wrong = call(world.run, "--witness-key", "AB")
    assert wrong.exit_code == 2 and "64 lower-case hex digits" in wrong.output


def test_a_run_that_is_not_closed_is_not_clean_and_says_so(world: World) -> None:
    world.write_witness(world.witness_lines(), close=False)
    result = call(world.run)
    assert result.exit_code == 1
    output = " ".join(result.output.split())
    assert "NOT closed: no finding, but 1 run without the server's closing line" in output
    assert "site-1: no finding, but its run is NOT closed." in output
    assert "not closed: the server has not signed that this run is over" in output
    value = json.loads(call(world.run, "--json").stdout)
    assert value["clean"] is False and value["findings"] == []
    assert [issue["rule"] for issue in value["unchecked"]] == ["not-closed"]
    assert {site["verdict"] for site in value["sites"]} == {"not closed"}
    page = (world.run / "audit.html").read_text()
    assert "not closed: the server has not signed" in page and ">fedlite audit: not closed<" in page


def test_the_page_goes_into_the_one_run_directory(world: World) -> None:
    page = world.run / "audit.html"
    assert json.loads(call(world.run, world.sites[0].home, "--json").stdout)["page"] == str(page)
    assert page.read_text().startswith("<!DOCTYPE html>")
    page.unlink()
    call(world.run / "ledgers" / "site-1.jsonl")
    call(world.root)
    assert not page.exists()


def test_the_page_goes_where_it_is_sent(world: World, tmp_path: Path) -> None:
    page = tmp_path / "mine.html"
    assert call(world.sites[0].path, "--html", page).exit_code == 0
    assert "<svg" in page.read_text()
    assert not (world.run / "audit.html").exists()


def test_nothing_of_another_kind_is_overwritten(world: World, tmp_path: Path) -> None:
    other = tmp_path / "report.html"
    other.write_text("<title>mine</title>")
    result = call(world.run, "--html", other)
    assert result.exit_code == 2 and "not overwritten" in result.output
    (world.run / "audit.html").write_text("<title>mine</title>")
    result = call(world.run)
    assert result.exit_code == 0 and "no page was written" in result.output
    assert other.read_text() == (world.run / "audit.html").read_text() == "<title>mine</title>"


def test_it_reads_and_nothing_else(world: World) -> None:
    before = {path: path.read_bytes() for path in world.root.rglob("*") if path.is_file()}
    call(world.root, world.sites[0].path)
    assert {p: p.read_bytes() for p in world.root.rglob("*") if p.is_file()} == before


@pytest.mark.long
@pytest.mark.parametrize("words", [["audit", "--help"], ["audit", "ledgers"]])
def test_it_runs_on_a_machine_without_torch_and_flower(world: World, words: list[str]) -> None:
    spoilt = world.run if "ledgers" in words else None
    command = [sys.executable, "-c", WITHOUT, *words, *([str(spoilt)] if spoilt else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if spoilt:
        assert "Clean: 2 ledgers checked, no finding." in done.stdout
        assert (world.run / "audit.html").is_file()
        assert "prv-accountant" in done.stdout and "not computed" not in done.stdout
