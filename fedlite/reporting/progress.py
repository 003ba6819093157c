"""One line that says how far a run is: live on a terminal, a few plain lines in a log."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from fedlite.reporting import measures, notebook, wording
from fedlite.reporting.record import RoundRecord

if TYPE_CHECKING:
    from rich.live import Live

RECENT = 7  # rounds whose median tells the time left: one slow round must not move it
SPARED = ("shallow", "down", "up")  # what a narrow terminal does without, in this order
_GAP = "  "
LINES = 10  # plain lines for a run, beside the first and the last


class Progress:
    """Show a run's rounds on `stream` (stderr unless given), so that stdout stays clean.

    `rounds` is how many there will be (>= 1); `budget` the epsilon that no site may exceed, or
    None. With `quiet` nothing is written. On a terminal there is one live line, redrawn only by
    `update` and `status`: no thread runs, so worker processes may be forked meanwhile.

    >>> import io
    >>> stream = io.StringIO()
    >>> with Progress(1, 3.0, stream=stream) as progress:
    ...     record = RoundRecord(1, 5, accuracy={"deep": 0.912, "shallow": 0.901}, epsilon=1.87)
    ...     progress.update(record, {"up": 90_000, "down": 120_000})
    >>> stream.getvalue().split("  in ")[0]
    'round 1/1  deep 91.2 %  shallow 90.1 %  up 0.090 MB  down 0.12 MB  epsilon so far 1.87 of 3.00'
    """

    def __init__(
        self,
        rounds: int,
        budget: float | None = None,
        *,
        stream: TextIO | None = None,
        quiet: bool = False,
    ) -> None:
        """Remember what to show; nothing is written before the first `status` or `update`."""
        if rounds < 1:
            raise ValueError(f"rounds: must be at least 1, is {rounds}; pass the run's round count")
        self._rounds, self._budget, self._quiet = rounds, budget, quiet
        self._stream = sys.stderr if stream is None else stream
        self._step = math.ceil(rounds / LINES)
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._quality: dict[str, str] = {}
        self._dropped = self._missing = 0
        self._jump = ""
        self._started, self._said, self._first = time.monotonic(), "", True
        self._live: Live | None = None
        self._changing: Callable[[str], None] | None = None

    def __enter__(self) -> Self:
        """Start the clock, and the live line when the stream is a terminal."""
        self._started = time.monotonic()
        if not self._quiet and self._stream is sys.stderr and notebook.in_notebook():
            self._changing = notebook.changing_line()
        elif not self._quiet and self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream)
            if not console.is_dumb_terminal:  # one that cannot redraw a line is written to as a log
                # stdout is left alone: it belongs to `--json` and to the last table.
                self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)
                self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last line standing and give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def status(self, text: str) -> None:
        """Say what is done before or between rounds: one call a phase, not one a step."""
        if text != self._said:
            self._said = text
            self._say([text])

    def update(self, record: RoundRecord, totals: Mapping[str, float]) -> None:
        """Show a finished round; `totals` has the bytes so far under "up" and "down"."""
        self._seconds.append(record.seconds)
        self._dropped += len(record.dropped)
        self._missing += len(record.missing)
        self._quality = _quality(record) or self._quality
        last = record.round >= self._rounds
        if record.jump:
            self._jump = f"round {record.round} moved the model {record.jump:.2g} times as far"
        due = self._first or bool(record.jump) or last or record.round % self._step == 0
        self._first = False
        if self._live is not None or self._changing is not None or due:
            self._say(self._line(record, totals, last))

    def _line(self, record: RoundRecord, totals: Mapping[str, float], last: bool) -> list[str]:
        width = len(str(self._rounds))
        parts = {"round": f"round {record.round:>{width}}/{self._rounds}", **self._quality}
        for way in ("up", "down"):
            parts[way] = f"{way} {wording.megabytes(totals[way])}"
        if record.epsilon is not None:
            limit = "" if self._budget is None else f" of {wording.budget(self._budget)}"
            parts["epsilon"] = f"epsilon so far {wording.epsilon(record.epsilon)}{limit}"
        if self._dropped:
            parts["dropped"] = f"{self._dropped} dropped so far"
        if self._missing:
            parts["missing"] = f"{self._missing} missing so far"
        if self._jump:
            parts["jump"] = self._jump
        if last:
            parts["time"] = f"in {wording.duration(time.monotonic() - self._started)}"
        else:
            left = median(self._seconds) * (self._rounds - record.round)
            parts["time"] = f"{wording.duration(left)} left"
        if self._live is not None:
            for name in SPARED:
                if len(_GAP.join(parts.values())) >= self._live.console.width:
                    parts.pop(name, None)
        return list(parts.values())

    def _say(self, parts: list[str]) -> None:
        if self._quiet:
            return
        line = wording.plain(_GAP.join(parts))
        if self._changing is not None:
            self._changing(line)
        elif self._live is not None:
            from rich.text import Text

            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            self._stream.write(line + "\n")
            self._stream.flush()


def _quality(record: RoundRecord) -> dict[str, str]:
    if not record.measured:
        return {}
    first = measures.main(record.measured)
    figures = record.measured[first.key]
    named = "" if first.key == "accuracy" and "shallow" in figures else f"{first.name} "
    told = {"deep": f"{named}deep {first.say(figures.get('deep'))}"}
    if "shallow" not in figures:
        return {"deep": f"{first.name} {first.say(figures.get('deep'))}"}
    return told | {"shallow": f"shallow {first.say(figures['shallow'])}"}
