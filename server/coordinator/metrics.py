"""A coordinator's figures for Prometheus. No site, person or secret is named in them."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from typing import Any

import fedlite
from fedlite.deployment.prometheus import Metric, gauge, outcome, refusals
from fedlite.reporting.record import ROUNDS, read_rounds
from server.coordinator import jobs
from server.coordinator.folder import Coordinator

_STATES = (jobs.RUNNING, jobs.FINISHED, jobs.FAILED, jobs.STOPPED)


def collect(coordinator: Coordinator, seen: dict[str, Any]) -> list[Metric]:
    """Return the figures. seen: what `server.coordinator.submit.overview` returns."""
    states = Counter(run["state"] for run in seen["runs"])
    going = [job for job in jobs.load_all(coordinator) if job.state == jobs.RUNNING]
    waiting = sum(not jobs.rounds(coordinator, job) for job in going)
    sites, unknown = seen["sites"], seen["unknown_runs"]
    refused: Counter[str] = sum(map(Counter, seen["refused"].values()), Counter())
    made = [
        gauge("info", "Always 1; the version.", {fedlite.__version__: 1}, "version"),
        gauge("coordinator_running", "Whether its process lives.", seen["pid"] is not None),
        gauge("coordinator_answers", "Whether a site would reach it.", seen["answers"]),
        gauge("sites_approved", "Sites that may take part.", sites["approved"]),
        gauge("runs", "Runs by state.", {state: states[state] for state in _STATES}, "state"),
        gauge("runs_waiting", "Running ones that have no round yet: sites or yeses lack.", waiting),
        gauge(
            "run_silent_seconds",
            "Since the last round of the most silent.",
            _silent(going, coordinator),
        ),
        *_rounds(coordinator),
        gauge(
            "certificate_days",
            "Days left.",
            {"gateway": seen["certificate_days"], "authority": seen["authority_days"]},
            "of",
        ),
        gauge(
            "disk_free_bytes",
            "Room on the disk of the folder.",
            shutil.disk_usage(coordinator.path).free,
        ),
        refusals(coordinator.audit),
        gauge("requests_refused_day", "Of approved sites in 24 hours.", refused, "what"),
        gauge("runs_unknown", "Of Flower, not submitted here, in a week.", len(unknown)),
    ]
    if sites["online"] is not None:
        made.append(gauge("sites_online", "Sites on line.", sites["online"]))
    return made


def _rounds(coordinator: Coordinator) -> list[Metric]:
    """Return sums over the records of all runs, which are never removed.

    No counters: a run that goes on from its checkpoint plays the rounds after it once more.
    """
    rounds = up = down = 0
    updates: Counter[str] = Counter({"used": 0, "missing": 0})
    for job in jobs.load_all(coordinator):
        try:
            records = read_rounds(coordinator.path / job.directory)
        except ValueError:
            continue  # the status says so
        for record in records:
            rounds += 1
            up, down = up + record.bytes_up, down + record.bytes_down
            updates["used"] += record.accepted
            updates["missing"] += len(record.missing)
            updates.update(outcome(code) for code in record.dropped.values())
    return [
        gauge("rounds", "Rounds in the records of all runs.", rounds),
        gauge(
            "updates",
            "What became of the updates asked for: used, missing, or the code for which not.",
            updates,
            "outcome",
        ),
        gauge("bytes", "Bytes of updates and broadcasts.", {"up": up, "down": down}, "direction"),
    ]


def _silent(going: list[jobs.Job], coordinator: Coordinator) -> float:
    """Return for how many seconds the most silent running run has had no round; 0 with none."""
    now, longest = time.time(), 0.0
    for job in going:
        path = coordinator.path / job.directory / ROUNDS
        began = coordinator.jobs / f"{job.name}.json"
        at = (path if path.exists() else began).stat().st_mtime
        longest = max(longest, now - at)
    return longest
