from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

import strategies
from fedlite import compression
from fedlite.registry import Registry
from fedlite.scenario import Federation, from_dict, load, own_code

SHAPES = Registry("shape", "fedlite.no-such-group", {"line": 1, "cube": 3})


def test_a_file_is_run_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import os\nWHERE = __file__\ndef make():\n    return 1\n")
    name = f"{file}:make"
    first = SHAPES.get(name)
    assert first() == 1 and SHAPES.get(name) is first  # type: ignore[operator]
    file.write_text("def make():\n    return 23\n")
    assert SHAPES.get(name)() == 23  # type: ignore[operator]


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    found = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"WHAT = {folder!r}\n")
        found.append(SHAPES.get(f"{tmp_path / folder / 'mine.py'}:WHAT"))
    assert found == ["a", "b"]


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (None, "make", r"shape: .*mine.py: no such file"),
        ("x = 1\n", "make", r"shape: .*mine.py: has no 'make'"),
        ("1 / 0\n", "make", r"shape: .*mine.py' cannot be imported \(ZeroDivisionError"),
        ("def (\n", "make", r"shape: .*mine.py' cannot be imported \(SyntaxError"),
        ("import no_such_module_at_all\n", "make", r"cannot be imported \(ModuleNotFoundError"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(
    tmp_path: Path, code: str | None, name: str, message: str
) -> None:
    file = tmp_path / "mine.py"
    if code is not None:
        file.write_text(code)
    with pytest.raises(ValueError, match=message):
        SHAPES.get(f"{file}:{name}")


def test_to_ask_whether_a_name_is_known_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nmake = 1\n")
    SHAPES.check(f"{tmp_path / 'mine.py'}:make")
    SHAPES.check("line")
    with pytest.raises(ValueError, match=r"shape: must be one of cube, line, or file.py:function"):
        SHAPES.check("cone")
    assert not (tmp_path / "sprung").exists()


def test_a_name_of_the_house_cannot_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "line"

        def load(self) -> int:
            return 99

    monkeypatch.setattr("fedlite.registry.kinds.entry_points", lambda group: [Point()])
    assert SHAPES.get("line") == 1 and SHAPES.names() == ("cube", "line")


def test_a_scenario_names_its_files_from_where_it_lies(tmp_path: Path) -> None:
    text = '[model]\nname = "mine.py:make"\n[uplink]\ncompressor = "sub/c.py:make"\n'
    (tmp_path / "s.toml").write_text(text)
    scenario = load(tmp_path / "s.toml")
    assert scenario.model.name == f"{tmp_path / 'mine.py'}:make"
    assert own_code(scenario) == {
        "model.name": f"{tmp_path / 'mine.py'}:make",
        "uplink.compressor": f"{tmp_path / 'sub' / 'c.py'}:make",
    }
    assert own_code(from_dict({})) == {}
    # Records are shown to others.
    assert scenario.notable()["model.name"] == "mine.make"
    told = io.StringIO(scenario.to_toml()).read()
    assert str(tmp_path) in told


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "def make(one):\n    return one / 0\n",
            r"(?s)shape: .*ZeroDivisionError.*; mend /.*mine.py, line 2$",
        ),
        (
            "def make(one):\n    return help(one)\ndef help(x):\n\n    return x.no\n",
            r"fails \(AttributeError: .*; mend /.*mine.py, line 5$",
        ),
        (
            "def make():\n    return 1\n",
            r"shape: .*mine.py:make' must be a function, got make\(\) \(too many positional "
            r"arguments\); see .*mine.py, line 1$",
        ),
        ("make = 3\n", r"shape: .*mine.py:make' must be a function, got 3"),
    ],
)
def test_what_a_file_raises_when_it_is_called_is_told(
    tmp_path: Path, code: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(ValueError, match=message):
        SHAPES.make(f"{tmp_path / 'mine.py'}:make", 1)


def test_what_a_file_makes_must_be_of_its_kind(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def make(*given):\n    return None\n")
    name = f"{tmp_path / 'mine.py'}:make"
    with pytest.raises(ValueError, match=r"^federation.strategy: .* strategies.Strategy, got None"):
        strategies.make(Federation(strategy=name))
    with pytest.raises(ValueError, match=r"^compressor: .* name, codec, .*limit, got NoneType"):
        compression.make(name)


def test_a_rule_of_the_house_over_keys_is_told_as_it_is(tmp_path: Path) -> None:
    code = "def make(one):\n    raise ValueError('shape.sides: must be even, got 3; take 4')\n"
    (tmp_path / "mine.py").write_text(code)
    kind = replace(SHAPES, key="shape.name")
    with pytest.raises(ValueError, match=r"^shape\.sides: must be even, got 3; take 4$"):
        kind.make(f"{tmp_path / 'mine.py'}:make", 1)
