"""Scenario files, overrides and paths: what is read, and from where."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlite.scenario import (
    Federation,
    ScenarioError,
    load,
)


def test_a_file_without_a_name_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[federation]\nrounds = 2\n")
    assert load(path).federation == Federation(name="mine", rounds=2)
    changed = load(path, ["federation.rounds=5", "data.partition = dirichlet", "data.alpha=1"])
    assert changed.federation.rounds == 5
    assert changed.data.partition == "dirichlet"
    assert changed.data.alpha == 1.0


@pytest.mark.parametrize(
    ("content", "overrides", "expected"),
    [
        (None, [], "no such scenario file"),
        (b"[federation\n", [], "cannot be read as TOML"),
        (b"\xff\xfe", [], "cannot be read as TOML"),
        (b"", ["federation.rounds"], "must be section.key=value"),
        (b"", ["rounds=3"], "must be section.key=value"),
        (b"federation = 3\n", ["federation.rounds=3"], "must be a table"),
        (b"", ["federation.rounds=many"], "must be a whole number, got 'many'"),
        (b"", ["federation.rounds=0x2"], "must be a whole number, got '0x2'"),
        (b"", ["uplink.density=0b1"], "must be a number, got '0b1'"),
        (b"", ["data.shape=0x2"], "must be empty, or sizes such as 6x100, got '0x2'"),
        (b"", ["federation.rouns=1"], "did you mean rounds?"),
    ],
)
def test_files_and_overrides_that_cannot_be_read(
    tmp_path: Path, content: bytes | None, overrides: list[str], expected: str
) -> None:
    path = tmp_path / "s.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ScenarioError, match=expected.replace("?", r"\?")):
        load(path, overrides)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("federation.name=42", "42"),
        ("federation.name=1.0", "1.0"),
        ("federation.name=true", "true"),
        ("federation.name=0x2", "0x2"),
        ("federation.name=2024-01-02", "2024-01-02"),
        ('federation.name="42"', "42"),
        ("federation.name='a b'", "a b"),
        ("data.shape=16", "16"),
        ("data.target=2024", "2024"),
        ("data.target= 007 ", "007"),
        ("data.path=[1].csv", str(Path.cwd() / "[1].csv")),
        ("data.labels=0, 1", "0, 1"),
    ],
)
def test_a_key_that_holds_text_takes_it_as_it_stands(
    tmp_path: Path, override: str, value: str
) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[data]\nname = 'csv'\npath = 'a.csv'\ntarget = 'y'\n")
    section, _, key = override.partition("=")[0].partition(".")
    assert getattr(getattr(load(path, [override]), section), key) == value


def test_a_file_is_held_to_the_types_of_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[federation]\nname = 42\n")
    with pytest.raises(ScenarioError, match=r"federation\.name: must be a string, got 42"):
        load(path)


PATHS_OF_A_RUN = """
[data]
name = "csv"
path = "tables/own.csv"
target = "y"
[simulation]
sites = "~/homes"
witness = "/var/seen.jsonl"
"""


def test_paths_start_at_the_scenario_and_those_of_overrides_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All started where the command ran, so that a run could go on from there only."""
    study, home, here = tmp_path / "study", tmp_path / "home", tmp_path / "here"
    for folder in (study, home, here):
        folder.mkdir()
    (study / "s.toml").write_text(PATHS_OF_A_RUN)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    for named in (study / "s.toml", Path("../study/s.toml")):
        found = load(named)
        assert found.data.path == str(study / "tables" / "own.csv")
        assert found.simulation.sites == str(home / "homes")
        assert found.simulation.witness == "/var/seen.jsonl"
        changed = load(named, ["data.path=own.csv", "simulation.witness=w"])
        assert changed.data.path == str(here / "own.csv")
        assert changed.simulation.witness == str(here / "w")
    (study / "again.toml").write_text(found.to_toml())
    monkeypatch.chdir(home)
    assert load(study / "again.toml") == found
