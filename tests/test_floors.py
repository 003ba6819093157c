"""Imports run down only: the house's floors, read from the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("fedlite", "clients", "strategies", "server", "simulations")
# Bottom up. The command and the API open any room, and only when they are called.
STOREYS = (
    "fedlite.settings fedlite.identity fedlite.storage fedlite.messages fedlite.parameters "
    "fedlite.rooms fedlite.steps",
    "fedlite.registry fedlite.scenario fedlite.project fedlite.privacy fedlite.reporting "
    "fedlite.secure",
    "fedlite.models fedlite.tasks fedlite.objectives fedlite.compression fedlite.data "
    "fedlite.deployment fedlite.audit fedlite.flower fedlite.protection fedlite.questions",
    "fedlite.plan fedlite.depth fedlite.guard strategies",
    "fedlite.training fedlite.evaluation",
    "clients fedlite.attacks fedlite.inference server",
    "simulations",
    "fedlite.commands fedlite.cli fedlite.api",
)
FLOORS = {name: floor for floor, names in enumerate(STOREYS) for name in names.split()}
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
        if "clients" in (here, there) and {here, there} & {"strategies", "server"}:
            found.append(f"{module} imports {name}: what runs at a site and at a server never meet")
        elif FLOORS[there] > FLOORS[here]:
            found.append(f"{module} imports {name}: an import that runs up")
    return found


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of nodes that reach each other (Tarjan 1972), each sorted."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for following in sorted(edges.get(node, ())):
            if following not in order:
                visit(following)
            if following in stack:
                lowest[node] = min(lowest[node], lowest[following])
        if lowest[node] == order[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(edges):
        if node not in order:
            visit(node)
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


def test_no_circle_of_modules_and_none_of_rooms() -> None:
    known = dict(modules())
    by_module: dict[str, set[str]] = {module: set() for module in known}
    by_room: dict[str, set[str]] = {}
    for module, path in known.items():
        source = path.read_text(encoding="utf-8")
        for name in imports(source, module, package=path.name == "__init__.py"):
            here, there = room(module), room(name)
            # `from fedlite.scenario.keys import Link` names a module and what is in it.
            target = name if name in known else name.rpartition(".")[0]
            if target in known and target not in (module, "fedlite"):
                by_module[module].add(target)
            if here and there and here != there:
                by_room.setdefault(here, set()).add(there)
    # `from fedlite.data import cache` names the package too, which imports its modules itself.
    for module, names in by_module.items():
        by_module[module] = {n for n in names if not module.startswith(f"{n}.")}
    assert circles(by_module) == []
    assert circles(by_room) == []
    assert len(by_room) > 15


def test_a_circle_is_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "f": {"g"}, "g": {"f"}}
    assert circles(edges) == [["a", "b", "c"], ["f", "g"]]


# What follows from a scenario is computed in the plan: whoever needs it takes the plan. A site's
# own process has no model and no plan: it computes the mechanism for itself. A Flower app of
# somebody else has no scenario, and figures of a table have no model, so neither has a plan.
OWN = (
    *("fedlite.plan", "fedlite.models.registry", "fedlite.guard.guardian"),
    *("fedlite.guard.foretold", "fedlite.flower.offer", "simulations.statistics"),
)
ONLY_IN_PLAN = {
    "fedlite.models.build",
    "fedlite.models.registry.build",
    "fedlite.data.spread.spread",
    "fedlite.compression.make",
    "fedlite.compression.compressor.make",
    "fedlite.protection.plan_mechanism",
}


def taken(source: str, module: str) -> set[str]:
    """Return which of these a module imports or calls by `package.name`."""
    names = set(imports(source, module, package=False))
    bound = {name.rpartition(".")[2]: name for name in names}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names.add(f"{bound.get(node.value.id, '')}.{node.attr}")
    return names & ONLY_IN_PLAN


def test_models_shares_mechanisms_and_compressors_are_made_in_the_plan_only() -> None:
    found = {}
    for module, path in modules():
        own = path.name == "__init__.py" or module in OWN
        if not own and (made := taken(path.read_text(encoding="utf-8"), module)):
            found[module] = made
    assert found == {}
    plan = (ROOT / "fedlite" / "plan.py").read_text(encoding="utf-8")
    assert len(taken(plan, "fedlite.plan")) == 4, "the check sees what stands in the plan itself"


def test_the_picture_shows_every_room_on_its_floor() -> None:
    picture = (ROOT / "docs" / "images" / "house.svg").read_text(encoding="utf-8")
    floors = dict(zip(range(len(STOREYS) - 1, -1, -1), _drawn(picture), strict=True))
    for floor, names in enumerate(STOREYS):
        expected = {name.removeprefix("fedlite.") for name in names.split()} - {"cli"}
        assert floors[floor] == expected, floor


def _drawn(picture: str) -> list[set[str]]:
    """Return the names in the picture's boxes, storey by storey from the top."""
    rows: list[set[str]] = []
    for line in picture.splitlines():
        if re.fullmatch(r'<text class="s" x="16".*>\d</text>', line):
            rows.append(set())
        elif found := re.fullmatch(r'<text class="t".*>(\w+)</text>', line):
            rows[-1].add(found[1])
    return rows


def test_every_module_has_a_floor() -> None:
    homeless = [m for m, _ in modules() if room(m) is None and m != "fedlite"]
    assert homeless == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fedlite.scenario.keys", "import server.app"),
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
        ("server.rounds", "from strategies import make\nfrom fedlite.plan import of\nimport flwr"),
        ("fedlite.training.share", "from fedlite.privacy import dpsgd\nfrom . import local"),
    ],
)
def test_the_check_lets_imports_down_pass(module: str, source: str) -> None:
    assert violations(source, module) == []
