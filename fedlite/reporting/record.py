"""The record of a run: one row a round, one summary at the end, both plain JSON.

`rounds.jsonl` holds one `RoundRecord` a line; `summary.json` holds what `summarize` returns.
Everything that people look at (progress line, table, figure, report page) is drawn from these two
files and nothing else, so a report can be made again from a run directory years later.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedlite.storage import write_atomic

ROUNDS = "rounds.jsonl"
SUMMARY = "summary.json"
STATISTICS = "statistics.json"
# Only in a deployment: until its first round, whom a run waits for; why a run failed, and will
# fail again.
GATHERING = "gathering.txt"
FAILURE = "failed.json"
# The two kinds of sites, by what they train.
WEAK, WHOLE = "shallow branch", "whole model"


@dataclass(frozen=True)
class RoundRecord:
    """What happened in one round, as the server saw it.

    `accuracy` and `auc` map `"deep"` and `"shallow"` to a share in [0, 1] on held-out data; both
    are empty in a round that was not evaluated, and each unless the task has such a score. `scores`
    does the same for a task's other scores, by name.
    Byte counts are `len()` of the payloads that were sent; the dense ones are what float32 vectors
    would have taken for the same messages. `epsilon` is what the steps so far cost
    at the site that was asked most often, had their number been fixed beforehand (pessimistic PLD,
    exact before the last step where every record is in every step; None when no privacy is
    claimed): the bound is the whole plan's, in the summary. `dropped` maps
    a site to the code for which its reply was not used; `missing` names sites that had not replied
    by the deadline.

    Who took part is said by what differs: `joined` names the sites that were first there in this
    round; `out` maps a site that could not be asked to "offline", "resting" (`server.attendance`),
    "spent" or, where too few others were left for its secure sum, "group"; `asked` names those that
    were drawn, where not all others were. Whoever was asked and is neither dropped nor missing was
    used, unless the secure sum that it was in came to nothing.

    `kinds` is there where some sites train the shallow branch alone: for these and for the others,
    how many updates were used, the bytes both ways and, in a simulation, the processor seconds.

    `cut` maps a site to how many times as long its update was as what it was cut to, where no
    honest one is. `median` is the usual L2 norm of an update, 0 where there is none to be told
    (with `kinds`, of its shallow part, and `median_tail` that of the rest);
    `moved` is that of what the round changed in the model, and `jump` how many times as far as
    usual that was, 0 unless it is out of all proportion. `slowest` is the seconds that the last
    update to be used took, in a deployment. `product_error` is how far, relative to it, the mean of
    the products of trained factors is from the product of their means (`server.products`); None
    where the model has none, or a server that is trusted with clear updates may not tell.
    """

    round: int
    accepted: int
    dropped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    accuracy: dict[str, float] = field(default_factory=dict)
    auc: dict[str, float] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    dense_up: int = 0
    dense_down: int = 0
    epsilon: float | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    joined: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    out: dict[str, str] = field(default_factory=dict)
    cut: dict[str, float] = field(default_factory=dict)
    median: float = 0.0
    median_tail: float = 0.0
    moved: float = 0.0
    jump: float = 0.0
    slowest: float = 0.0
    product_error: float | None = None
    kinds: dict[str, dict[str, float]] = field(default_factory=dict)
    simulated_seconds: float = 0.0
    late: list[str] = field(default_factory=list)
    staleness: float = 0.0

    @property
    def measured(self) -> dict[str, dict[str, float]]:
        """All scores by name and branch, those that there are."""
        found = {"accuracy": self.accuracy, "auc": self.auc, **self.scores}
        return {name: figures for name, figures in found.items() if figures}


def append_round(directory: Path, record: RoundRecord) -> None:
    """Add one line to `rounds.jsonl`, durably: the checkpoint that follows counts on it."""
    with (directory / ROUNDS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record), sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_rounds(directory: Path) -> list[RoundRecord]:
    """Return the rounds of a run directory, oldest first; a torn last line is left out.

    Raises ValueError when another line is not the record of a round.
    """
    path = directory / ROUNDS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    # A line without its newline was being written when the process died: that round will run again.
    try:
        return [RoundRecord(**json.loads(line)) for line in lines[:-1]]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: a line is not the record of a round ({error}); restore the file from a copy, "
            "or run the scenario again"
        ) from error


def rewrite_rounds(directory: Path, records: Iterable[RoundRecord]) -> None:
    """Replace `rounds.jsonl` (on resume, rounds after the checkpoint are run again)."""
    text = "".join(json.dumps(asdict(record), sort_keys=True) + "\n" for record in records)
    write_atomic(directory / ROUNDS, text.encode())


def total_bytes(records: Iterable[RoundRecord]) -> dict[str, float]:
    """Sum the byte counts over rounds; a ratio is dense float32 bytes over sent bytes.

    >>> total_bytes([RoundRecord(1, 1, bytes_up=10, dense_up=400, bytes_down=20, dense_down=400)])
    {'up': 10, 'down': 20, 'dense_up': 400, 'dense_down': 400, 'up_ratio': 40.0, 'down_ratio': 20.0}
    """
    rows = list(records)
    up, down = sum(r.bytes_up for r in rows), sum(r.bytes_down for r in rows)
    dense_up, dense_down = sum(r.dense_up for r in rows), sum(r.dense_down for r in rows)
    return {
        "up": up,
        "down": down,
        "dense_up": dense_up,
        "dense_down": dense_down,
        "up_ratio": round(dense_up / up, 2) if up else 0.0,
        "down_ratio": round(dense_down / down, 2) if down else 0.0,
    }


def encode_summary(summary: Mapping[str, Any]) -> bytes:
    """Return the bytes of `summary.json`; raises ValueError for a number that is not finite."""
    return json.dumps(summary, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def write_summary(directory: Path, summary: Mapping[str, Any]) -> None:
    """Write `summary.json` atomically."""
    write_atomic(directory / SUMMARY, encode_summary(summary))


def write_statistics(directory: Path, found: Mapping[str, Any]) -> None:
    """Write what a question for figures of tables has found, its columns in their own order."""
    text = json.dumps(found, indent=2, allow_nan=False) + "\n"
    write_atomic(directory / STATISTICS, text.encode())


def read_summary(directory: Path) -> dict[str, Any]:
    """Return the summary of a finished run.

    Raises ValueError when the directory holds none, with what to do instead.
    """
    path = directory / SUMMARY
    if not path.is_file():
        mend = (
            f"the run has not finished: fedlite simulate --resume {directory}"
            if (directory / "scenario.toml").exists()
            else "give the directory of a run, for example runs/quickstart"
        )
        raise ValueError(f"{path}: no summary here; {mend}")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded
