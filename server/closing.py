"""How a run ends: the server signs what it leaves behind, and only then writes the summary.

So a run with a summary is a run that was closed. One that stops between the two is taken up again
like any other, and closed anew: the last closing line counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlite.privacy.ledger.lines import RUN_FILES
from fedlite.reporting.record import SUMMARY, encode_summary, write_summary
from fedlite.scenario import Scenario
from server.deployment import Deployment
from server.witness import Witness


def witness_of(
    scenario: Scenario, directory: Path, deployment: Deployment | None = None
) -> Witness | None:
    """Return what remembers the sites' ledgers, in a run in which they keep any."""
    if not scenario.claims_privacy:
        return None
    if deployment is not None:
        lines = deployment.witness_lines(scenario.data.name)
        return Witness(directory, deployment.witness_key, lines)
    given = scenario.simulation.witness
    sink = Path(given).expanduser() if given else None
    # A server that remembers from run to run signs with the same key each time.
    key = sink.with_suffix(".pem") if sink else directory / "checkpoint" / "witness.pem"
    return Witness(directory, key, sink)


def finish(directory: Path, summary: Mapping[str, Any], witness: Witness | None) -> None:
    """Close a run whose other files are all written, and write `summary.json`.

    Raises OSError where a file is missing or cannot be written.
    """
    if witness is not None:
        files = {SUMMARY: hashlib.sha256(encode_summary(summary)).hexdigest()}
        for name in RUN_FILES:
            if name != SUMMARY:
                with (directory / name).open("rb") as file:
                    files[name] = hashlib.file_digest(file, "sha256").hexdigest()
        witness.close(summary["run"], files, summary["sites"])
    write_summary(directory, summary)
