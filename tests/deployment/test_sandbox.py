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
from fedlite.deployment import sandbox, seccomp

ROOT = Path(fedlite.__file__).resolve().parents[1]

if not sandbox.available():
    pytest.skip("the kernel has no Landlock", allow_module_level=True)

PRELUDE = """
import os, sys, socket, subprocess
from pathlib import Path
base = Path(sys.argv[1])
from fedlite.deployment import sandbox
from fedlite.deployment.readable import python_paths
def closed(work, *kinds):
    try:
        work()
    except (kinds or (PermissionError,)) as error:
        return
    raise SystemExit(f"open: {work.__code__.co_firstlineno}")
def shut(read=(), write=(), **more):
    return sandbox.restrict([*python_paths(), *read], write, **more)
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
        version = sandbox.available()
        found = shut([base / "open", base / "keys/ledger.pem", base / "no"], [base / "state"])
        assert found.landlock == version > 0, found
        assert found.lacks == sandbox.lacks(found.landlock), found
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


def test_nothing_opens_again(base: Path) -> None:
    inside(
        base,
        """
        shut([base / "open"], [base / "state"])
        closed(lambda: shut([base], [base]), OSError)
        closed(lambda: (base / "keys/node.pem").read_text())
        closed(lambda: subprocess.run(["/bin/true"]))
        """,
    )


def test_no_network_of_any_kind(base: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        inside(
            base,
            """
            early = socket.socket(); late = socket.socket()
            shut([base / "open"], [base / "state"])
            closed(lambda: early.connect(("127.0.0.1", int(sys.argv[2]))))
            closed(lambda: late.bind(("127.0.0.1", 0)))
            for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
                    closed(lambda: socket.socket(family, kind))
            """,
            str(server.getsockname()[1]),
        )


def test_root_keeps_no_capability_but_to_overlook_owners(base: Path) -> None:
    inside(
        base,
        """
        shut([base / "open"], [base / "state"])
        status = Path("/proc/self/status").read_text()
        for which in ("CapPrm:", "CapEff:"):
            assert int(status.split(which)[1].split()[0], 16) & ~2 == 0, status
        assert int(status.split("Seccomp:")[1].split()[0]) == 2, status
        open("/proc/self/environ").read(); open("/proc/self/maps").read()
        closed(lambda: open("/sys/kernel/notes", "rb").read())
        """,
    )


@pytest.mark.long
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
        from safetensors.torch import load_file, save_file
        save_file(model.state_dict(), base / "state/m.safetensors")
        load_file(base / "state/m.safetensors")
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
    for module, name in ((sandbox, "Landlock"), (seccomp, "seccomp")):
        with monkeypatch.context() as patch:
            patch.setattr(module, "available", lambda: 0)
            with pytest.raises(OSError, match=rf"{name}.*limits\.sandbox = false"):
                sandbox.restrict([], [])
            assert "nothing of a bundle is run" in sandbox.problem()
    assert sandbox.problem() == ""


def test_what_a_kernel_lacks_is_told_by_its_version() -> None:
    # The table of https://docs.kernel.org/userspace-api/landlock.html, "Previous limitations".
    since = {"cutting a file short": 3, "TCP": 4, "control calls to devices": 5}
    since["signals and abstract sockets"] = 6
    for version in range(1, 9):
        assert set(sandbox.lacks(version)) == {w for w, n in since.items() if version < n}
