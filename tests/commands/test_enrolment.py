"""`fedlite server invite | approve | revoke | sites`: both sides of joining by commands alone."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import fedlite
from fedlite.commands import enrolment
from fedlite.commands.main import app
from fedlite.deployment.invitation import Invitation
from fedlite.identity.names import site_problem
from server.coordinator import setup
from server.coordinator.folder import Coordinator


@dataclass
class SuperLink:
    """What Flower would remember."""

    known: dict[str, int] = field(default_factory=dict)
    running: bool = True
    closed: int = 0


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> SuperLink:
    """Put a SuperLink in memory in the place of the one that would run."""
    made = SuperLink()

    class Control:
        def __init__(self, coordinator: Coordinator) -> None:
            """Connect at the first call, as over a network."""

        def _call(self) -> dict[str, int]:
            if not made.running:
                raise ConnectionError("is the coordinator running? fedlite server start")
            return made.known

        def register(self, public_key: str, name: str) -> int:
            return self._call().setdefault(public_key, len(made.known) + 1)

        def unregister(self, node_id: int) -> None:
            known = self._call()
            del known[next(key for key, number in known.items() if number == node_id)]

        def nodes(self) -> list[dict[str, Any]]:
            return [
                {"node_id": number, "public_key": key, "status": "online"}
                for key, number in self._call().items()
            ]

        def close(self) -> None:
            made.closed += 1

    module = ModuleType("server.coordinator.control")
    module.Control = Control  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


@pytest.fixture
def coord(tmp_path: Path) -> Path:
    return setup.init(tmp_path / "coord", "c", "127.0.0.1:9").path


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def said(*words: object) -> Any:
    result = call(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def enrol(coord: Path, home: Path, name: str) -> dict[str, Any]:
    """Join as the two operators do it, who tell each other the fingerprints; return the request."""
    invited = said(
        "server", "invite", "--coordinator", coord, "--out", home.parent / "invitation.json"
    )
    said("site", "init", home, "--name", name)
    told = invited["fingerprint"]
    answer: dict[str, Any] = said(
        "site", "join", home, invited["invitation"], "--fingerprint", told
    )
    return answer


def test_both_sides_by_commands_alone(coord: Path, tmp_path: Path, link: SuperLink) -> None:
    home = tmp_path / "home"
    assert "no sites yet" in call("server", "sites", "--coordinator", coord).output
    asked = enrol(coord, home, "site-01")
    key = asked["node_key"]
    done = said("server", "approve", "--coordinator", coord, asked["request"], "--fingerprint", key)
    assert (done["name"], done["node_id"]) == ("site-01", 1)
    (row,) = said("server", "sites", "--coordinator", coord)["sites"]
    assert (row["name"], row["state"], row["node_key"]) == ("site-01", "online", key)
    assert row["release"] == fedlite.__version__
    changed = said("site", "rotate-key", home)
    key = changed["node_key"]
    done = said(
        "server", "approve", "--coordinator", coord, changed["request"], "--fingerprint", key
    )
    assert said("site", "rotate-key", home, "--finish")["node_key"] == key
    assert len(link.known) == 1
    assert "revoked" in call("server", "revoke", "--coordinator", coord, "site-01").output
    assert link.known == {} and link.closed > 3
    listing = CliRunner().invoke(
        app, ["server", "sites", "--coordinator", str(coord)], env={"COLUMNS": "120"}
    )
    assert "site-01" in listing.output and "revoked" in listing.output
    result = call(
        "server", "approve", "--coordinator", coord, home / "request.json", "--fingerprint", key
    )
    assert result.exit_code == 2 and "--again" in result.output


def test_an_invitation_is_written_anew(
    coord: Path, monkeypatch: pytest.MonkeyPatch, link: SuperLink
) -> None:
    """It says what runs now, at the address that the settings name now."""
    first = said("server", "invite", "--coordinator", coord)
    toml = coord / "coordinator.toml"
    toml.write_text(toml.read_text().replace("127.0.0.1:9", "fl.example.org:443"))
    monkeypatch.setattr(fedlite, "__version__", "7.1.0")
    told = said("server", "invite", "--coordinator", coord, "--out", coord.parent / "i.json")
    assert told["address"] == "fl.example.org:443" and told["fingerprint"] == first["fingerprint"]
    for path in (coord / "invitation.json", coord.parent / "i.json"):
        one = Invitation.decode(path.read_bytes())
        assert (one.fedlite, one.address, one.protocol) == ("7.1.0", "fl.example.org:443", "1")


def test_nobody_is_approved_unseen(coord: Path, tmp_path: Path, link: SuperLink) -> None:
    asked = enrol(coord, tmp_path / "home", "s")
    result = call("server", "approve", "--coordinator", coord, asked["request"])
    assert result.exit_code == 2 and "--fingerprint: must be given" in result.output
    wrong = call(
        "server",
        "approve",
        "--coordinator",
        coord,
        asked["request"],
        "--fingerprint",
        "SHA256:AAAA",
    )
    assert wrong.exit_code == 2 and asked["node_key"] in wrong.output
    assert link.known == {} and (coord / "sites.json").read_text() == "{}\n"


def test_without_the_coordinator_running(coord: Path, tmp_path: Path, link: SuperLink) -> None:
    asked = enrol(coord, tmp_path / "home", "s")
    words = (
        "server",
        "approve",
        "--coordinator",
        coord,
        asked["request"],
        "--fingerprint",
        asked["node_key"],
    )
    assert call(*words).exit_code == 0
    link.running = False
    result = CliRunner().invoke(app, ["server", "sites", "--coordinator", str(coord), "--json"])
    assert json.loads(result.stdout)["sites"][0]["state"] == "unknown"
    assert "fedlite server start" in result.stderr
    result = call("server", "revoke", "--coordinator", coord, "s")
    assert result.exit_code == 1 and "fedlite server start" in result.output
    # It is on record already: no run uses the site, and revoking again completes it.
    assert json.loads((coord / "sites.json").read_text())["s"]["revoked"] is True
    link.running = True
    assert call("server", "revoke", "--coordinator", coord, "s").exit_code == 0 and link.known == {}


def test_what_is_no_coordinators_folder(tmp_path: Path, link: SuperLink) -> None:
    for words in (("sites",), ("invite",), ("revoke", "s"), ("approve", "r.json")):
        result = call("server", *words, "--coordinator", tmp_path)
        assert result.exit_code == 2 and "fedlite server init" in result.output


def test_every_command_has_a_help(link: SuperLink) -> None:
    for words in ("init", "join", "rotate-key", "doctor", "status", "approve", "raise", "recover"):
        assert call("site", words, "--help").exit_code == 0
    for words in ("invite", "approve", "revoke", "group", "sites"):
        assert call("server", words, "--help").exit_code == 0


def test_a_site_s_name_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["north", "[conceal]north", "[bold]north"]
    assert not any(site_problem(name) for name in names)
    told = {"state": "online", "release": "1", "approved": "today", "node_key": "ab", "groups": []}
    enrolment._table([{"name": name, **told} for name in names])
    assert [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()[1:]] == names


def test_a_site_is_put_into_groups_at_its_approval_and_later(
    coord: Path, link: SuperLink, tmp_path: Path
) -> None:
    asked = enrol(coord, tmp_path / "home", "s")
    words = ("server", "approve", "--coordinator", coord, asked["request"], "--fingerprint")
    groups = ("--group", "neuro", "--group", "cardio")
    assert said(*words, asked["node_key"], *groups)["groups"] == ["cardio", "neuro"]
    assert said("server", "sites", "--coordinator", coord)["sites"][0]["groups"] == [
        "cardio",
        "neuro",
    ]
    listed = call("server", "sites", "--coordinator", coord).stdout.splitlines()
    assert "groups" in listed[0] and "cardio, neuro" in listed[1]
    # Approved again without a word of groups, as for a new key, it stays in them.
    assert said(*words, asked["node_key"])["groups"] == ["cardio", "neuro"]
    found = call("server", "group", "s", "--coordinator", coord)
    assert found.stdout == "s: in no group\n"
    found = call("server", "group", "s", "@cardio", "--coordinator", coord)
    assert found.exit_code == 2 and "without the @" in found.stderr
