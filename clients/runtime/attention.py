"""What at a site needs a person: a line each, for cron and for whoever looks in the morning."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clients.runtime import setup
from clients.runtime.metrics import days_left, seconds_since

# A coordinator that restarts, or a cut line, mends itself in less.
_AWAY_SECONDS = 3600.0
_FREE_BYTES = 10**9
_EXPIRES_DAYS = 30


def attention(home: Path, found: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong, with the mend. found: what `clients.runtime.status.status` returns.

    A budget that is spent is no fault, and no line.
    """
    if not found["coordinators"]:
        yield f"no coordinator joined yet: fedlite site join {home} INVITATION"
    for one in found["coordinators"]:
        yield from _coordinator(home, one)
    if waiting := len(found["bundles"]["waiting"]):
        yield f"{waiting} bundle{'s' * (waiting != 1)} to decide on: fedlite site approve {home}"
    for one in found["releases"]:
        if one["state"] in ("to decide on", "damaged"):
            why = one.get("problem") or f"bundle {one['sha256'][:12]} to decide on"
            yield f"{why}: fedlite site released {home}"
    for row in found["budget"]:
        if "error" in row:
            yield f"{row['dataset']}: {row['error']}"
    free = shutil.disk_usage(home).free
    if free < _FREE_BYTES:
        yield f"{free / 1e9:.1f} GB free on the disk: make room, fedlite site clean {home}"


def _coordinator(home: Path, one: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the process for one coordinator."""
    if not one["running"]:
        yield f"{one['name']}: the site does not run: fedlite site start {home}, or by its unit"
    elif one["state"] == "refused":
        yield f"{one['name']}: the coordinator refuses the site: fedlite site doctor {home}"
    elif one["state"] == "unreachable" and seconds_since(one["since"]) > _AWAY_SECONDS:
        yield f"{one['name']}: out of reach since {one['since']}: fedlite site doctor {home}"
    days = days_left(home / one["seat"] / setup.CA)
    if days < _EXPIRES_DAYS:
        yield f"{one['name']}: its authority ends in {days} days: ask for a new invitation"
