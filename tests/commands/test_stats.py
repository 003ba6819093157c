"""`fedlite stats` and `fedlite server stats`: what they fetch, and what they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.data import catalog
from server.coordinator.folder import Coordinator
from tests.server.coordinator.test_submit import coordinator, pretended

__all__ = ["coordinator"]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names that are fetched into an empty cache, where no network is."""
    found: list[str] = []

    def fetch(name: str) -> Path:
        found.append(name)
        raise ConnectionError(f"{name}: no way led there")

    monkeypatch.setenv("FEDLITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog, "fetch", fetch)
    monkeypatch.chdir(tmp_path)
    return found


@pytest.mark.parametrize("told", [["--json"], []], ids=["json", "aloud"])
@pytest.mark.parametrize(
    "words", [["simulate"], ["stats"], ["server", "stats"], ["server", "submit"]], ids=" ".join
)
def test_records_that_are_not_there_are_fetched_by_whoever_needs_them(
    coordinator: Coordinator, asked: list[str], words: list[str], told: list[str]
) -> None:
    where = ["--coordinator", str(coordinator.path)] if words[0] == "server" else ["--out", "out"]
    with pretended(coordinator):
        done = CliRunner().invoke(app, [*words, "heart", *where, *told])
    assert asked == ["heart-disease"], done.output
    assert done.exit_code == 1 and "no way led there" in done.output
    assert ("fetching heart-disease into" in done.output) == (not told)
    assert not Path("out").exists()


@pytest.mark.parametrize("words", [["stats"], ["server", "stats"]], ids=" ".join)
def test_what_is_no_table_is_refused_before_it_is_fetched(
    coordinator: Coordinator, asked: list[str], words: list[str]
) -> None:
    where = ["--coordinator", str(coordinator.path)] if words[0] == "server" else []
    text = ["--set", "data.name=sentiment", "--set", "data.tokenizer=minilm"]
    done = CliRunner().invoke(app, [*words, "heart", *where, *text])
    assert done.exit_code == 2 and "must be a table with named columns" in done.output
    assert asked == []
