"""Every figure of every round as a run of MLflow, in `mlflow.db` beside the run directories.

`mlflow ui --backend-store-uri sqlite:///runs/mlflow.db` then shows all runs beside each other. It
is an SQLite file, as MLflow takes no folder any more; no server is asked, whatever `MLFLOW_*`
variables say.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from fedlite.reporting.flat import Row
from fedlite.settings import Value

FILE = "mlflow.db"
_TAG = "fedlite.directory"


class MlflowStore:
    """A run of the experiment that is called as the scenario; its metrics are named as scores."""

    def __init__(self, directory: Path) -> None:
        """Take the run's directory and load MLflow."""
        # It would tell its makers of every use.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._directory = directory.absolute()
        store = self._directory.parent / FILE
        # Two processes that make its tables at once would spoil each other's.
        with FileLock(store.with_suffix(".db.lock")):
            self._client = MlflowClient(tracking_uri=f"sqlite:///{store}")
        self._run = ""

    def start(self, name: str, settings: Mapping[str, Value]) -> None:
        """Begin a run, in place of any that an interrupted start has left."""
        from mlflow.entities import Param

        found = self._client.get_experiment_by_name(name)
        artifacts = self._directory.parent / "mlflow"
        experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment(name, artifact_location=artifacts.as_uri())
        )
        # A path may hold quotes, for which filters have no safe form.
        tag = hashlib.sha256(str(self._directory).encode()).hexdigest()
        for left in self._client.search_runs([experiment], f"tags.`{_TAG}` = '{tag}'"):
            self._client.delete_run(left.info.run_id)
        run = self._client.create_run(experiment, tags={_TAG: tag}, run_name=self._directory.name)
        self._run = run.info.run_id
        told = [Param(key, str(value)) for key, value in settings.items()]
        self._client.log_batch(self._run, params=told)

    def round(self, row: Row) -> None:
        """Add each figure that the round has; its step is the round."""
        from mlflow.entities import Metric

        now, step = int(1000 * time.time()), int(row["round"] or 0)
        figures = {key: value for key, value in row.items() if value is not None and key != "round"}
        metrics = [Metric(key, float(value), now, step) for key, value in figures.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the run."""
        self._client.set_terminated(self._run)
