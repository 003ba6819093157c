"""What a name says, and the name of what Python has."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedlite.models import tinyml
from fedlite.registry import Registry, is_own, name_of, names
from fedlite.registry.names import file_of, is_held, is_module, label, resolve
from fedlite.registry.own import module_of

THINGS: Registry[Any] = Registry("thing", "fedlite.no-such-group", {})


@pytest.mark.parametrize(
    "name", ["cosine", "x.py", "x.py:", "x.py:a-b", ":make", "a b:make", "x:a.b", "x:", "é:f\n"]
)
def test_other_names_are_not_of_ones_own(name: str) -> None:
    assert not is_own(name) and resolve(name, Path("/tmp")) == name and label(name) == name


def test_a_module_is_found_by_its_dots() -> None:
    assert is_module("os.path:join") and THINGS.get("json:dumps")({}) == "{}"
    with pytest.raises(ValueError, match=r"thing: .*json.*has no 'dump_all'; did you mean dump"):
        THINGS.get("json:dump_all")
    with pytest.raises(ValueError, match=r"thing: 'no.such' cannot be imported \(ModuleNotFound"):
        THINGS.get("no.such:thing")


def test_relative_files_begin_where_the_process_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_ROOT", [])
    assert file_of("own/mine.py:make") == Path.cwd() / "own" / "mine.py"
    names.begin_at(tmp_path)
    assert file_of("own/mine.py:make") == tmp_path / "own" / "mine.py"
    assert file_of("/a/mine.py:make") == Path("/a/mine.py")


def test_what_another_process_can_import_is_named_by_module_or_file(tmp_path: Path) -> None:
    assert name_of(tinyml.mlp) == "fedlite.models.tinyml:mlp"
    path = tmp_path / "mine.py"
    path.write_text("def make():\n    return lambda: 3\nclass Rule:\n    def step(self): ...\n")
    module: Any = module_of(path)
    assert name_of(module.make) == f"{path}:make" and name_of(module.Rule) == f"{path}:Rule"
    assert THINGS.get(name_of(module.make)) is module.make
    for other in (module.make(), module.Rule.step, module.Rule(), partial(module.make), 3, "text"):
        name = name_of(other)
        assert is_held(name) and THINGS.get(name) is other and name_of(other) == name


def test_two_functions_of_one_name_are_two() -> None:
    def make(value: int) -> Any:
        def made() -> int:
            return value

        return made

    one, two = name_of(make(1)), name_of(make(2))
    assert one != two and (THINGS.get(one)(), THINGS.get(two)()) == (1, 2)


def test_what_another_process_was_given_is_not_found_here() -> None:
    with pytest.raises(ValueError, match=r"thing: 'python:gone' must be .*engine serial.*file"):
        THINGS.get("python:gone")


CODE = """
import sys
from fedlite.registry import name_of
def make():
    pass
print(name_of(make))
"""


def test_a_script_s_function_is_in_its_file_and_a_notebook_s_is_held(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text(CODE)
    for command, expected in (
        ([sys.executable, str(script)], f"{script}:make"),
        ([sys.executable, "-c", CODE], "python:make"),
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
