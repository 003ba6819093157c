from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedlite.commands.main import app

TINY = """
[federation]
rounds = 2
sites = 3
[model]
name = "mlp"
[data]
test_fraction = 0.2
"""


def call(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def swept(folder: Path) -> tuple[Path, Result]:
    (folder / "tiny.toml").write_text(TINY)
    done = call(
        "sweep",
        str(folder / "tiny.toml"),
        "--set",
        "training.learning_rate=0.1,1e30",
        "--seeds",
        "1-2",
        "--out",
        str(folder / "sweep"),
    )
    return folder / "sweep", done


@pytest.mark.long
def test_a_sweep_tells_each_trial_and_fails_where_one_does(swept: tuple[Path, Result]) -> None:
    directory, done = swept
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith("trial 1/4  001-learning_rate=0.1-seed=1  done")
    assert lines[2].startswith("trial 3/4  003-learning_rate=1e30-seed=1  failed: federation.")
    assert lines[4].startswith("fedlite: 2 of 4 trials failed: 003-learning_rate=1e30-seed=1, 004-")
    assert f"fedlite sweep --resume {directory}" in lines[-1]
    assert "accuracy" in done.stdout and str(directory / "compare.html") in done.stdout
    assert (directory / "compare.html").is_file()


def test_a_sweep_is_not_overwritten_and_goes_on_only_as_it_began(
    swept: tuple[Path, Result],
) -> None:
    directory, _ = swept
    scenario = str(directory.parent / "tiny.toml")
    refused = call("sweep", scenario, "--seeds", "1-2", "--out", str(directory))
    assert refused.exit_code == 2 and "no sweep is overwritten" in refused.stderr
    refused = call("sweep", "--resume", str(directory), "--seeds", "1-3")
    assert refused.exit_code == 2 and "a sweep goes on as it began" in refused.stderr
    done = call("sweep", "--resume", str(directory), "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 1 and len(told["failed"]) == 2 and len(told["groups"]) == 1


def test_compare_takes_a_sweep_and_single_runs(swept: tuple[Path, Result]) -> None:
    directory, _ = swept
    runs = sorted(str(path) for path in directory.glob("00[12]*"))
    out = directory.parent / "beside"
    told = json.loads(call("compare", *runs, "--out", str(out), "--json").stdout)
    assert told["groups"][0]["seeds"] == [1, 2] and Path(told["page"]).parent == out
    both = call("compare", str(directory))
    assert both.exit_code == 0 and "Not finished, and left out: 003" in both.stdout.replace(
        "\n", " "
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "{tmp}"], "needs at least one finished run"),
        (["compare", "{tmp}/none"], "no such directory"),
        (["sweep", "nothing"], "must be one of"),
        (["sweep", "--engine", "fast"], "--engine: must be one of"),
        (["sweep", "--range", "training.epochs=1:4"], "--search: must be optuna"),
        (["sweep", "--search", "grid", "--range", "training.epochs=1:4"], "must be optuna"),
        (["sweep", "--search", "optuna"], "needs a range to search"),
        (
            "sweep --search optuna --set model.name=mlp,cnn --range training.epochs=1:4".split(),
            "must have one value in a search",
        ),
        (["sweep", "--resume", "{tmp}"], "no sweep.json there"),
        (["sweep", "--set", "training.epochs=0,1"], "trial 001-epochs=0: training.epochs"),
    ],
)
def test_a_wrong_call_says_what_and_how_to_mend_it(
    words: list[str], said: str, tmp_path: Path
) -> None:
    done = call(*(word.format(tmp=tmp_path) for word in words))
    assert done.exit_code == 2 and said in done.stderr, done.stderr
    assert done.stderr.startswith("fedlite: ") and "Traceback" not in done.stderr
