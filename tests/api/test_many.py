from __future__ import annotations

from pathlib import Path

import pandas
import pytest

import fedlite
from fedlite.scenario import ScenarioError

TINY = {
    "federation": {"name": "tiny", "rounds": 2, "sites": 3},
    "model": {"name": "mlp"},
    "training": {"steps": 2},
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> fedlite.Sweep:
    return fedlite.sweep(
        TINY,
        tmp_path_factory.mktemp("api") / "sweep",
        set={"training.learning_rate": [0.1, 1e30], "training.epochs": 1},
        seeds=range(1, 3),
        engine="serial",
    )


@pytest.mark.long
def test_a_sweep_has_its_runs_and_names_what_failed(swept: fedlite.Sweep) -> None:
    assert [run.summary["seed"] for run in swept.runs] == [1, 2]
    assert sorted(name.split("-")[0] for name in swept.failed) == ["003", "004"]
    assert all("no update was ever accepted" in error for error in swept.failed.values())


def test_a_shell_shows_the_verdict_and_not_every_figure(swept: fedlite.Sweep) -> None:
    told = repr(swept.compare())
    assert told.startswith("<Compared: tiny. ") and len(told) < 500
    audit = fedlite.audit_ledgers(swept.runs[0].directory)
    assert repr(audit) == f"<Audit: {audit.verdict}>"


def test_the_same_sweep_is_taken_up_again_and_another_refused(swept: fedlite.Sweep) -> None:
    def moments(runs: tuple[fedlite.Run, ...]) -> list[int]:
        return [(run.directory / "summary.json").stat().st_mtime_ns for run in runs]

    before = moments(swept.runs)
    same = fedlite.sweep(
        TINY,
        swept.directory,
        set={"training.learning_rate": [0.1, 1e30], "training.epochs": 1},
        seeds=[1, 2],
        engine="serial",
    )
    assert same == swept
    assert moments(same.runs) == before
    with pytest.raises(ScenarioError, match="no sweep is overwritten"):
        fedlite.sweep(TINY, swept.directory, seeds=[3])


def test_runs_are_compared_however_they_are_given(swept: fedlite.Sweep, tmp_path: Path) -> None:
    one, two = swept.runs
    for given in (
        swept,
        [one, two],
        [one.directory, str(two.directory)],
        [swept.directory],
        swept.directory,
    ):
        found = fedlite.compare(given)  # type: ignore[arg-type]
        table = pandas.DataFrame(found.rows)
        assert table["seeds"].tolist() == [2]
        mean = (one.summary["accuracy"]["deep"] + two.summary["accuracy"]["deep"]) / 2
        assert table["score"].tolist() == [pytest.approx(mean)]
    shallow = (one.summary["accuracy"]["shallow"] + two.summary["accuracy"]["shallow"]) / 2
    other = fedlite.compare(swept, score="accuracy.shallow").rows[0]["score"]
    assert other == pytest.approx(shallow)
    assert found.best == "tiny"
    assert found.save(tmp_path).read_text().startswith("<!DOCTYPE html>")
    assert len(found.figure().axes) == 1
    with pytest.raises(ValueError, match=r"kind: must be one of curves, pareto"):
        found.figure("pie")
    assert "data:image/png;base64," in found._repr_html_()
    assert "setting" in swept._repr_html_()
