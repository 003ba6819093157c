"""Submitting a scenario that names code of its own: nothing runs that was not shown."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedlite.commands.main import app
from fedlite.deployment import journal
from server.coordinator.folder import Coordinator
from tests.server.coordinator.test_submit import call, coordinator, pretended

__all__ = ["coordinator"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    text = '[federation]\nname = "mine"\nsites = 2\n[model]\nname = "net.py:make"\n'
    (folder / "s.toml").write_text(text)
    (folder / "net.py").write_text(
        f"open({str(tmp_path / 'SPRUNG')!r}, 'a').close()\n"
        "from fedlite.models.tinyml import mlp\n"
        "def make(shape, classes):\n    return mlp(shape, classes, hidden=4)\n"
    )
    return folder


def test_own_code_is_run_when_its_digest_was_shown_and_not_before(
    coordinator: Coordinator, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sprung, digest = study.parent / "SPRUNG", sha256((study / "net.py").read_bytes()).hexdigest()
    words = ("submit", study / "s.toml", "--detach")

    def submitted(answer: str = "", *more: str) -> Result:
        chosen = ["--coordinator", str(coordinator.path)]
        told = ["server", *map(str, words), *more, *chosen]
        return CliRunner().invoke(app, told, input=answer)

    with pretended(coordinator):
        for done in (submitted(), submitted("y\n"), submitted("", "--json")):
            assert done.exit_code == 2 and f"{digest}  own/net.py" in done.output
        monkeypatch.setattr("fedlite.commands.submission._can_ask", lambda: True)
        done = submitted("n\n")
        assert done.exit_code == 1 and f"{digest}  own/net.py" in done.output
        assert not sprung.exists() and not list(coordinator.jobs.iterdir())
        assert submitted("y\n").exit_code == 0 and sprung.exists()
        # The same once more spends budget anew; a changed file is another study.
        done = submitted("", "--run-own-code")
        assert done.exit_code == 2 and "submitted already" in done.output
        (study / "net.py").write_text((study / "net.py").read_text() + "# changed\n")
        assert submitted("", "--run-own-code").exit_code == 0
    kept = [coordinator.runs / name / "own" / "net.py" for name in ("mine", "mine-2")]
    assert [sha256(path.read_bytes()).hexdigest() == digest for path in kept] == [True, False]
    row = next(row for row in journal.read(coordinator.audit) if row["action"] == "submit")
    assert row["own"] == f"own/net.py={digest}"


def test_code_from_elsewhere_is_neither_run_nor_sent(
    coordinator: Coordinator, study: Path, tmp_path: Path
) -> None:
    (study / "net.py").rename(tmp_path / "net.py")
    for name, message in (
        (tmp_path / "net.py", "must be a file in the scenario's folder"),
        ("os:system", None),
        ("subprocess:run", None),
    ):
        chosen = f"model.name={name}:make" if message else f"model.name={name}"
        with pretended(coordinator):
            done = call(coordinator, "submit", study / "s.toml", "--set", chosen, "--run-own-code")
        assert done.exit_code == 2 and (message or "must be file.py:function") in done.output
    assert not (tmp_path / "SPRUNG").exists()
