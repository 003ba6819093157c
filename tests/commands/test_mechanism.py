"""`fedlite audit mechanism` as a person or a script calls it.

Covers fedlite/attacks/table.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedlite.commands.main import app
from tests.attacks.ground import small
from tests.attacks.mutants import RECORD


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(small().to_toml(), encoding="utf-8")
    return str(path)


def call(*arguments: str):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, ["audit", "mechanism", *arguments])


@pytest.mark.long
def test_json_is_one_object_and_says_what_holds(scenario: str, tmp_path: Path) -> None:
    out = tmp_path / "audit"
    done = call(scenario, "--quick", "--confidence", "0.999", "--json", "--out", str(out))
    found = json.loads(done.stdout)
    assert done.exit_code == 0, found["failed"]
    assert found["holds"] is True and found["failed"] == []
    measured, proven = found["epsilon"]["measured"], found["epsilon"]["proven"]
    assert 0.5 * proven < measured < proven <= 4.0
    assert found["verdict"].startswith("epsilon in [")
    assert json.loads((out / "mechanism.json").read_text()) == found
    assert (out / "mechanism.png").read_bytes().startswith(b"\x89PNG")
    names = {check["check"] for check in found["checks"]}
    assert {"step", "one run, as sent", "tails", "sampler", "timing", "ledger"} <= names
    for check in found["checks"]:
        assert check["assumes"] or check["blind"]


@pytest.mark.long
def test_a_broken_mechanism_ends_with_1_and_is_named(
    scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    RECORD["half of the noise"][0](monkeypatch)
    done = call(scenario, "--quick", "--confidence", "0.999")
    assert done.exit_code == 1
    said = " ".join(done.stdout.split())
    assert "does NOT hold" in said and "noise deviation" in said and "step" in said


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--set", "privacy.unit=none"], "privacy.unit: must be record or client"),
        (["--canaries", "3"], "--canaries: must be enough for a bound with confidence 0.95, got 3"),
        (["--canaries", "4000"], "--canaries: must be at most the model's 3796 trained values"),
        (["--confidence", "1.5"], "--confidence: must be greater than 0.5 and less than 1"),
        (["--canaries", "40", "--confidence", "0.9999999999999"], "set at least"),
    ],
)
def test_bad_input_is_said_before_anything_runs(
    scenario: str, arguments: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it ran")

    monkeypatch.setattr("fedlite.attacks.audit.step_audit", never)
    done = call(scenario, *arguments)
    assert done.exit_code == 2
    assert text in done.stderr


def test_an_unknown_scenario_names_the_known_ones() -> None:
    done = call("quickstrat")
    assert done.exit_code == 2 and "quickstart" in done.stderr
