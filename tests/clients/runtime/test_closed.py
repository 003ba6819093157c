"""A site whose place would open its keys to approved code is refused, wherever that is noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clients.runtime import closed, doctor, setup, warm
from fedlite.deployment import sandbox
from fedlite.guard import policy
from fedlite.guard.policy import DataSet
from fedlite.guard.worker import Task, _shut_in


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    path = tmp_path / "lib" / "site-packages"
    path.mkdir(parents=True)
    monkeypatch.syspath_prepend(path)
    return path


def test_a_site_among_packages_is_refused_and_nothing_is_made(library: Path) -> None:
    home = library / "hospital"
    with pytest.raises(ValueError, match=r"readable, as Python .* need it; move it"):
        setup.init(home, "hospital")
    assert not home.exists()


@pytest.mark.long
def test_so_is_one_by_a_link_and_one_that_holds_python(library: Path, tmp_path: Path) -> None:
    (library / "hospital").mkdir()
    (tmp_path / "home").symlink_to(library / "hospital")
    with pytest.raises(ValueError, match="must lie outside"):
        setup.init(tmp_path / "home", "hospital")
    for place in (Path("/usr"), Path("/usr/local/hospital"), Path("/")):
        assert closed.problem(place), place
    assert "must hold nothing that Python needs" in closed.problem(library.parent)
    assert closed.problem(tmp_path / "other") == ""


def test_data_among_packages_is_refused(library: Path, tmp_path: Path) -> None:
    (library / "own.csv").write_text("x,y\n1,a\n")
    data = DataSet("own", "csv", path=str(library / "own.csv"), target="y")
    with pytest.raises(ValueError, match=r"own\.csv: must lie outside"):
        setup.init(tmp_path / "home", "hospital", data=data)
    assert not (tmp_path / "home").exists()


def _checks(home: Path) -> dict[str, doctor.Check]:
    return {c.name: c for c in doctor._sandbox(home, policy.load(home / "site.toml"))}


@pytest.mark.long
def test_the_doctor_and_the_start_refuse_what_was_installed_around_a_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "site-packages" / "hospital"
    setup.init(home, "hospital", data=DataSet("digits", "digits"))
    assert _checks(home)["closed to approved code"].state == "ok"
    monkeypatch.syspath_prepend(home.parent)
    check = _checks(home)["closed to approved code"]
    assert check.state == "fail" and "is readable" in check.what and check.mend.startswith("move")
    with pytest.raises(OSError, match="must lie outside"):
        warm.Workers(home, home, policy.load(home / "site.toml"))


def test_a_key_with_a_second_name_is_told(tmp_path: Path) -> None:
    home = tmp_path / "home"
    setup.init(home, "hospital", data=DataSet("digits", "digits"))
    os.link(home / "keys/node.pem", tmp_path / "copy.pem")
    check = _checks(home)["closed to approved code"]
    assert check.state == "fail" and "must have one name, and has 2" in check.what


@pytest.mark.parametrize("version", range(9))
def test_the_doctor_tells_an_old_kernel_from_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    setup.init(tmp_path / "home", "hospital", data=DataSet("digits", "digits"))
    monkeypatch.setattr(sandbox, "available", lambda: version)
    check = _checks(tmp_path / "home")["sandbox"]
    assert check.state == ("fail" if version < 1 else "warning" if version < 3 else "ok")
    assert bool(check.mend) == (check.state != "ok")
    if version:
        assert f"Landlock {version} " in check.what
        for since, what in ((3, "cutting"), (4, "TCP"), (5, "devices"), (6, "signals")):
            assert (what in check.what) == (version < since)
    else:
        with pytest.raises(OSError, match="nothing of a bundle is run"):
            warm.Workers(
                tmp_path / "home", tmp_path / "home", policy.load(tmp_path / "home/site.toml")
            )


@pytest.mark.skipif(bool(sandbox.problem()), reason="no process can be shut in here")
@pytest.mark.parametrize("opened", [False, True])
def test_the_worker_asks_the_kernel_itself(tmp_path: Path, opened: bool) -> None:
    """What its parent has overlooked: here that a folder that it may read holds the key."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/node.pem").write_text("secret")
    task = Task(
        str(tmp_path / "bundle"),
        "clients.app:app",
        1,
        2,
        {},
        {},
        read=[str(tmp_path / "home")] if opened else [],
        closed=[str(tmp_path / "home/node.pem"), str(tmp_path / "not-there")],
    )
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = b"closed"
        try:
            _shut_in(task)
        except PermissionError as error:
            said = str(error).encode()
        except BaseException as error:
            said = repr(error).encode()
        os.write(writer, said)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    os.waitpid(child, 0)
    assert ("node.pem must be closed" in said) if opened else said == "closed"
