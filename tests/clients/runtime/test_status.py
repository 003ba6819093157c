"""What `fedlite site status` says, from files alone."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clients.runtime import setup
from clients.runtime.status import Answered, StatusFile, status
from fedlite.commands.main import app
from fedlite.guard import policy, policy_file
from fedlite.guard.policy import DataSet
from fedlite.identity import keys
from fedlite.privacy import RecordMechanism
from fedlite.privacy.budget import Budget
from fedlite.privacy.ledger import Ledger

MECHANISM = RecordMechanism(0.1, 13.2, 1.0, steps=90, expected_batch=10)
ROUND = {
    "time": "2026-01-02T03:04:05Z",
    "run": "ab" * 8,
    "round": 7,
    "seconds": 1.25,
    "bytes_up": 12345,
    "bytes_down": 678,
    "outcome": "sent",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    setup.init(tmp_path / "home", "site-01", data=DataSet("digits", "digits", epsilon=2.0))
    return tmp_path / "home"


def write(home: Path, pid: int) -> None:
    told = {
        "pid": pid,
        "state": "connected",
        "since": "2026-01-01T00:00:00Z",
        "coordinator": "fl.example.org:443",
        "release": "0.1.0",
        "coordinator_release": "0.2.0",
        "run": "ab" * 8,
        "round": 7,
        "rounds": [ROUND],
        "bytes_up": 12345,
        "bytes_down": 678,
    }
    (home / "status.json").write_text(json.dumps(told))


def spend(home: Path) -> float:
    """Open a run and return what its plan was charged."""
    key = keys.load(home / "keys" / "ledger.pem")
    with Ledger.open(home / "ledgers" / "digits.jsonl", key) as ledger:
        budget = Budget(ledger)
        mine = policy.for_data(policy.load(home / "site.toml"), "digits")
        budget.begin(
            "ab" * 8,
            MECHANISM,
            mine,
            asked_epsilon=3.0,
            delta=1e-5,
            dataset="digits",
            commitment="cd" * 32,
            code="ef" * 32,
        )
        return budget.account.plans[0].charged


def shown(home: Path) -> str:
    result = CliRunner().invoke(app, ["site", "status", str(home)], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    return result.output


def test_a_site_that_never_ran(home: Path) -> None:
    output = shown(home)
    assert "site-01: not running" in output and "fedlite site join" in output
    found = status(home)
    assert found["running"] is False and found["rounds"] == [] and found["budget"] == []


def test_a_site_at_work(home: Path) -> None:
    charged = spend(home)
    write(home, os.getpid())
    (home / "bundles" / "waiting" / f"{'cd' * 32}.fab").write_bytes(b"x")
    policy_file.approve(home / "site.toml", policy.ApprovedBundle("ab" * 32, "heart"))
    output = shown(home)
    assert "connected since 2026-01-01" in output and "fl.example.org:443" in output
    assert "fedlite 0.1.0 here and 0.2.0 there" in output
    assert f"digits: epsilon {charged:.3g} of 2 spent, at delta 1e-05, in 1 run" in output
    assert "12,345" in output and "sent" in output and "1.25" in output
    assert "sent 12,345 bytes, received 678 since the start: messages as Flower packs" in output
    assert "1 approved, 1 waiting" in output and "cd" * 32 in output
    result = CliRunner().invoke(app, ["site", "status", str(home), "--json"])
    found = json.loads(result.output)
    assert found["budget"] == [
        {"dataset": "digits", "spent": charged, "ceiling": 2.0, "delta": 1e-5, "plans": 1}
    ]
    assert found["rounds"] == [ROUND] and found["pid"] == os.getpid()
    assert found["bundles"] == {"approved": {"ab" * 32: "heart"}, "waiting": ["cd" * 32]}


def test_neither_times_nor_runs_are_cut_at_80_columns(home: Path) -> None:
    write(home, os.getpid())
    told = json.loads((home / "status.json").read_bytes())
    other = {**ROUND, "run": "cd" * 8, "round": 1}
    # Two coordinators' runs take turns.
    told["rounds"] = [ROUND, other, {**ROUND, "round": 8}]
    (home / "status.json").write_text(json.dumps(told))
    for columns in ("80", "20"):
        result = CliRunner().invoke(app, ["site", "status", str(home)], env={"COLUMNS": columns})
        lines = result.output.splitlines()
        assert lines.count(f"run {'ab' * 8}") == 1 and lines.count(f"run {'cd' * 8}") == 1
        rows = [line for line in lines if line.startswith(str(ROUND["time"]))]
        assert len(rows) == 3 and max(map(len, rows)) <= 80


def test_a_dead_process_is_not_running(home: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    write(home, process.pid)
    assert "not running" in shown(home)
    assert status(home)["pid"] is None and status(home)["rounds"] == [ROUND]


def test_a_damaged_ledger_is_told(home: Path) -> None:
    spend(home)
    path = home / "ledgers" / "digits.jsonl"
    path.write_bytes(path.read_bytes().replace(b"13.2", b"13.3", 1))
    found = status(home)["budget"]
    assert found[0]["dataset"] == "digits" and "spent" not in found[0]
    assert found[0]["error"] in shown(home)


def test_a_damaged_status_is_told(home: Path) -> None:
    for text in ("{", "[]", '{"rounds": 3}'):
        (home / "status.json").write_text(text)
        with pytest.raises(ValueError, match="remove it"):
            status(home)
    assert CliRunner().invoke(app, ["site", "status", str(home.parent)]).exit_code == 2


def test_what_the_process_writes_the_command_reads(home: Path) -> None:
    said: list[str] = []
    file = StatusFile(home, "fl.example.org:443", said.append)
    file.tell("connected", "connected as node 7")
    file.tell("connected", "connected as node 7")
    for number in range(25):
        file.count(Answered("ab" * 8, "heart", str(number), 1.25, 10, 3, "sent"))
    found = status(home)
    assert said == ["connected as node 7"] and file.state == "connected"
    assert found["running"] and found["pid"] == os.getpid() and found["state"] == "connected"
    assert found["coordinator"] == "fl.example.org:443" and found["run"] == "ab" * 8
    assert [row["round"] for row in found["rounds"]] == [str(n) for n in range(5, 25)]
    assert found["rounds"][0].keys() == {*ROUND, "scenario"} and found["round"] == "24"
    assert (found["bytes_up"], found["bytes_down"]) == (250, 75)


def test_a_status_that_cannot_be_written_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    StatusFile(tmp_path / "gone", "fl.example.org:443", print).tell("stopped")
    assert "status.json" in caplog.text
