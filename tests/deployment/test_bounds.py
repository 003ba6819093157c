"""What a worker sets for itself: its bounds, and that it ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fedlite
from fedlite.deployment import sandbox

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(fedlite.__file__).resolve().parents[1])}


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_files_are_bounded_and_no_core_is_left(tmp_path: Path) -> None:
    code = """
import errno, os, resource, sys
from fedlite.deployment import bounds
bounds.bound_process()
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= bounds.OPEN_FILES
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
assert os.pwrite(file, b"x", bounds.FILE_BYTES - 1) == 1
try:
    os.pwrite(file, b"x", bounds.FILE_BYTES)
except OSError as error:
    assert error.errno == errno.EFBIG
else:
    raise SystemExit("written")
"""
    done = run(code, str(tmp_path / "file"))
    assert done.returncode == 0, done.stderr


def test_a_bound_that_is_lower_stays() -> None:
    code = """
import resource
from fedlite.deployment import bounds
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 2000))
bounds.bound_process()
assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == 2000
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


# The parent starts a child that dies with it; the child tells its number, and sleeps.
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())])
time.sleep(60)
"""
CHILD = """
import os, sys, time
from fedlite.deployment import bounds, sandbox
from fedlite.deployment.readable import python_paths
bounds.die_with(int(sys.argv[1]))
if {shut}:
    sandbox.restrict(python_paths(), [])
print(os.getpid(), flush=True)
time.sleep(60)
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.parametrize("shut", [False, True])
def test_it_ends_with_its_parent_also_when_shut_in(shut: bool) -> None:
    if shut and sandbox.problem():
        pytest.skip("no process can be shut in here")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD.format(shut=shut)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert not gone(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        if gone(child):
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        raise AssertionError("it lives on")
    parent.stdout.close()


def test_a_parent_that_is_another_is_told() -> None:
    code = "from fedlite.deployment import bounds; bounds.die_with(1)"
    done = run(code)
    assert "must be process 1; it has ended" in done.stderr
