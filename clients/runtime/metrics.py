"""A site's figures for Prometheus, from its folder alone. No record, person or secret is in them.

Labels are the names of data sets, which are those of scenarios, and words of this code.
"""

from __future__ import annotations

import shutil
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
    answers: dict[str, float] = {}
    for name, count in found["answers"].items():
        answers[outcome(name)] = answers.get(outcome(name), 0) + count
    made = [
        gauge("info", "Always 1; the version.", {fedlite.__version__: 1}, "version"),
        gauge("site_running", "Whether the site's process lives.", found["running"]),
        gauge("site_joined", "Whether it has joined a coordinator.", found["joined"]),
        gauge(
            "site_state",
            "1 for the state that the process told last.",
            {state: found["running"] and found["state"] == state for state in STATES},
            "state",
        ),
        counter("site_answers", "Messages answered since its start.", answers, "outcome"),
        counter(
            "site_bytes",
            "Bytes of those messages and answers.",
            {"up": found["bytes_up"] or 0, "down": found["bytes_down"] or 0},
            "direction",
        ),
        gauge(
            "site_bundles",
            "Bundles that are approved, and that wait for the operator.",
            {state: len(found["bundles"][state]) for state in ("approved", "waiting")},
            "state",
        ),
        *_budgets(found["budget"][:_MOST]),
        *_certificate(home),
        gauge("disk_free_bytes", "Room on the disk of the folder.", shutil.disk_usage(home).free),
        refusals(home / "audit"),
    ]
    if found["running"]:
        since = datetime.strptime(found["since"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        seconds = (datetime.now(UTC) - since).total_seconds()
        made.append(gauge("site_state_seconds", "For how long it has been so.", seconds))
    return made


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


def _certificate(home: Path) -> list[Metric]:
    if not (home / setup.CA).exists():
        return []
    days = days_left(home / setup.CA)
    return [gauge("certificate_days", "Days left.", {"authority": days}, "of")]


def days_left(path: Path) -> int:
    """Return for how many whole days a certificate is still valid; 0 or less: it has expired."""
    end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    return (end - datetime.now(UTC)).days
