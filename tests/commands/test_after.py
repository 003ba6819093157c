"""`fedlite predict` and `fedlite evaluate`, as a person calls them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedlite.commands.main import app
from tests.evaluation.conftest import make, table


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("after"), "classification")


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_answers_are_shown_and_written(run: Path, tmp_path: Path) -> None:
    people, out = table(tmp_path / "new.csv", 25, seed=5), tmp_path / "answers.csv"
    done = call("predict", run, people)
    assert done.exit_code == 0 and "the first 10 of 25; --out FILE.csv writes all" in done.output
    assert "p(yes)" in done.output and "scaled by the mean and spread" in done.output
    done = call("predict", run, people, "--out", out, "--branch", "shallow", "--json")
    told = json.loads(done.stdout)
    assert told["branch"] == "shallow" and len(told["rows"]) == 25 and told["out"] == str(out)
    with out.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["label"] for row in rows] == [row["label"] for row in told["rows"]]


def test_the_file_that_is_read_is_never_overwritten(run: Path, tmp_path: Path) -> None:
    people = table(tmp_path / "new.csv", 5)
    before = people.read_text()
    done = call("predict", run, people, "--out", people)
    assert done.exit_code == 2 and "--out: must not be the file that is read" in done.output
    assert people.read_text() == before


@pytest.mark.long
def test_an_evaluation_writes_its_page(run: Path, tmp_path: Path) -> None:
    people = table(tmp_path / "new.csv", 200, seed=5)
    words = ("--group", "sex", "--corrupt", "noise,missing", "--out", tmp_path / "page")
    done = call("evaluate", run, people, *words)
    assert done.exit_code == 0, done.output
    assert "false positive rate of yes" in done.output and "severity 3" in done.output
    told = json.loads(call("evaluate", run, people, *words, "--json").stdout)
    assert told["written"]["page"] == str(tmp_path / "page" / "evaluation.html")
    assert (tmp_path / "page" / "evaluation.html").is_file()
    assert told["records"] == 200 and set(told["corruptions"]) == {"noise", "missing"}


def test_without_a_file_it_is_what_the_run_held_out(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    told = json.loads(call("evaluate", run, "--json").stdout)
    found = told["scores"]["deep"]["accuracy"]
    assert found == pytest.approx(summary["accuracy"]["deep"])
    assert told["records"] == summary["accuracy"]["records"]
    assert (run / "evaluation" / "evaluation.json").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--corrupt", "blur"], "--corrupt: must be among noise"),
        (["--branch", "wide"], "--branch: must be one of shallow, deep"),
        (["--group", "size"], "must have one column 'size'"),
    ],
)
def test_a_wrong_call_is_told(run: Path, words: list[str], told: str) -> None:
    done = call("evaluate", run, *words)
    assert done.exit_code == 2 and told in done.output and "Traceback" not in done.output


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    for words in (("predict", tmp_path, "x.csv"), ("evaluate", tmp_path)):
        done = call(*words)
        assert (
            done.exit_code == 2 and "give the directory of a run that has finished" in done.output
        )
