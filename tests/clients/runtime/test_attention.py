"""`fedlite site status --quiet` and `doctor --quiet`: nothing when all is well, for cron."""

from __future__ import annotations

import json
import os
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clients.runtime import attention, seats, setup
from fedlite.commands.main import app
from fedlite.guard.policy import DataSet
from tests.clients.runtime.test_metrics import join
from tests.clients.runtime.test_status import spend

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a site that has joined and is connected."""
    made = tmp_path / "home"
    setup.init(made, "site-01", data=DataSet("digits", "digits"))
    join(made, tmp_path / "c", "study")
    told(made, "connected", 0)
    return made


def told(home: Path, state: str, ago: float, pid: int | None = None) -> None:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - ago))
    status = {"pid": pid or os.getpid(), "state": state, "since": since, "rounds": []}
    (home / "status.json").write_text(json.dumps(status))


def quiet(home: Path, *words: str, command: str = "status") -> tuple[int, str]:
    result = CliRunner().invoke(app, ["site", command, str(home), "--quiet", *words])
    return result.exit_code, result.stdout


def test_nothing_is_said_when_nothing_is_wrong(home: Path) -> None:
    assert quiet(home) == (0, "")
    assert quiet(home, "--json") == (0, '{\n  "wrong": []\n}\n')
    told(home, "unreachable", 60)  # it comes back by itself
    assert quiet(home) == (0, "")


def stopped(home: Path, patch: Any) -> None:
    told(home, "connected", 0, 2**22 + 1)


def refused(home: Path, patch: Any) -> None:
    told(home, "refused", 0)


def away(home: Path, patch: Any) -> None:
    told(home, "unreachable", 7200)


def waiting(home: Path, patch: Any) -> None:
    (home / "bundles" / "waiting" / f"{'cd' * 32}.fab").write_bytes(b"x")


def damaged(home: Path, patch: Any) -> None:
    spend(home)
    path = home / "ledgers" / "digits.jsonl"
    path.write_bytes(path.read_bytes().replace(b"13.2", b"13.3", 1))


def alone(home: Path, patch: Any) -> None:
    (home / seats.COORDINATOR).unlink()


def full(home: Path, patch: Any) -> None:
    patch.setattr(attention.shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 10**6))


def ending(home: Path, patch: Any) -> None:
    patch.setattr(attention, "days_left", lambda path: 3)


def other(home: Path, patch: Any) -> None:
    join(home, home.parent / "d", "other")


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (stopped, "study: the site does not run: fedlite site start"),
        (refused, "study: the coordinator refuses the site: fedlite site doctor"),
        (away, "study: out of reach since"),
        (waiting, "1 bundle to decide on: fedlite site approve"),
        (damaged, "digits: "),
        (alone, "no coordinator joined yet: fedlite site join"),
        (full, "0.0 GB free on the disk"),
        (ending, "study: its authority ends in 3 days"),
        (other, "other: the site does not run"),
    ],
)
def test_what_needs_a_person_is_a_line_and_exit_code_1(
    home: Path, wrong: Any, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(home, monkeypatch)
    code, said = quiet(home)
    assert code == 1 and line in said and len(said.splitlines()) == 1
    shown = CliRunner().invoke(app, ["site", "status", str(home)])
    assert shown.exit_code == 0  # who only looks is told, not failed


def test_a_wrong_call_is_exit_code_2(tmp_path: Path) -> None:
    assert quiet(tmp_path / "none")[0] == 2


def test_the_doctor_says_what_is_not_ok_and_no_more(home: Path) -> None:
    (home / seats.COORDINATOR).unlink()
    code, said = quiet(home, command="doctor")
    assert code == 1 and "\x1b" not in said
    assert "warning coordinator: none joined yet -> fedlite site join" in said
    assert not [line for line in said.splitlines() if line.startswith("ok")]
    wrong = json.loads(quiet(home, "--json", command="doctor")[1])["wrong"]
    assert wrong == said.splitlines()
