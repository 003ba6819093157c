"""What a worker leaves behind is found and ended; each test plays the site in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import fedlite

ROOT = Path(fedlite.__file__).resolve().parents[1]

SITE = """
import os, subprocess, sys, time
from pathlib import Path
from fedlite.deployment.descendants import adopt, end_all
base = Path(sys.argv[1])
def worker(name):
    words = [sys.executable, str(base / f"{name}.py"), str(base)]
    return subprocess.Popen(words, start_new_session=True)
def alive():
    # Every process of a worker writes its file again and again.
    before = {p: p.read_text() for p in base.glob("beat-*")}
    time.sleep(0.5)
    return {p.name for p, text in before.items() if p.read_text() != text}
def until(*names):
    for _ in range(60):
        if alive() == {f"beat-{name}" for name in names}:
            return
    raise SystemExit(f"{alive()} are alive, not {names}")
adopt()
"""
BEAT = """
import os, sys, time
from pathlib import Path
def tell(name):
    # Whole at once, as it may be ended at any moment.
    with open(Path(sys.argv[1], f"beat-{name}"), "r+" if name == "chain" else "w") as file:
        file.write(f"{time.monotonic():20.6f}")
def beat(name):
    while True:
        tell(name)
        time.sleep(0.05)
"""
PROGRAMS = {
    "other": "beat('other')",
    "family": """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.environ.clear(); os.closerange(0, 99)
                beat('gone')
            os._exit(0)
        if os.fork() == 0:
            beat('child')
        beat('worker')
        """,
    "chain": """
        Path(sys.argv[1], "beat-chain").write_text(" " * 20)
        while True:
            if os.fork():
                os._exit(0)
            os.setsid()
            tell("chain")
        """,
    "brief": "",
}


def site(base: Path, code: str) -> None:
    for name, program in PROGRAMS.items():
        (base / f"{name}.py").write_text(BEAT + textwrap.dedent(program))
    (base / "site.py").write_text(SITE + textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, str(base / "site.py"), str(base)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=(base / "errors").open("wb"),
        timeout=120,
    )
    assert done.returncode == 0, (base / "errors").read_text()


@pytest.mark.long
def test_a_process_without_any_tie_is_ended_and_other_workers_stay(tmp_path: Path) -> None:
    site(
        tmp_path,
        """
        other, first = worker("other"), worker("family")
        mine = subprocess.Popen(["sleep", "60"])
        until("other", "gone", "child", "worker")
        assert end_all(first.pid, keep=[other.pid])
        assert first.wait() == -9
        until("other")
        assert end_all(other.pid) and other.wait() == -9
        until()
        assert mine.poll() is None
        mine.kill(); mine.wait()
        try:
            raise SystemExit(f"something is left: {os.waitpid(-1, os.WNOHANG)}")
        except ChildProcessError:
            pass
        """,
    )


@pytest.mark.long
def test_forking_on_and_on_saves_nobody(tmp_path: Path) -> None:
    site(
        tmp_path,
        """
        first = worker("chain")
        until("chain")
        assert end_all(first.pid), "it goes on"
        first.wait()
        until()
        """,
    )


def test_a_worker_that_has_ended_by_itself_is_no_error(tmp_path: Path) -> None:
    site(
        tmp_path,
        """
        first = worker("brief")
        first.wait()
        assert end_all(first.pid)
        """,
    )
