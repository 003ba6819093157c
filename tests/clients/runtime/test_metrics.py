"""A site's figures: true, and nothing that names a person or tells a secret."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clients.runtime import setup
from clients.runtime.metrics import collect
from clients.runtime.status import Answered, StatusFile
from fedlite.commands.main import app
from fedlite.deployment.journal import Journal
from fedlite.deployment.prometheus import text
from fedlite.guard import policy, policy_file
from fedlite.guard.policy import DataSet
from tests.clients.runtime.test_status import spend
from tests.deployment.test_prometheus import parse


@pytest.fixture
def home(tmp_path: Path) -> Path:
    setup.init(tmp_path / "home", "dr-jones-ward", data=DataSet("digits", "digits"))
    return tmp_path / "home"


def answered(outcome: str) -> Answered:
    return Answered("ab" * 8, "heart", "3", 1.0, 100, 40, outcome)


def test_they_are_what_the_site_did(home: Path) -> None:
    charged = spend(home)
    told = StatusFile(home, "fl.example.org:443", print)
    told.tell("connected")
    for word in ("sent", "sent", "budget", "x" * 900, "y"):
        told.count(answered(word))
    (home / "bundles" / "waiting" / f"{'cd' * 32}.fab").write_bytes(b"x")
    policy_file.approve(home / "site.toml", policy.ApprovedBundle("ab" * 32, "heart"))
    Journal(home / "audit").write("refuse", why="the patient register of Dr Jones")
    page = text(collect(home))
    found = parse(page)
    assert found["fedlite_site_running",] == 1 and found["fedlite_site_joined",] == 0
    assert found["fedlite_site_state", "state=connected"] == 1
    assert found["fedlite_site_state", "state=refused"] == 0
    assert {k[1]: v for k, v in found.items() if k[0] == "fedlite_site_answers_total"} == {
        "outcome=sent": 2, "outcome=budget": 1, "outcome=other": 2,
    }  # fmt: skip
    assert found["fedlite_site_bytes_total", "direction=up"] == 500
    assert found["fedlite_site_bytes_total", "direction=down"] == 200
    assert found["fedlite_site_bundles", "state=waiting"] == 1
    assert found["fedlite_budget_epsilon_spent", "dataset=digits"] == pytest.approx(charged)
    assert found["fedlite_budget_epsilon_left", "dataset=digits"] == pytest.approx(3 - charged)
    assert found["fedlite_ledger_valid", "dataset=digits"] == 1
    assert found["fedlite_refusals_day",] == 1
    assert found["fedlite_disk_free_bytes",] > 0 and 0 <= found["fedlite_site_state_seconds",] < 60
    assert not re.search("jones|register|example|abab|cdcd", page, re.I)


def test_a_damaged_ledger_is_a_figure_and_has_no_budget(home: Path) -> None:
    spend(home)
    collect(home)  # what is remembered of a ledger is forgotten when it changes
    path = home / "ledgers" / "digits.jsonl"
    path.write_bytes(path.read_bytes().replace(b"13.2", b"13.3", 1))
    found = parse(text(collect(home)))
    assert found["fedlite_ledger_valid", "dataset=digits"] == 0
    assert ("fedlite_budget_epsilon_left", "dataset=digits") not in found


def test_a_site_that_has_stopped_is_in_no_state(home: Path) -> None:
    (home / "status.json").write_text(json.dumps({"pid": 2**22 + 1, "state": "connected"}))
    found = parse(text(collect(home)))
    assert found["fedlite_site_running",] == 0
    assert found["fedlite_site_state", "state=connected"] == 0


def test_the_command_prints_writes_or_refuses(home: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["site", "metrics", str(home)])
    assert shown.exit_code == 0 and parse(shown.stdout)["fedlite_info", "version=0.1.0"] == 1
    path = tmp_path / "site.prom"
    assert (
        CliRunner().invoke(app, ["site", "metrics", str(home), "--textfile", path]).exit_code == 0
    )
    assert parse(path.read_text()).keys() == parse(shown.stdout).keys()
    for words in (
        ["--listen", "0.0.0.0:9464"],
        ["--listen", "127.0.0.1:9464", "--textfile", str(path)],
        ["--textfile", str(tmp_path / "site.txt")],
    ):
        assert CliRunner().invoke(app, ["site", "metrics", str(home), *words]).exit_code == 2
    (home / "site.toml").write_text("nonsense")
    wrong = ["site", "metrics", str(home), "--listen", "127.0.0.1:9464"]
    assert CliRunner().invoke(app, wrong).exit_code == 2
