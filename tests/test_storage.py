from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedlite import storage
from fedlite.storage import latest, write_atomic, write_quickly

WRITER = """
import sys
from pathlib import Path
from fedlite.storage import write_atomic
path, n = Path(sys.argv[1]), 0
while True:
    n += 1
    write_atomic(path, bytes([n % 256]) * 200_000)
    print(n, flush=True)
"""


def test_content_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]


def test_the_bytes_are_on_the_device_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watch_fsync(descriptor: int) -> None:
        order.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def watch_replace(source: Path, target: Path) -> None:
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    write_atomic(tmp_path / "file", b"content")
    assert order == ["file", "rename", "directory"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_content_and_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, fail)
        with pytest.raises(OSError, match="No space left") as caught:
            write_atomic(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_is_not_there_is_told_by_the_name_that_was_given(tmp_path: Path) -> None:
    path = tmp_path / "no" / "file.csv"
    with pytest.raises(FileNotFoundError) as caught:
        write_atomic(path, b"new")
    assert caught.value.filename == str(path) and ".part" not in str(caught.value)


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """A fresh one may be of a writer that lives; what cannot be removed does not matter."""
    old, folder = tmp_path / ".file.7.part", tmp_path / ".file.9.part"
    kept = {".file.8.part", ".other.7.part", folder.name}
    for name in (old.name, ".file.8.part", ".other.7.part"):
        (tmp_path / name).write_bytes(b"half")
    folder.mkdir()
    hours_ago = time.time() - 7200
    for path in (old, tmp_path / ".other.7.part", folder):
        os.utime(path, (hours_ago, hours_ago))
    write_atomic(tmp_path / "file", b"whole")
    assert set(os.listdir(tmp_path)) == kept | {"file"}


def test_sigkill_never_leaves_a_mixture(tmp_path: Path) -> None:
    path = tmp_path / "file"
    rng = random.Random(7)
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.05))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        content = path.read_bytes()
        assert len(content) == 200_000
        assert len(set(content)) == 1


QUICK = """
import sys
from pathlib import Path
from fedlite.storage import write_quickly
path, n = Path(sys.argv[1]), 0
while True:
    n += 1
    write_quickly(path, bytes([n % 256]) * (1 + n * 7919 % 90_000))
    print(n, flush=True)
"""


@pytest.mark.long
def test_a_writer_that_is_killed_leaves_one_content_or_the_next(tmp_path: Path) -> None:
    path, rng = tmp_path / "file", random.Random(3)
    for _ in range(12):
        writer = subprocess.Popen([sys.executable, "-c", QUICK, path], stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"1\n"
        time.sleep(rng.random() * 0.2)
        writer.send_signal(signal.SIGKILL)
        done = int(([b"1", *writer.stdout.read().split()])[-1])
        writer.wait()
        found = latest(path).read_bytes()
        told = {bytes([n % 256]) * (1 + n * 7919 % 90_000): n for n in (done, done + 1)}
        assert found in told, f"{len(found)} bytes after {done}"


@pytest.mark.parametrize("size", [10, storage._SHORT, storage._SHORT + 1])
def test_what_is_written_quickly_is_all_that_is_there(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    for content in (b"a" * size, b"b" * size, b"c", b"d" * size, b""):
        write_quickly(path, content)
        assert path.read_bytes() == content and latest(path) == path
    names = set(os.listdir(tmp_path))
    assert names <= {"file", ".file.part"}, names


@pytest.mark.parametrize("step", ["write", "rename", "replace", "last"])
def test_an_end_at_each_step_leaves_one_content_or_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    write_quickly(path, b"before that")
    write_quickly(path, b"before")
    real, calls = os.rename, []

    def ended(*given: object) -> None:
        calls.append(given)
        if step == "rename" or len(calls) == 2:
            raise KeyboardInterrupt
        real(*given)  # type: ignore[arg-type]

    def at_once(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", ended)
        if step == "replace":
            patch.setattr(os, "replace", at_once)
        if step == "write":
            patch.setattr(storage, "_room", at_once)
        with pytest.raises(KeyboardInterrupt):
            write_quickly(path, b"after")
    assert latest(path).read_bytes() == (b"after" if step == "last" else b"before")
    # And it goes on from there.
    for content in (b"then", b"and then"):
        write_quickly(path, content)
        assert latest(path).read_bytes() == content


def test_a_file_that_somebody_else_has_is_not_written_over(tmp_path: Path) -> None:
    """A backup of hard links keeps what was there; a link that leads elsewhere is not followed."""
    path, kept = tmp_path / "file", tmp_path / "kept"
    write_quickly(path, b"one")
    os.link(path, kept)
    for content in (b"two", b"three", b"four"):
        write_quickly(path, content)
        assert path.read_bytes() == content and kept.read_bytes() == b"one"
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    (tmp_path / ".file.part").unlink()
    (tmp_path / ".file.part").symlink_to(other)
    with contextlib.suppress(OSError):
        write_quickly(path, b"five")
    write_quickly(path, b"six")
    assert path.read_bytes() == b"six" and not path.is_symlink()
    assert other.read_bytes() == b"mine"


def test_a_file_that_cannot_be_written_over_is_replaced_as_before(tmp_path: Path) -> None:
    """One that is read only, or a link, which a rename replaces, is no room for the next one."""
    path, elsewhere = tmp_path / "file", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"mine")
    path.symlink_to(elsewhere)
    for content in (b"one", b"two", b"three"):
        write_quickly(path, content)
        assert path.read_bytes() == content and elsewhere.read_bytes() == b"mine"
    path.chmod(0o444)
    for content in (b"four", b"five", b"six"):
        write_quickly(path, content)
        assert path.read_bytes() == content
