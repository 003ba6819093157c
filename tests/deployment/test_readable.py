"""What approved code may read of the installation, and whether that opens a site's own files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fedlite
from fedlite.deployment.readable import opened_by, python_paths

PACKAGE = Path(fedlite.__file__).resolve().parent


def test_what_python_needs_is_no_more_than_that() -> None:
    paths = python_paths()
    assert all(path.exists() for path in paths)
    assert not {Path(p) for p in ("/", "/etc", "/dev", "/home", "/root", "/tmp", ".")} & set(paths)
    assert Path("/sys") not in paths


def test_of_a_checkout_only_what_is_imported_is_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("used/deep", "unused", "hospital/keys"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("used/__init__.py", "unused/__init__.py", "alone.py", "other.py"):
        (tmp_path / name).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("used")
    __import__("alone")
    found = {path for path in python_paths() if path.is_relative_to(tmp_path)}
    assert found == {tmp_path / "used", tmp_path / "alone.py"}
    for name in ("used", "alone"):
        del sys.modules[name]


def test_an_editable_install_of_fedlite_opens_its_package_only() -> None:
    code = (
        "import fedlite; from fedlite.deployment import readable; print(*readable.python_paths())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [Path(path) for path in done.stdout.split()]
    assert opened_by([PACKAGE / "deployment"], found) is not None
    assert opened_by([PACKAGE.parent / "hospital", PACKAGE.parent], found) is None


def test_below_a_readable_path_or_one_itself(tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    assert opened_by([library / "a/b"], [library]) == (library / "a/b", library)
    assert opened_by([library], [tmp_path / "x", library]) == (library, library)
    assert opened_by([tmp_path, tmp_path / "library-2"], [library]) is None
    assert opened_by([library / ".." / "home"], [library]) is None
    assert opened_by([Path("/usr/local/share/site")], python_paths()) is not None


def test_links_do_not_hide_it(tmp_path: Path) -> None:
    library, home = tmp_path / "library", tmp_path / "home"
    (library / "site").mkdir(parents=True)
    home.symlink_to(library / "site")
    assert opened_by([home / "keys"], [library]) == (home / "keys", library)
    (tmp_path / "alias").symlink_to(library)
    assert opened_by([library / "site"], [tmp_path / "alias"]) is not None


def test_a_folder_that_is_mounted_below_is_open(tmp_path: Path) -> None:
    """In a namespace of its own, as only root may mount."""
    code = """
import ctypes, os, sys
from pathlib import Path
from fedlite.deployment.readable import opened_by
base = Path(sys.argv[1])
for name in ("library/a b", "home/keys", "sub", "library/own"):
    (base / name).mkdir(parents=True)
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x44000, None):
    raise SystemExit(7)
def bind(source, target):
    assert libc.mount(os.fsencode(source), os.fsencode(target), None, 0x1000, None) == 0
assert opened_by([base / "home/keys"], [base / "library"]) is None
bind(base / "home", base / "library/a b")
assert opened_by([base / "home/keys"], [base / "library"]) == (base / "home/keys", base / "library")
assert opened_by([base / "sub"], [base / "library"]) is None
bind(base / "library/own", base / "sub")
assert opened_by([base / "sub/keys"], [base / "library"]) is not None
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
    )
    if done.returncode == 7:
        pytest.skip("may not mount here")
    assert done.returncode == 0, done.stderr
