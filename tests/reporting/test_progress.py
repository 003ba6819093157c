"""The progress line: few plain lines in a log, one live line on a terminal, silence when asked."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from fedlite.reporting.progress import Progress
from fedlite.reporting.record import RoundRecord


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Return True, as a terminal does."""
        return True


RECORD = RoundRecord(1, 5, accuracy={"deep": 0.912, "shallow": 0.901}, epsilon=1.8612, seconds=2.0)
TOTALS = {"up": 90_000.0, "down": 104_000.0}


def show(rounds: int, stream: io.StringIO, start: int = 1, quiet: bool = False) -> list[str]:
    with Progress(rounds, 3.0, stream=stream, quiet=quiet) as progress:
        progress.status("computing fixed features at 5 sites")
        for i in range(start, rounds + 1):
            progress.update(replace(RECORD, round=i), TOTALS)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("rounds", [1, 2, 9, 10, 11, 19, 30, 99, 100, 101, 1000])
def test_a_log_gets_at_most_twelve_lines_and_always_the_last_round(rounds: int) -> None:
    lines = show(rounds, io.StringIO())
    assert lines[0] == "computing fixed features at 5 sites"
    assert 1 <= len(lines) - 1 <= 12
    assert lines[-1].startswith(f"round {rounds}/{rounds}  ")
    assert len({line.split("  deep")[0] for line in lines}) == len(lines)


def test_a_line_says_everything_and_rounds_epsilon_up() -> None:
    line = show(30, io.StringIO())[1]
    assert line == (
        "round  1/30  deep 91.2 %  shallow 90.1 %  up 0.090 MB  down 0.10 MB  "
        "epsilon so far 1.87 of 3.00  0:58 left"
    )


def test_time_left_is_the_median_so_one_slow_round_does_not_move_it() -> None:
    stream = io.StringIO()
    with Progress(10, stream=stream) as progress:
        for i, seconds in enumerate([2.0, 2.0, 2.0, 300.0, 2.0], start=1):
            progress.update(replace(RECORD, round=i, seconds=seconds), TOTALS)
    assert stream.getvalue().splitlines()[-1].endswith("0:10 left")


def test_an_unmeasured_round_keeps_the_last_figures_and_lost_updates_are_counted() -> None:
    stream = io.StringIO()
    with Progress(3, stream=stream) as progress:
        progress.update(RECORD, TOTALS)
        lost = RoundRecord(2, 3, dropped={"a": "size"}, missing=["b", "c"], seconds=1)
        progress.update(lost, TOTALS)
    last = stream.getvalue().splitlines()[-1]
    assert "deep 91.2 %" in last and "1 dropped so far  2 missing so far" in last
    assert "epsilon" not in last


def test_a_binary_task_shows_auc() -> None:
    stream = io.StringIO()
    with Progress(1, stream=stream) as progress:
        progress.update(replace(RECORD, auc={"deep": 0.8765, "shallow": 0.8}), TOTALS)
    assert "AUC deep 0.876  shallow 0.800" in stream.getvalue()


def test_quiet_writes_nothing() -> None:
    assert show(30, Terminal(), quiet=True) == []
    assert show(30, io.StringIO(), quiet=True) == []


def test_a_terminal_gets_one_line_that_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    show(30, stream)
    written = stream.getvalue()
    assert "round 17/30" in written, "every round is drawn"
    assert written.count("\n") <= 2, "the line is redrawn in place"
    assert written.rstrip().endswith("\x1b[?25h"), "the cursor is given back"


def test_the_terminal_is_given_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with pytest.raises(KeyError), Progress(3, stream=stream) as progress:
        progress.update(RECORD, TOTALS)
        raise KeyError("site")
    assert "\x1b[?25h" in stream.getvalue()


def test_a_narrow_terminal_cuts_the_line_instead_of_breaking_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    show(3, stream)
    assert "…" in stream.getvalue() and stream.getvalue().count("\n") <= 2


def test_a_terminal_of_eighty_columns_keeps_epsilon_and_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    show(30, stream)
    assert "epsilon so far 1.87 of 3.00  0:56 left" in stream.getvalue()
    assert "…" not in stream.getvalue() and "shallow" not in stream.getvalue()


def test_a_terminal_that_cannot_redraw_is_written_to_as_a_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    assert len(show(30, stream)) == 12 and "\x1b" not in stream.getvalue()


def test_a_resumed_run_speaks_at_once() -> None:
    lines = show(30, io.StringIO(), start=20)
    assert lines[1].startswith("round 20/30")


def test_rounds_must_be_positive() -> None:
    with pytest.raises(ValueError, match="rounds: must be at least 1, is 0"):
        Progress(0)
