"""Make a run's report again from its directory: read, check, draw, write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlite.reporting.figures import draw
from fedlite.reporting.page import write_page
from fedlite.reporting.record import ROUNDS, SUMMARY, RoundRecord, read_rounds, read_summary

_NUMBER = (int, float)
_NEEDED: dict[str, tuple[type, ...]] = {
    "scenario": (str,),
    "seed": (int,),
    "rounds": (int,),
    "sites": (list,),
    "parameters": (int,),
    "accuracy": (dict,),
    "bytes": (dict,),
    "bytes.up": _NUMBER,
    "bytes.down": _NUMBER,
    "bytes.dense_up": _NUMBER,
    "bytes.dense_down": _NUMBER,
    "bytes.up_ratio": _NUMBER,
    "bytes.down_ratio": _NUMBER,
    "privacy": (dict,),
    "privacy.unit": (str,),
    "seconds": (dict,),
    "seconds.total": _NUMBER,
}
_PRIVATE: dict[str, tuple[type, ...]] = {"privacy.delta": _NUMBER, "privacy.sites": (dict,)}
_BASELINES: dict[str, tuple[type, ...]] = {"baselines.metric": (str,), "baselines.rows": (list,)}
_ROUTES: dict[str, tuple[type, ...]] = {
    "inference.kind": (str,),
    "inference.accuracy": (dict,),
    "inference.macs": (dict,),
    "inference.by_class": (dict,),
    "inference.by_site": (dict,),
    "inference.curve": (list,),
}
_PROMISED: dict[str, tuple[type, ...]] = {
    "inference.kind": (str,),
    "inference.by_site": (dict,),
}
_MEND = "restore the file from a copy, or run the scenario again"


def load(directory: Path) -> tuple[list[RoundRecord], dict[str, Any]]:
    """Return a finished run's rounds and summary.

    Raises ValueError, naming the file and the mend, when one is missing, damaged or incomplete.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory; give that of a run, as runs/quickstart")
    path = directory / SUMMARY
    try:
        summary = read_summary(directory)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error}); {_MEND}") from error
    check(summary, path)
    path = directory / ROUNDS
    rounds = read_rounds(directory)
    if not rounds:
        raise ValueError(f"{path}: must hold at least one round, holds none; {_MEND}")
    return rounds, summary


def check(summary: object, path: Path) -> None:
    """Raise ValueError for the first key of a summary that is missing or of the wrong type."""
    if not isinstance(summary, Mapping):
        raise ValueError(f"{path}: must be a JSON object, is {type(summary).__name__}; {_MEND}")
    needed = dict(_NEEDED)
    if isinstance(summary.get("privacy"), Mapping) and summary["privacy"].get("unit") != "none":
        needed |= _PRIVATE
    if summary.get("baselines"):
        needed |= _BASELINES
    if summary.get("inference"):
        # Where the sites alone hold records, there is the promise and no measure.
        measured = isinstance(summary["inference"], Mapping) and "tested" in summary["inference"]
        needed |= _ROUTES if measured else _PROMISED
    for key, kinds in needed.items():
        value: object = summary
        for name in key.split("."):
            if not isinstance(value, Mapping) or name not in value:
                raise ValueError(f"{path}: key {key!r} is missing; {_MEND}")
            value = value[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{path}: key {key!r} must be {wanted}, is {value!r}; {_MEND}")


def report(directory: Path) -> dict[str, Any]:
    """Draw a run's figures and page again and return what was made, ready for JSON.

    Raises ValueError when the directory is not that of a finished, undamaged run.
    """
    rounds, summary = load(directory)
    figures = draw(rounds, summary, directory)
    page = write_page(directory)
    return {
        "directory": str(directory),
        "page": str(page),
        "figures": [str(path) for path in figures],
        "scenario": summary["scenario"],
        "seed": summary["seed"],
        "rounds": len(rounds),
    }
