"""What at a coordinator needs a person: a line each, for cron and for who looks in the morning."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

from server.coordinator import jobs
from server.coordinator.folder import Coordinator

_FREE_BYTES = 10**9
# The gateway's is renewed with 30 days left, and taken in a pause within 20 days.
_GATEWAY_DAYS, _AUTHORITY_DAYS = 9, 90
# For how long a run that failed is news.
_NEWS_SECONDS = 7 * 86400.0


def attention(coordinator: Coordinator, seen: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong, with the mend. seen: what `submit.overview` returns."""
    if seen["pid"] is None:
        yield "the coordinator does not run: fedlite server start, or by its unit"
    elif not seen["answers"]:
        yield f"the coordinator does not answer: see {coordinator.logs}"
    if seen["certificate_days"] < _GATEWAY_DAYS:
        yield f"the certificate ends in {seen['certificate_days']} days: restart the coordinator"
    if seen["authority_days"] < _AUTHORITY_DAYS:
        yield (
            f"the authority ends in {seen['authority_days']} days: make a new coordinator, and "
            "invite the sites anew"
        )
    free = shutil.disk_usage(coordinator.path).free
    if free < _FREE_BYTES:
        yield f"{free / 1e9:.1f} GB free on the disk: make room, fedlite server clean"
    for site, counts in seen["refused"].items():
        told = ", ".join(f"{times} x {what}" for what, times in counts.items())
        yield f"site {site} was refused in the last 24 hours: {told}"
    for run in seen["unknown_runs"]:
        yield f"a run of Flower that nobody has submitted here was ended at {run['time']}"
    for run in seen["runs"]:
        if run["state"] == jobs.RUNNING and run["reason"]:
            yield f"run {run['name']}: {run['reason']}"
        elif run["state"] == jobs.FAILED and _recent(coordinator, run["name"]):
            yield f"run {run['name']} failed: {run['reason']}"


def _recent(coordinator: Coordinator, name: str) -> bool:
    try:
        changed = (coordinator.jobs / f"{name}.json").stat().st_mtime
    except FileNotFoundError:
        return False
    return time.time() - changed < _NEWS_SECONDS
