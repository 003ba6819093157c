"""One writer of a ledger, whatever processes, threads and disks do."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fedlite.identity import keys
from fedlite.privacy.ledger import (
    Files,
    Ledger,
    LedgerBusy,
    LedgerError,
    read,
)
from tests.privacy.ledger.book import NEW, SITE, Quick, refused, reserve, rules


def test_a_second_writer_in_another_process_is_refused(begun: Path, tmp_path: Path) -> None:
    keys.generate(tmp_path / "key.pem")
    code = (
        "import sys\nfrom fedlite.identity import keys\nfrom fedlite.privacy import ledger\n"
        "try: ledger.Ledger.open(sys.argv[1], keys.load(sys.argv[2]))\n"
        "except ledger.LedgerError as error: print(type(error).__name__, error.rule)\n"
    )
    command = [sys.executable, "-c", code, str(begun), str(tmp_path / "key.pem")]
    with Ledger.open(begun, SITE) as ledger:
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert shown.split() == ["LedgerBusy", "second-writer"]
        ledger.append(reserve(5))
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["LedgerError", "wrong-key"]  # The lock is free again.


def test_a_second_writer_in_another_thread_is_refused(begun: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias.jsonl"
    alias.symlink_to(begun)
    caught: list[LedgerError] = []

    def second() -> None:
        for name in (begun, alias):
            try:
                Ledger.open(name, SITE)
            except LedgerBusy as error:
                caught.append(error)

    with Ledger.open(begun, SITE):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert [error.rule for error in caught] == ["second-writer"] * 2
    Ledger.open(alias, SITE).close()


def test_a_second_thread_is_refused_where_locks_are_of_whole_processes(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS gives a lock to every thread of the process that holds it."""
    monkeypatch.setattr(fcntl, "flock", lambda handle, operation: None)
    with Ledger.open(begun, SITE), pytest.raises(LedgerBusy):
        Ledger.open(begun, SITE)
    Ledger.open(begun, SITE).close()


def test_a_disk_without_locks_is_refused(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        with pytest.raises(LedgerError) as caught:
            Ledger.open(begun, SITE)
    assert caught.value.rule == "no-lock" and "No locks available" in str(caught.value)
    Ledger.open(begun, SITE).close()


def test_a_second_writer_waits_as_long_as_it_was_told(begun: Path) -> None:
    first = Ledger.open(begun, SITE)
    started = time.monotonic()
    with pytest.raises(LedgerBusy, match=r"waited 0\.1 s"):
        Ledger.open(begun, SITE, wait=0.1)
    assert time.monotonic() - started >= 0.1
    timer = threading.Timer(0.05, first.close)
    timer.start()
    Ledger.open(begun, SITE, wait=30).close()


def test_threads_may_share_one_open_ledger(begun: Path) -> None:
    with Ledger.open(begun, SITE, files=Quick()) as ledger:
        threads = [threading.Thread(target=lambda: ledger.append(reserve(0))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert rules(begun.read_bytes()) == [] and len(read(begun)) == 13


def test_a_forked_child_does_not_write_with_its_parents_ledger(begun: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()

    def child(ledger: Ledger) -> None:
        for act in (lambda: ledger.append(reserve(5)), lambda: Ledger.open(begun, SITE)):
            try:
                act()
            except LedgerError as error:
                answers.put(error.rule)
        ledger.close()

    with Ledger.open(begun, SITE) as ledger:
        process = context.Process(target=child, args=(ledger,))
        process.start()
        assert [answers.get(timeout=30), answers.get(timeout=30)] == ["closed", "second-writer"]
        process.join()
        with Path(f"{begun}.lock").open("a") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the child did not give it away
        ledger.append(reserve(5))


def test_a_removed_lock_stops_the_writer(begun: Path) -> None:
    with Ledger.open(begun, SITE) as ledger:
        Path(f"{begun}.lock").unlink()
        with pytest.raises(LedgerBusy) as caught:
            ledger.append(reserve(5))
        assert caught.value.rule == "second-writer" and "removed" in str(caught.value)
    assert len(read(begun)) == 5


def test_a_failed_open_leaves_no_lock_and_no_open_file(begun: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for key, data in ((NEW, begun.read_bytes()), (SITE, b"x\n"), (SITE, begun.read_bytes()[9:])):
        begun.write_bytes(data)
        refused(begun, key)

    class Broken(Files):
        def read(self, handle: int, size: int, offset: int) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(LedgerError, match="unreadable"):
        Ledger.open(begun, SITE, files=Broken())
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_ledger_is_not_used(begun: Path) -> None:
    ledger = Ledger.open(begun, SITE)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError) as caught:
        ledger.append(reserve(5))
    assert caught.value.rule == "closed"
