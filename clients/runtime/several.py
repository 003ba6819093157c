"""A process for each coordinator of a site, kept running by one.

They share the folder's policy and ledgers, which have locks of their own, and nothing else: one
that dies, or whose coordinator is hostile, takes none of the others with it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from clients.runtime import seats

log = logging.getLogger("fedlite.site")

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_PATIENCE = 30.0


@dataclass
class _Child:
    place: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    pause: float = _FIRST_PAUSE


def serve(home: Path, stop: threading.Event) -> None:
    """Keep a process for every coordinator of the site until `stop` is set; then end them."""
    children = [_Child(seats.place(home, seat)) for seat in seats.every(home)]
    try:
        while not stop.wait(0.2):
            for child in children:
                _watch(home, child)
    finally:
        _end(children)


def _watch(home: Path, child: _Child) -> None:
    now = time.monotonic()
    if child.process is not None and child.process.poll() is not None:
        code, lived = child.process.returncode, now - child.started
        child.pause = _FIRST_PAUSE if lived > _LONGEST_PAUSE else child.pause * 2
        child.pause = min(child.pause, _LONGEST_PAUSE)
        log.warning("%s: ended (%s); it starts again in %.0f s", child.place, code, child.pause)
        child.process, child.due = None, now + child.pause
    if child.process is None and now >= child.due:
        # Ended with this process, however that ends.
        program = (
            f"from fedlite.deployment.bounds import die_with; die_with({os.getpid()}); "
            "from fedlite.cli import main; main()"
        )
        words = ["site", "start", str(home), "--coordinator", child.place]
        child.process = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            stdin=subprocess.DEVNULL,
            # Told to stop at the terminal, they are ended here, in order.
            start_new_session=True,
        )
        child.started = now


def _end(children: list[_Child]) -> None:
    running = [child.process for child in children if child.process is not None]
    for process in running:
        process.terminate()
    until = time.monotonic() + _PATIENCE
    for process in running:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
