"""One process works from a site's folder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clients.runtime import lock

ROOT = Path(__file__).parents[3]
HOLDS = """
import sys, time
from pathlib import Path
from clients.runtime import lock
held = lock.hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_the_folder_is_held_until_the_first_lets_go(tmp_path: Path) -> None:
    with lock.hold(tmp_path), pytest.raises(lock.Held, match="stop that one first"):
        lock.hold(tmp_path)
    lock.hold(tmp_path).close()


def test_a_process_holds_it_and_its_death_frees_it(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(lock.Held):
        lock.hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (tmp_path / "node.lock").exists()
    lock.hold(tmp_path).close()


def test_any_thread_may_let_go(tmp_path: Path) -> None:
    held = lock.hold(tmp_path)
    thread = threading.Thread(target=held.close)
    thread.start()
    thread.join()
    lock.hold(tmp_path).close()


def test_a_forked_child_neither_has_it_nor_gives_it_away(tmp_path: Path) -> None:
    with lock.hold(tmp_path) as held:
        child = os.fork()
        if child == 0:
            try:
                held.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(lock.Held):
            lock.hold(tmp_path)


def test_a_disk_without_locks_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of another kind would stay behind when its process is killed."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(OSError, match="not implemented"):
        lock.hold(tmp_path)
