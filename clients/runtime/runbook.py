"""Which runs a site has answered: for whom, on what terms, and when how much left.

One file a run, HOME/runs/RUN.jsonl, kept for as long as the ledgers: its first line says what the
run is, each further one is a message that was answered. It is no proof: what was spent is in the
ledgers, signed. A run without privacy has no ledger, and is here alone.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

from clients.runtime import seats
from clients.runtime.gate import EXEMPT, ApprovedRun
from clients.runtime.status import Answered
from fedlite.identity.canonical import canonical
from fedlite.secure.messages import is_note

FOLDER = "runs"
_RUN = re.compile(r"[0-9a-f]{16}")
_UNKNOWN: dict[str, Any] = {"settings": {}}


def note(
    home: Path,
    seat: Path,
    approved: ApprovedRun,
    answered: Answered,
    *,
    update: bool,
    blob: bytes = b"",
) -> None:
    """Add a message that was answered; raises OSError when it cannot be written.

    update: whether it was asked to train or to count, not only who it is. blob: what the answer
    carries, which is all of it that is fedlite's; its length is kept, and whether it is a step of a
    sum. A run without an id is none: nothing is written.

    It is not flushed: a power cut may cost the last lines.
    """
    # It is approved code's word, and becomes a file's name.
    if not _RUN.fullmatch(answered.run):
        return
    folder = home / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{answered.run}.jsonl"
    begun = path.exists() and path.stat().st_size
    lines = [] if begun else [_what(seat, approved)]
    lines.append(
        {
            "time": now(),
            "round": answered.round,
            "outcome": answered.outcome,
            "update": update,
            "up": answered.bytes_up,
            "down": answered.bytes_down,
            "blob": len(blob),
            "step": is_note(blob),
        }
    )
    data = b"".join(canonical(line) + b"\n" for line in lines)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, data)
    finally:
        os.close(handle)


def read(home: Path) -> list[dict[str, Any]]:
    """Return the runs, the oldest first: what each is, and its `messages`.

    A line that a crash has torn is left out.
    """
    found = []
    for path in (home / FOLDER).glob("*.jsonl"):
        lines = [line for line in map(_line, path.read_bytes().splitlines()) if line]
        what: dict[str, Any] = next((line for line in lines if "settings" in line), _UNKNOWN)
        messages = [line for line in lines if "outcome" in line]
        found.append({"run": path.stem, **what, "messages": messages})
    return sorted(found, key=lambda run: (str(run.get("since", "")), run["run"]))


def _what(seat: Path, approved: ApprovedRun) -> dict[str, Any]:
    invitation, allowed = seats.joined(seat), approved.policy.bundle(approved.bundle.sha256)
    settings = {key: value for key, value in approved.config.items() if key not in EXEMPT}
    return {
        "since": now(),
        "scenario": str(approved.config.get("federation.name", "")),
        "dataset": str(approved.config.get("data.name", "")),
        "coordinator": invitation.name,
        "address": invitation.address,
        "fingerprint": invitation.fingerprint,
        "bundle": approved.bundle.sha256,
        "approved": allowed.approved if allowed else "",
        "by": allowed.by if allowed else "",
        "settings": settings,
    }


def _line(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def now() -> str:
    """Return the time as the records write it, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
