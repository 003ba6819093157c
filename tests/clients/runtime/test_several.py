"""One process keeps a process for each coordinator: started, started again, ended with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clients.runtime import seats, several

CHILD = """
import sys, time
open(sys.argv[-1].replace('/', '-') + '.txt', 'a').write('started\\n')
time.sleep(60)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of two seats; instead of a site's process each starts one that sleeps."""
    monkeypatch.setattr(seats, "every", lambda home: [home, home / "coordinators" / "b"])
    real = subprocess.Popen
    (tmp_path / "child.py").write_text(CHILD)

    def popen(words: list[str], **more: Any) -> Any:
        if words[0] == "pgrep":
            return real(words, **more)
        assert words[:2] == [sys.executable, "-c"] and "die_with" in words[2]
        return real([sys.executable, "child.py", *words[3:]], cwd=tmp_path, **more)

    monkeypatch.setattr(several.subprocess, "Popen", popen)
    monkeypatch.setattr(several, "_FIRST_PAUSE", 0.05)
    return tmp_path


def wait(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def starts(home: Path, place: str) -> int:
    path = home / f"{place.replace('/', '-')}.txt"
    return path.read_text().count("started") if path.exists() else 0


def children() -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True)
    shown = [int(pid) for pid in found.stdout.split()]
    return [p for p in shown if b"child.py" in Path(f"/proc/{p}/cmdline").read_bytes()]


@pytest.mark.long
def test_each_coordinator_has_a_process_and_one_that_dies_starts_again(home: Path) -> None:
    stop = threading.Event()
    serving = threading.Thread(target=several.serve, args=(home, stop))
    serving.start()
    try:
        wait(lambda: starts(home, ".") == starts(home, "coordinators/b") == 1)
        first = next(p for p in children() if b"coordinators" not in _words(p))
        os.kill(first, signal.SIGKILL)
        wait(lambda: starts(home, ".") == 2)
        assert starts(home, "coordinators/b") == 1, "the other one went on"
    finally:
        stop.set()
        serving.join(30)
    assert not serving.is_alive() and children() == []


def _words(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_one_that_dies_at_once_pauses_longer_each_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = several._Child(".")
    pauses = []
    for _ in range(9):
        dead = SimpleNamespace(poll=lambda: 1, returncode=1)
        child.process, child.started = dead, time.monotonic()  # type: ignore[assignment]
        several._watch(home, child)
        pauses.append(child.pause)
    assert pauses[:3] == [2.0, 4.0, 8.0] and pauses[-1] == 60.0
