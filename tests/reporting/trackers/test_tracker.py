"""What trackers write, read back with the readers of those who made the formats.

Covers fedlite/reporting/trackers/csv_file.py, fedlite/reporting/trackers/tensorboard_events.py,
fedlite/reporting/trackers/mlflow_store.py.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import pandas
import pytest

from fedlite.reporting.record import RoundRecord
from fedlite.reporting.trackers import NAMES, Trackers, check, tracker
from fedlite.reporting.trackers.csv_file import CsvFile
from fedlite.scenario import ScenarioError, from_dict

ROUNDS = [
    RoundRecord(1, 2, bytes_up=100),
    RoundRecord(2, 3, accuracy={"deep": 0.5}, bytes_up=90, epsilon=0.25),
    RoundRecord(3, 3, accuracy={"deep": 0.75}, bytes_up=80, epsilon=0.375),
]
SETTINGS = {"training.learning_rate": 0.1, "data.name": "o'digits"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    run = tmp_path / "it's a run"
    run.mkdir()
    return run


def play(names: list[str], directory: Path, rounds: list[RoundRecord], before: int = 0) -> None:
    told = Trackers(names, directory)
    told.start("small", SETTINGS, rounds[:before])
    for record in rounds[before:]:
        told.round(record)
    told.finish({"accuracy": {"deep": 0.75}})


def test_csv_holds_every_round_also_scores_that_come_later(directory: Path) -> None:
    play(["csv"], directory, ROUNDS)
    table = pandas.read_csv(directory / "rounds.csv")
    assert table["bytes_up"].tolist() == [100, 90, 80]
    assert table["accuracy.deep"].isna().tolist() == [True, False, False]
    assert table["epsilon"].dropna().tolist() == [0.25, 0.375]


def test_tensorboard_reads_what_was_written(directory: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    play(["tensorboard"], directory, ROUNDS)
    # A run that was interrupted after two rounds and resumed: nothing is there twice.
    play(["tensorboard"], directory, ROUNDS, before=2)
    found = EventAccumulator(str(directory / "tensorboard"))
    found.Reload()
    deep = found.Scalars("accuracy/deep")
    assert [(event.step, event.value) for event in deep] == [(2, 0.5), (3, 0.75)]
    assert [event.value for event in found.Scalars("bytes_up")] == [100.0, 90.0, 80.0]
    assert "epsilon" in found.Tags()["scalars"] and "round" not in found.Tags()["scalars"]
    (text,) = found.Tensors("settings")
    assert b"training.learning_rate = 0.1" in text.tensor_proto.string_val[0]


@pytest.mark.long
def test_mlflow_reads_what_was_written_and_a_resumed_run_is_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    # Whatever a user's variables say, nothing leaves this machine.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    play(["mlflow"], directory, ROUNDS[:2])
    play(["mlflow"], directory, ROUNDS, before=2)
    client = MlflowClient(tracking_uri=f"sqlite:///{directory.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == directory.name and run.info.status == "FINISHED"
    assert run.data.params == {"training.learning_rate": "0.1", "data.name": "o'digits"}
    history = client.get_metric_history(run.info.run_id, "accuracy.deep")
    assert [(metric.step, metric.value) for metric in history] == [(2, 0.5), (3, 0.75)]
    history = client.get_metric_history(run.info.run_id, "bytes_up")
    assert [metric.step for metric in history] == [1, 2, 3]


def test_a_tracker_that_fails_is_warned_of_once_and_left_out(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    class Broken(CsvFile):
        def round(self, row: object) -> None:
            calls.append(row)
            raise OSError("no space left")

    monkeypatch.setattr(
        tracker,
        "make",
        lambda name, folder: Broken(folder) if name == "mlflow" else CsvFile(folder),
    )
    with caplog.at_level(logging.WARNING):
        play(["mlflow", "csv"], directory, ROUNDS)
    assert len(calls) == 1 and len(caplog.records) == 1
    assert "mlflow fails (OSError: no space left); the run goes on" in caplog.text
    assert len(pandas.read_csv(directory / "rounds.csv")) == 3


def test_a_missing_library_is_refused_before_a_run_by_the_name_of_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check(["csv"])
    with pytest.raises(ValueError, match=r"tensorboard needs .*pip install 'fedlite\[tensorboard"):
        check(["csv", "tensorboard"])


@pytest.mark.parametrize("text", ["wandb", "csv,csv", "csv,", "CSV"])
def test_unknown_trackers_are_refused_by_the_key(text: str) -> None:
    with pytest.raises(ScenarioError, match=r"report.trackers: must be empty, or csv"):
        from_dict({"report": {"trackers": text}})


def test_the_key_knows_the_trackers() -> None:
    assert from_dict({"report": {"trackers": ", ".join(NAMES)}}).report.tracker_names == tuple(
        NAMES
    )
