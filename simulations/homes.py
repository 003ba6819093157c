"""What simulated sites leave in a run directory, and what of it is kept when the run is over."""

from __future__ import annotations

from pathlib import Path

from fedlite.scenario import Scenario
from fedlite.storage import write_atomic

# What a site remembers of a run, the lock beside it, and models (`clients.replicas`).
_KINDS = ("*.safetensors", "*.lock", "*.counts", "*.replica", ".*.part", ".*.old")


def collect_ledgers(scenario: Scenario, directory: Path) -> None:
    """Copy what the sites have written down into the run's record, for whoever audits it."""
    given = scenario.simulation.sites
    roots = [Path(given).expanduser()] if given else (directory / "checkpoint").rglob("homes")
    for root in sorted(roots):
        for ledger in sorted(root.glob(f"*/ledgers/{scenario.data.dataset}.jsonl")):
            (directory / "ledgers").mkdir(exist_ok=True)
            site = ledger.parent.parent.name
            write_atomic(directory / "ledgers" / f"{site}.jsonl", ledger.read_bytes())


def drop_states(directory: Path) -> None:
    """Remove what the sites of a finished run remember of it: no run goes on after its last round.

    A thousand sites would keep a thousand models. Their homes stay: their keys sign the ledgers.
    """
    checkpoint = directory / "checkpoint"
    for folder in (checkpoint / "sites", *checkpoint.glob("fedlite/*")):
        for path in (p for kind in _KINDS for p in folder.glob(kind)):
            path.unlink(missing_ok=True)
