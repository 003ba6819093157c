"""What workers print: bounded while they run, at any rate, and harmless to whoever reads it."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedlite.deployment import worklog
from fedlite.deployment.worklog import WorkLog, plain


def write(log: WorkLog, data: bytes) -> None:
    """Write as a worker that ends afterwards."""
    with log.pipe() as descriptor:
        worker = os.dup(descriptor)
    with os.fdopen(worker, "wb") as file:
        file.write(data)


@pytest.mark.long
def test_a_flood_fills_nothing_and_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "worker.log"
    log = WorkLog(path)
    write(log, b"before\n")
    time.sleep(0.2)
    code = "import os\nfor _ in range(60): os.write(1, b'flood ' * 20_000)\nos.write(2, b'done')"
    begun = time.monotonic()
    with log.pipe() as descriptor:
        flood = subprocess.Popen([sys.executable, "-c", code], stdout=descriptor, stderr=descriptor)
    assert flood.wait(timeout=100) == 0
    assert time.monotonic() - begun < 60
    log.close()
    log.close()
    text = path.read_text()
    assert text.startswith("before\nflood ") and "bytes were left out" in text
    kept, dropped = text.count("flood "), sum(map(int, re.findall(r"\[(\d+) bytes", text)))
    assert path.stat().st_size < worklog.BURST_BYTES * 1.2
    assert kept * 6 + dropped == pytest.approx(60 * 120_000, abs=50)
    assert list(path.parent.iterdir()) == [path]


def test_two_files_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worklog, "FILE_BYTES", 10_000)
    log = WorkLog(tmp_path / "worker.log")
    for number in range(100):
        write(log, f"{number:03} {'x' * 995}\n".encode())
        for thread in log._threads:
            thread.join()
        sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
        assert set(sizes) <= {"worker.log", "worker.old"} and max(sizes.values()) <= 10_000
    log.close()
    assert (tmp_path / "worker.log").read_text().startswith("090 ")
    assert (tmp_path / "worker.old").read_text().startswith("080 ")
    again = WorkLog(tmp_path / "worker.log")
    write(again, b"x" * 100 + b"\n")
    again.close()
    assert (tmp_path / "worker.old").read_text().startswith("090 ")


def test_workers_side_by_side_and_a_slow_one(tmp_path: Path) -> None:
    log = WorkLog(tmp_path / "worker.log")
    for number in range(5):
        write(log, b"%d" % number * 1000 + b"\n")
    for thread in log._threads:
        thread.join()
    with log.pipe() as descriptor:
        held = os.dup(descriptor)
    os.write(held, "half a letter: é"[:-1].encode() + b"\xc3")
    begun = time.monotonic()
    # Somebody holds the pipe who should have ended: that must not hold the site.
    log.close()
    assert time.monotonic() - begun < 10
    os.close(held)
    lines = (tmp_path / "worker.log").read_text().splitlines()
    assert {line[0] for line in lines[:5]} == set("01234") and {*map(len, lines[:5])} == {1000}


def test_a_full_disk_costs_lines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = WorkLog(tmp_path / "worker.log")
    full = [True]

    def to_disk(descriptor: int, data: bytes, write: object = os.write) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, "no space")
        return write(descriptor, data)  # type: ignore[operator,no-any-return]

    with log.pipe() as descriptor:
        worker = os.dup(descriptor)
    real = os.write
    monkeypatch.setattr(worklog.os, "write", to_disk)
    real(worker, b"lost\n")
    time.sleep(0.3)
    full[0] = False
    real(worker, b"kept\n")
    os.close(worker)
    log.close()
    text = (tmp_path / "worker.log").read_text()
    assert "5 bytes were left out" in text and text.endswith("kept\n")


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x1b[2J\x9b31m", "\\x1b[2J\\x9b31m"),
        ("a\rb\bc\x00", "a\\rb\\x08c\\x00"),
        ("right\u202eleft\u2066", "right\\u202eleft\\u2066"),
        ("one\u2028two\ufeff", "one\\u2028two\\ufeff"),
        ("\tü 漢 é\n", "\tü 漢 é\n"),
    ],
)
def test_a_terminal_obeys_nothing_of_it(given: str, stored: str, tmp_path: Path) -> None:
    assert plain(given) == stored
    log = WorkLog(tmp_path / "worker.log")
    write(log, given.encode() + b"\xff\xfe")
    log.close()
    assert (tmp_path / "worker.log").read_text() == stored + "\\xff\\xfe"
