"""What a tracker is, the trackers by name, and all of a run's trackers as one.

They are told what `rounds.jsonl` and `summary.json` hold, by the server or the simulation, and
never by a site. All write files on this machine: nothing is sent anywhere.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from fedlite.reporting.flat import Row, row_of
from fedlite.reporting.record import RoundRecord
from fedlite.settings import Value

log = logging.getLogger("fedlite.server")

# By name: the package that a tracker needs, and the extra of fedlite that installs it.
NAMES = {"csv": "", "tensorboard": "tensorboard", "mlflow": "mlflow"}


class Tracker(Protocol):
    """Something that is told of a run as it goes on. Any error ends its part, never the run."""

    def start(self, name: str, settings: Mapping[str, Value]) -> None:
        """Begin; settings: dotted keys of the scenario that a reader must know.

        Whatever an interrupted start of the same run has left is to be replaced: the rounds before
        are told again.
        """

    def round(self, row: Row) -> None:
        """Take a finished round, as `fedlite.reporting.flat` writes it."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Take the summary, once all rounds are over."""


def check(names: Iterable[str]) -> None:
    """Raise ValueError, naming the extra, where a tracker's library is not installed."""
    for name in names:
        if NAMES[name] and importlib.util.find_spec(NAMES[name]) is None:
            raise ValueError(
                f"report.trackers: {name} needs a library that is not installed; pip install "
                f"'fedlite[{name}]', or leave it out"
            )


def make(name: str, directory: Path) -> Tracker:
    """Return the tracker called `name` for the run in `directory`; its library is loaded."""
    if name == "csv":
        from fedlite.reporting.trackers.csv_file import CsvFile

        return CsvFile(directory)
    if name == "tensorboard":
        from fedlite.reporting.trackers.tensorboard_events import TensorBoardEvents

        return TensorBoardEvents(directory)
    from fedlite.reporting.trackers.mlflow_store import MlflowStore

    return MlflowStore(directory)


class Trackers:
    """All trackers of a run: each is told everything, until it fails for the first time."""

    def __init__(self, names: Iterable[str], directory: Path) -> None:
        """Make the trackers called `names`; one that cannot be made is warned of and left out."""
        self._kept: dict[str, Tracker] = {}
        for name in names:
            self._try(name, partial(self._add, name, directory))

    def start(
        self, name: str, settings: Mapping[str, Value], before: Iterable[RoundRecord]
    ) -> None:
        """Begin; before: the rounds of the run before it was interrupted."""
        self._tell(lambda tracker: tracker.start(name, settings))
        for record in before:
            self.round(record)

    def round(self, record: RoundRecord) -> None:
        """Tell of a finished round."""
        row = row_of(record)
        self._tell(lambda tracker: tracker.round(row))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Tell that the run is over."""
        self._tell(lambda tracker: tracker.finish(summary))

    def _add(self, name: str, directory: Path) -> None:
        self._kept[name] = make(name, directory)

    def _tell(self, what: Callable[[Tracker], object]) -> None:
        for name, tracker in list(self._kept.items()):
            self._try(name, partial(what, tracker))

    def _try(self, name: str, what: Callable[[], object]) -> None:
        try:
            what()
        except Exception as error:  # whatever another library raises
            self._kept.pop(name, None)
            log.warning(
                "report.trackers: %s fails (%s: %s); the run goes on without it",
                name,
                type(error).__name__,
                error,
            )
