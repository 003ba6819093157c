"""What at a site needs a person: a line each, for cron and for whoever looks in the morning."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clients.runtime import setup
from clients.runtime.metrics import days_left

# A coordinator that restarts, or a cut line, mends itself in less.
_AWAY_SECONDS = 3600.0
_FREE_BYTES = 10**9
_EXPIRES_DAYS = 30


def attention(home: Path, found: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong, with the mend. found: what `clients.runtime.status.status` returns.

    A budget that is spent is no fault, and no line.
    """
    if not found["joined"]:
        yield f"no coordinator joined yet: fedlite site join {home} INVITATION"
    elif not found["running"]:
        yield f"the site does not run: fedlite site start {home}, or by its unit"
    elif found["state"] == "refused":
        yield f"the coordinator refuses the site: fedlite site doctor {home}"
    elif found["state"] == "unreachable" and _seconds(found["since"]) > _AWAY_SECONDS:
        yield (
            f"the coordinator is out of reach since {found['since']}: fedlite site doctor {home}"
        )
    if waiting := len(found["bundles"]["waiting"]):
        yield f"{waiting} bundle{'s' * (waiting != 1)} to decide on: fedlite site approve {home}"
    for row in found["budget"]:
        if "error" in row:
            yield f"{row['dataset']}: {row['error']}"
    free = shutil.disk_usage(home).free
    if free < _FREE_BYTES:
        yield f"{free / 1e9:.1f} GB free on the disk: make room, fedlite site clean {home}"
    if (home / setup.CA).exists() and (days := days_left(home / setup.CA)) < _EXPIRES_DAYS:
        yield f"the coordinator's authority ends in {days} days: ask for a new invitation"


def _seconds(since: str) -> float:
    then = datetime.strptime(since, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return (datetime.now(UTC) - then).total_seconds()
