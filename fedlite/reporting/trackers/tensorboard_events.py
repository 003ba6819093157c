"""Every figure of every round as TensorBoard's events, in the run directory's `tensorboard/`.

`tensorboard --logdir runs` then shows all runs beside each other. TensorFlow is not needed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlite.reporting.flat import Row
from fedlite.settings import Value

FOLDER = "tensorboard"


class TensorBoardEvents:
    """One file of events; the tag of `accuracy.deep` is `accuracy/deep`, its step the round."""

    def __init__(self, directory: Path) -> None:
        """Take the run's directory; nothing is written yet."""
        self._folder = directory / FOLDER
        self._writer: Any = None

    def start(self, name: str, settings: Mapping[str, Value]) -> None:
        """Begin a file, in place of any that an interrupted start has left."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        for left in self._folder.glob("events.out.tfevents.*"):
            left.unlink()
        self._writer = EventFileWriter(str(self._folder))
        lines = [f"    {key} = {value!r}" for key, value in settings.items()]
        self._text("settings", "\n".join(lines))

    def round(self, row: Row) -> None:
        """Add each figure that the round has; flushed, so that one can watch."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        figures = {key: value for key, value in row.items() if value is not None and key != "round"}
        values = [
            Summary.Value(tag=key.replace(".", "/"), simple_value=float(value))
            for key, value in figures.items()
        ]
        self._add(int(row["round"] or 0), Summary(value=values))
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close the file."""
        self._writer.close()

    def _text(self, tag: str, text: str) -> None:
        from tensorboard.plugins.text.summary import text_pb

        self._add(0, text_pb(tag, text))

    def _add(self, step: int, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
