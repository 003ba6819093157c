"""A site's figures: true, and nothing that names a person or tells a secret."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clients.runtime import seats, setup
from clients.runtime.metrics import collect
from clients.runtime.status import Answered, StatusFile
from fedlite.commands.main import app
from fedlite.deployment.invitation import Invitation
from fedlite.deployment.journal import Journal
from fedlite.deployment.prometheus import text
from fedlite.guard import policy, policy_file
from fedlite.guard.policy import DataSet
from server.coordinator.setup import init
from tests.clients.runtime.test_status import spend
from tests.deployment.test_prometheus import parse

FIRST = "coordinator=."


@pytest.fixture
def home(tmp_path: Path) -> Path:
    setup.init(tmp_path / "home", "dr-jones-ward", data=DataSet("digits", "digits"))
    join(tmp_path / "home", tmp_path / "c", "study")
    return tmp_path / "home"


def join(home: Path, folder: Path, name: str) -> Path:
    """Let the site join a new coordinator; return its seat."""
    made = init(folder, name, "fl.example.org:8443")
    told = Invitation.decode(made.invitation.read_bytes())
    setup.join(home, made.invitation, fingerprint=told.fingerprint)
    (seat,) = (one for one in seats.every(home) if seats.joined(one).name == name)
    return seat


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
    assert found["fedlite_site_running", FIRST] == found["fedlite_site_coordinators",] == 1
    assert found["fedlite_site_state", FIRST, "state=connected"] == 1
    assert found["fedlite_site_state", FIRST, "state=refused"] == 0
    assert {k[1:]: v for k, v in found.items() if k[0] == "fedlite_site_answers_total"} == {
        (FIRST, "outcome=sent"): 2,
        (FIRST, "outcome=budget"): 1,
        (FIRST, "outcome=other"): 2,
    }
    assert found["fedlite_site_bytes_total", FIRST, "direction=up"] == 500
    assert found["fedlite_site_bytes_total", FIRST, "direction=down"] == 200
    assert found["fedlite_certificate_days", FIRST] == 3649
    assert found["fedlite_site_bundles", "state=waiting"] == 1
    assert found["fedlite_budget_epsilon_spent", "dataset=digits"] == pytest.approx(charged)
    assert found["fedlite_budget_epsilon_left", "dataset=digits"] == pytest.approx(3 - charged)
    assert found["fedlite_ledger_valid", "dataset=digits"] == 1
    assert found["fedlite_refusals_day",] == 1
    assert found["fedlite_disk_free_bytes",] > 0
    assert 0 <= found["fedlite_site_state_seconds", FIRST] < 60
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
    assert found["fedlite_site_running", FIRST] == 0
    assert found["fedlite_site_state", FIRST, "state=connected"] == 0
    assert ("fedlite_site_state_seconds", FIRST) not in found


def test_each_coordinator_has_figures_of_its_own(home: Path, tmp_path: Path) -> None:
    seat = join(home, tmp_path / "d", "other")
    told = StatusFile(seat, "fl.example.org:8443", print)
    told.tell("refused")
    told.count(answered("sent"))
    found = parse(text(collect(home)))
    second = f"coordinator={seats.place(home, seat)}"
    assert found["fedlite_site_coordinators",] == 2
    assert found["fedlite_site_state", second, "state=refused"] == 1
    assert found["fedlite_site_answers_total", second, "outcome=sent"] == 1
    assert found["fedlite_site_running", FIRST] == 0


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
