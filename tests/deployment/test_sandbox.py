"""Every test shuts in a process of its own: what `restrict` closes stays closed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import fedlite
from fedlite.deployment import sandbox

ROOT = Path(fedlite.__file__).resolve().parents[1]

if not sandbox.available():
    pytest.skip("the kernel has no Landlock", allow_module_level=True)

PRELUDE = """
import os, sys, socket, subprocess
from pathlib import Path
base = Path(sys.argv[1])
from fedlite.deployment import sandbox
def closed(work, *kinds):
    try:
        work()
    except (kinds or (PermissionError,)) as error:
        return
    raise SystemExit(f"open: {work.__code__.co_firstlineno}")
def shut(read=(), write=(), **more):
    return sandbox.restrict([*sandbox.python_paths(), *read], write, **more)
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("open", "state", "keys"):
        (tmp_path / name).mkdir()
    (tmp_path / "open" / "a.txt").write_text("a")
    (tmp_path / "keys" / "node.pem").write_text("secret")
    (tmp_path / "keys" / "ledger.pem").write_text("ledger")
    return tmp_path


def inside(base: Path, code: str, *arguments: str) -> str:
    script = base / "script.py"
    script.write_text(PRELUDE + textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, "-P", str(script), str(base), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_only_what_was_named_is_read_or_written(base: Path) -> None:
    inside(
        base,
        """
        found = shut([base / "open", base / "keys/ledger.pem", base / "no"], [base / "state"])
        assert found.landlock == sandbox.available() and found.sockets, found
        assert (base / "open/a.txt").read_text() == "a"
        assert (base / "keys/ledger.pem").read_text() == "ledger"
        closed(lambda: (base / "keys/node.pem").read_text())
        closed(lambda: os.listdir(base / "keys"))
        closed(lambda: os.listdir(base))
        closed(lambda: open(base / "keys/ledger.pem", "a"))
        closed(lambda: (base / "open/b.txt").write_text("b"))
        closed(lambda: (base / "open/a.txt").unlink())
        closed(lambda: os.truncate(base / "open/a.txt", 0))
        closed(lambda: (base / "b.txt").write_text("b"))
        closed(lambda: open("/etc/shadow"))
        closed(lambda: open("/etc/hostname"))
        closed(lambda: os.listdir("/dev"))
        state = base / "state"
        (state / "x").write_text("x"); os.replace(state / "x", state / "y")
        (state / "d").mkdir(); os.replace(state / "y", state / "d/y")
        os.sync()
        closed(lambda: os.mkfifo(state / "p"))
        open("/dev/null", "w").write("x"); os.urandom(3); open("/dev/urandom", "rb").read(3)
        """,
    )
    assert (base / "state/d/y").read_text() == "x"
    assert (base / "open/a.txt").read_text() == "a"


def test_links_and_renames_open_nothing(base: Path) -> None:
    key, state = base / "keys" / "node.pem", base / "state"
    (base / "open" / "link").symlink_to(key)
    (state / "link").symlink_to(base / "keys")
    inside(
        base,
        """
        shut([base / "open"], [base / "state"])
        key, state = base / "keys/node.pem", base / "state"
        closed(lambda: (base / "open/link").read_text())
        closed(lambda: (state / "link/node.pem").read_text())
        closed(lambda: (base / "open/../keys/node.pem").read_text())
        closed(lambda: open(f"/proc/self/root{key}"))
        os.chdir(base / "state")
        closed(lambda: open("/proc/self/cwd/../keys/node.pem"))
        closed(lambda: os.symlink(key, state / "new"))
        closed(lambda: os.link(key, state / "hard"), OSError)
        closed(lambda: os.rename(key, state / "moved"), OSError)
        closed(lambda: os.link(base / "open/a.txt", state / "a"), OSError)
        closed(lambda: os.chroot(base) or open("/keys/node.pem"))
        """,
    )
    assert key.read_text() == "secret"


def test_children_are_shut_in_as_well_and_nothing_opens_again(base: Path) -> None:
    inside(
        base,
        """
        shut([base / "open"], [base / "state"])
        code = f"open({str(base / 'keys/node.pem')!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "PermissionError" in done.stderr, done
        child = os.fork()
        if not child:
            closed(lambda: (base / "keys/node.pem").read_text())
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        shut([base], [base])
        closed(lambda: (base / "keys/node.pem").read_text())
        closed(lambda: socket.socket())
        (base / "state/tool").write_text("#!/bin/sh\\n")
        os.chmod(base / "state/tool", 0o755)
        closed(lambda: subprocess.run([str(base / "state/tool")]))
        """,
    )


def test_no_network_of_any_kind(base: Path) -> None:
    path = str(base / "open" / "socket")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        port = server.getsockname()[1]
        inside(
            base,
            """
            shut([base / "open"], [base / "state"])
            closed(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])), 3))
            for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
                    closed(lambda: socket.socket(family, kind))
            left, right = socket.socketpair()
            left.send(b"x"); assert right.recv(1) == b"x"
            """,
            str(port),
        )
        inside(
            base,
            """
            # A socket from before is caught by Landlock or the namespace.
            early = socket.socket(); late = socket.socket()
            found = shut([base / "open"], [base / "state"])
            assert found.tcp == (found.landlock >= 4)
            if found.tcp:
                closed(lambda: early.connect(("127.0.0.1", int(sys.argv[2]))))
                closed(lambda: late.bind(("127.0.0.1", 0)))
            """,
            str(port),
        )
        inside(
            base,
            """
            found = shut([base / "open"], [base / "state"], network=True)
            assert not (found.tcp or found.sockets or found.namespace)
            socket.create_connection(("127.0.0.1", int(sys.argv[2])), 3).close()
            """,
            str(port),
        )


def test_a_process_outside_cannot_be_looked_into(base: Path) -> None:
    inside(
        base,
        """
        me = os.getpid()
        child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            raise SystemExit
        shut([base / "open"], [base / "state"])
        assert os.getppid() == me
        for name in ("mem", "environ", "maps", "auxv"):
            closed(lambda: open(f"/proc/{me}/{name}", "rb").read(1))
        closed(lambda: os.readlink(f"/proc/{me}/fd/0"))
        closed(lambda: open(f"/proc/{me}/fd/0"))
        closed(lambda: open(f"/proc/{me}/root/{base}/keys/node.pem"))
        if sandbox.available() >= 6:
            closed(lambda: os.kill(me, 9))
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.ptrace(16, me, 0, 0) == -1
        status = Path("/proc/self/status").read_text()
        held = int(status.split("CapPrm:")[1].split()[0], 16)
        assert held & ~2 == 0, held
        code = "print(open('/proc/self/status').read().split('CapEff:')[1].split()[0])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert int(done.stdout, 16) & ~2 == 0, done
        open("/proc/self/environ").read(); open("/proc/self/maps").read()
        os._exit(7)
        """,
    )


def test_torch_trains_inside(base: Path) -> None:
    out = inside(
        base,
        """
        shut([base / "open"], [base / "state"])
        import torch
        torch.set_num_threads(2)
        from torch import nn
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 2))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        x, y = torch.randn(32, 1, 8, 8), torch.randint(2, (32,))
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward(); optimizer.step(); losses.append(loss.item())
        assert losses[-1] < losses[0]
        torch.save(model.state_dict(), base / "state/m.pt")
        from fedlite.data import load
        from fedlite.models import build
        build("cosine", load("digits").shape, 10, seed=0)
        print("trained")
        """,
    )
    assert out.strip() == "trained" and (base / "state" / "m.pt").exists()


def test_a_second_thread_would_stay_outside_and_is_refused(base: Path) -> None:
    inside(
        base,
        """
        import threading
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        try:
            shut()
        except OSError as error:
            assert "one thread, got 2" in str(error)
            (base / "keys/node.pem").read_text()
            os._exit(0)
        os._exit(1)
        """,
    )


def test_a_kernel_without_is_said_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "available", lambda: 0)
    with pytest.raises(OSError, match=r"limits\.sandbox = false"):
        sandbox.restrict([], [])


def test_what_python_needs_is_no_more_than_that() -> None:
    paths = sandbox.python_paths()
    assert all(path.exists() for path in paths)
    assert not {Path(p) for p in ("/", "/etc", "/dev", "/home", "/root", "/tmp", ".")} & set(paths)
