"""No file is too long to be read at once, and every module is covered by a test that says so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.test_floors import ROOMS, ROOT

LONGEST = 400
# A line of a test file's docstring: `Covers fedlite/rooms.py, fedlite/settings.py.`
COVERS = re.compile(r"\bCovers ((?:[\w/]+\.py(?:,\s+)?)+)")
FOLDERS = (*ROOMS, "tests")
# What is measured in benchmarks is not claimed by tests.
LEFT_OUT = "simulations/benchmarks/"


def sources(folders: tuple[str, ...]) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def named(text: str) -> set[str]:
    """Return the modules that a test file's docstring says it covers."""
    told = COVERS.findall(ast.get_docstring(ast.parse(text)) or "")
    return {name for names in told for name in re.split(r",\s+", names) if name}


def twins(module: str) -> str:
    """Return the pattern of a module's own test files, under the root."""
    path = Path(module.removeprefix("fedlite/"))
    return (Path("tests") / path.parent / f"test_{path.stem}*.py").as_posix()


def test_no_file_is_longer_than_can_be_read_at_once() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources(FOLDERS)
    }
    assert len(found) > 400
    assert {name: lines for name, lines in found.items() if lines > LONGEST} == {}


@pytest.mark.long
def test_every_module_has_its_test_or_a_test_that_says_it_covers_it() -> None:
    modules = {
        path.relative_to(ROOT).as_posix() for path in sources(ROOMS) if path.stem != "__init__"
    }
    tests = [path for path in sources(("tests",)) if path.name.startswith("test_")]
    told = {path: named(path.read_text(encoding="utf-8")) for path in tests}
    covered = set().union(*told.values())
    # A promise about a module that has gone is a promise about nothing.
    assert covered <= modules
    homeless = {
        module
        for module in modules - covered
        if not module.startswith(LEFT_OUT) and not list(ROOT.glob(twins(module)))
    }
    assert homeless == set()
    assert len(modules) > 150


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ('"""Bytes.\n\nCovers fedlite/rooms.py.\n"""', {"fedlite/rooms.py"}),
        (
            '"""Covers fedlite/rooms.py, server/app.py,\nfedlite/cli.py."""',
            {"fedlite/rooms.py", "server/app.py", "fedlite/cli.py"},
        ),
        ("# Covers fedlite/rooms.py.", set()),
        ('"""Discovers fedlite/rooms.py."""', set()),
        ('"""fedlite/rooms.py is mentioned."""', set()),
    ],
)
def test_what_a_test_says_it_covers_is_read(text: str, modules: set[str]) -> None:
    assert named(text) == modules


def test_a_module_of_the_library_is_looked_for_where_its_test_would_be() -> None:
    assert twins("fedlite/audit/page.py") == "tests/audit/test_page*.py"
    assert twins("server/rounds.py") == "tests/server/test_rounds*.py"
