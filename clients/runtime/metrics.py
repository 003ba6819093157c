"""A site's figures for Prometheus, from its folder alone. No record, person or secret is in them.

Labels are the names of data sets, which are those of scenarios, the folders of coordinators below
the site's, "." for the first, and words of this code.
"""

from __future__ import annotations

import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

import fedlite
from clients.runtime import setup
from clients.runtime.status import STATES, status
from fedlite.deployment.prometheus import Metric, counter, gauge, outcome, refusals

# A folder with more ledgers than anybody has must not become as many series.
_MOST = 100


def collect(home: Path) -> list[Metric]:
    """Return the figures; raises ValueError when the folder is no site's, or cannot be read."""
    found = status(home)
    return [
        gauge("info", "Always 1; the version.", {fedlite.__version__: 1}, "version"),
        *_coordinators(home, found["coordinators"][:_MOST]),
        gauge(
            "site_bundles",
            "Bundles that are approved, and that wait for the operator.",
            {state: len(found["bundles"][state]) for state in ("approved", "waiting")},
            "state",
        ),
        *_budgets(found["budget"][:_MOST]),
        gauge("disk_free_bytes", "Room on the disk of the folder.", shutil.disk_usage(home).free),
        refusals(home / "audit"),
    ]


def _coordinators(home: Path, rows: list[dict[str, Any]]) -> list[Metric]:
    """Return what the process for each coordinator does; a site has one process for each."""
    seats = {row["seat"]: row for row in rows}
    lives = {seat: row for seat, row in seats.items() if row["running"]}
    answers: Counter[tuple[str, ...]] = Counter()
    for seat, row in seats.items():
        for name, count in row["answers"].items():
            answers[seat, outcome(name)] += count
    sent: dict[tuple[str, ...], float] = {
        (seat, way): row[f"bytes_{way}"] or 0
        for seat, row in seats.items()
        for way in ("up", "down")
    }
    states: dict[tuple[str, ...], float] = {
        (seat, state): row["running"] and row["state"] == state
        for seat, row in seats.items()
        for state in STATES
    }
    ends = {seat: days_left(home / seat / setup.CA) for seat in seats}
    alive = {seat: row["running"] for seat, row in seats.items()}
    since = {seat: seconds_since(row["since"]) for seat, row in lives.items()}
    label = "coordinator"
    return [
        gauge("site_coordinators", "Coordinators that the site has joined.", len(rows)),
        gauge("site_running", "Whether the process for it lives.", alive, label),
        gauge("site_state", "1 for the state that it told last.", states, label, "state"),
        gauge("site_state_seconds", "For how long it has been so.", since, label),
        counter("site_answers", "Messages answered since its start.", answers, label, "outcome"),
        counter("site_bytes", "Bytes of those answers and messages.", sent, label, "direction"),
        gauge("certificate_days", "Days left of its authority.", ends, label),
    ]


def _budgets(rows: list[dict[str, Any]]) -> list[Metric]:
    valid = {row["dataset"]: "error" not in row for row in rows}
    made = [gauge("ledger_valid", "Whether the ledger verifies.", valid, "dataset")]
    good = [row for row in rows if "error" not in row]
    told = {
        "spent": "Epsilon charged so far.",
        "ceiling": "Epsilon that may be charged in all.",
        "left": "Epsilon that is left.",
    }
    for name, help in told.items():
        values = {row["dataset"]: _epsilon(row)[name] for row in good}
        made.append(gauge(f"budget_epsilon_{name}", help, values, "dataset"))
    plans = {row["dataset"]: row["plans"] for row in good}
    return [*made, counter("budget_runs", "Runs that were charged.", plans, "dataset")]


def _epsilon(row: dict[str, Any]) -> dict[str, float]:
    left = max(0.0, row["ceiling"] - row["spent"])
    return {"spent": row["spent"], "ceiling": row["ceiling"], "left": left}


def days_left(path: Path) -> int:
    """Return for how many whole days a certificate is still valid; 0 or less: it has expired."""
    end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    return (end - datetime.now(UTC)).days


def seconds_since(told: str) -> float:
    """Return the seconds since a time as the status tells it."""
    then = datetime.strptime(told, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return (datetime.now(UTC) - then).total_seconds()
