"""A hostile ClientApp (`hostile.py`) against the machine: each of its attempts fails, on kernels
with an old Landlock too, and what training needs goes on.

Covers fedlite/deployment/syscalls.py.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedlite.deployment import sandbox

if sandbox.problem():
    pytest.skip("no process can be shut in here", allow_module_level=True)

PROGRAM = Path(__file__).with_name("hostile.py")
REFUSED = {"EPERM", "EACCES"}
# Of `clone3` the C library is told that there is none.
OTHERWISE = {"clone3": {"ENOSYS"}, "write without a bound": {"EFBIG"}}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("home/keys", "home/state", "home/ledgers", "home/open", "checkout/hospital/keys"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("home/keys/node.pem", "checkout/hospital/keys/node.pem"):
        (tmp_path / name).write_text("secret")
        (tmp_path / name).chmod(0o600)
    (tmp_path / "home/ledgers/a.jsonl").write_text("row")
    (tmp_path / "home/open/a.txt").write_text("a")
    return tmp_path / "home"


@pytest.mark.parametrize("version", range(1, sandbox.available() + 1))
def test_every_attempt_fails(
    home: Path, version: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = ctypes.create_string_buffer(b"of the site")
    (home / "open/address").write_text(str(ctypes.addressof(secret)))
    seen: list[int] = []
    monkeypatch.chdir(home)
    before = signal.signal(signal.SIGURG, lambda *_: seen.append(1))
    limits = {kind: resource.getrlimit(kind) for kind in range(16)}
    priority, cores = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)
    stored = {path: path.stat() for path in sorted(home.rglob("*")) if path.is_file()}
    said, numbers = home.parent / "said", (str(os.getpid()), str(version))
    try:
        # Not a pipe: what outlives the worker would keep it open.
        with said.open("wb") as output:
            done = subprocess.run(
                [sys.executable, "-P", PROGRAM, home, home.parent / "checkout", *numbers],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                timeout=100,
            )
    finally:
        signal.signal(signal.SIGURG, before)
    found = json.loads(said.read_text().splitlines()[-1])
    assert done.returncode == 0, capfd.readouterr().err
    wrong = {
        name: outcome
        for name, outcome in found.items()
        if outcome not in OTHERWISE.get(name, REFUSED)
    }
    assert wrong == {}
    assert len(found) > 70 and "become a program" in found
    # What was attacked is as it was, whatever the attempts say of themselves.
    assert secret.value == b"of the site" and seen == []
    assert {kind: resource.getrlimit(kind) for kind in range(16)} == limits
    assert os.getpriority(os.PRIO_PROCESS, 0) == priority
    assert os.sched_getaffinity(0) == cores
    for path, was in stored.items():
        now = path.stat()
        assert (now.st_mode, now.st_size, now.st_mtime_ns) == (
            was.st_mode,
            was.st_size,
            was.st_mtime_ns,
        ), path
    assert [path.name for path in (home / "state").iterdir()] == ["y"]
