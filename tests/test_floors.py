"""Imports run down only: the house's floors, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("fedlite", "clients", "strategies", "server", "simulations")
FILES = "parameters storage config rules recommend rooms messages".split()
GROUND = [*FILES, *"compression privacy models data reporting".split()]
CLI = ("", "_output", "_site", "_server", "_enrolment", "_approval", "_mechanism")
FLOORS = {
    **{f"fedlite.{name}": 0 for name in GROUND},
    "fedlite.training": 1,
    "fedlite.inference": 1,
    "fedlite.flower": 1,
    "fedlite.deployment": 1,
    "fedlite.attacks": 2,
    "strategies": 2,
    "clients": 2,
    "server": 3,
    "simulations": 4,
    # The command opens any room, and only when its command is called.
    **{f"fedlite.cli{part}": 5 for part in CLI},
}
FLOWER = "fedlite.flower"


def room(module: str) -> str | None:
    """Return the entry of FLOORS that a module belongs to."""
    parts = module.split(".")
    for length in (2, 1):
        name = ".".join(parts[:length])
        if name in FLOORS:
            return name
    return None


def imports(source: str, module: str, *, package: bool) -> Iterator[str]:
    """Yield every module that the source imports, wherever in it, as absolute names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[: len(parts) - node.level + (1 if package else 0)]
                base = ".".join([*kept, *([node.module] if node.module else [])])
            # `from fedlite import flower` names a module, too.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(source: str, module: str, *, package: bool = False) -> list[str]:
    """Return what is wrong with a module's imports, one line each."""
    found = []
    here = room(module)
    for name in imports(source, module, package=package):
        if name.split(".")[0] == "flwr" and module.split(".")[0] == "fedlite" and here != FLOWER:
            found.append(f"{module} imports {name}: only {FLOWER} may import flwr")
        there = room(name)
        if here is None or there is None or here == there:
            continue
        if {here, there} == {"strategies", "clients"}:
            found.append(f"{module} imports {name}: strategies and clients never meet")
        elif FLOORS[there] > FLOORS[here]:
            found.append(f"{module} imports {name}: an import that runs up")
    return found


def modules() -> Iterator[tuple[str, Path]]:
    for folder in ROOMS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def test_imports_run_down_only() -> None:
    seen, found = 0, []
    for module, path in modules():
        seen += 1
        source = path.read_text(encoding="utf-8")
        found += violations(source, module, package=path.name == "__init__.py")
    assert found == []
    assert seen > 40


def test_every_module_has_a_floor() -> None:
    homeless = [m for m, _ in modules() if room(m) is None and m != "fedlite"]
    assert homeless == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fedlite.config", "import server.app"),
        ("fedlite.privacy.dpsgd", "from fedlite.training import local"),
        ("fedlite.privacy.dpsgd", "def f():\n    from fedlite import flower"),
        ("fedlite.privacy.dpsgd", "from ..training import local"),
        ("fedlite.privacy.dpsgd", "from .. import training"),
        ("fedlite.training.share", "from flwr.app import Message"),
        ("fedlite.training.share", "import flwr"),
        ("strategies.fedavg", "from clients.site import Site"),
        ("clients.site", "import strategies"),
        ("fedlite.privacy.dpsgd", "from fedlite.attacks import canaries"),
        ("fedlite.training.share", "import fedlite.attacks"),
        ("clients.site", "import server.rounds as r"),
        ("server.rounds", "if True:\n    from simulations import grid"),
    ],
)
def test_the_check_can_fail(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fedlite.flower", "import flwr"),
        ("server.rounds", "from strategies import make\nfrom clients import site\nimport flwr"),
        ("fedlite.training.share", "from fedlite.privacy import dpsgd\nfrom . import local"),
    ],
)
def test_the_check_lets_imports_down_pass(module: str, source: str) -> None:
    assert violations(source, module) == []
