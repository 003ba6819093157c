"""What the documentation says can be found: links, commands, keys, names, codes."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner

from fedlite import data, scenario as config
from fedlite.commands.main import app
from fedlite.messages import Code
from fedlite.models import registry
from fedlite.reporting.record import RoundRecord

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.M | re.S)
COMMAND = typer.main.get_command(app)


def prose(text: str) -> str:
    return BLOCK.sub("", text)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links() -> Iterator[tuple[str, str]]:
    for name, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
            if "://" not in target:
                yield name, target


def commands(text: str) -> Iterator[str]:
    """Yield `fedlite ...` command lines, in blocks and in running text."""
    for _, block in BLOCK.findall(text):
        for line in block.splitlines():
            found = re.match(r"(?:\$ )?(?:\S*/)?(fedlite(?: .*)?)$", line)
            if found:
                yield found[1]
    yield from re.findall(r"`(fedlite(?: [^`]+)?)`", prose(text))


def parse(line: str) -> None:
    """Parse a command line as the command itself would; raises when it would not be accepted."""
    words = shlex.split(line)[1:]
    command: Any = COMMAND
    while words and isinstance(command, click.Group):
        if words[0].startswith("-"):
            break
        name = words.pop(0)
        if name not in command.commands:
            raise ValueError(f"{line}: no command {name!r}")
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for word in words:
        if word.startswith("--") and word.split("=")[0] not in known:
            raise ValueError(f"{line}: no option {word!r}")
    if "--help" not in words and not isinstance(command, click.Group):
        command.make_context(command.name, list(words))


def test_there_is_something_to_check() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= set(TEXTS)
    assert len(list(links())) > 40
    assert sum(len(list(commands(text))) for text in TEXTS.values()) > 20


@pytest.mark.parametrize(("name", "target"), sorted(set(links())))
def test_a_relative_link_resolves(name: str, target: str) -> None:
    file, _, anchor = target.partition("#")
    path = (ROOT / name).parent / file if file else ROOT / name
    assert path.exists()
    if anchor:
        assert anchor in anchors(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("line", sorted({c for text in TEXTS.values() for c in commands(text)}))
def test_a_documented_command_exists(line: str) -> None:
    parse(line)


@pytest.mark.parametrize(
    "line", ["fedlite export x", "fedlite simulate --fast", "fedlite data remove", "fedlite report"]
)
def test_the_check_of_commands_can_fail(line: str) -> None:
    with pytest.raises((ValueError, click.UsageError)):
        parse(line)


COMMANDS: list[list[str]] = [
    [],
    ["simulate"],
    ["report"],
    ["stats"],
    ["sweep"],
    ["compare"],
    ["predict"],
    ["evaluate"],
    ["new"],
    ["schema"],
    ["serve"],
    ["operate", "token"],
    ["operate", "tokens"],
    ["operate", "revoke"],
    ["operate", "status"],
    ["operate", "reset"],
    ["operate", "withdraw"],
    ["operate", "log"],
    ["data", "list"],
    ["data", "fetch"],
    ["data", "add"],
    ["audit", "ledgers"],
    ["server", "init"],
    ["server", "start"],
    ["server", "stop"],
    ["server", "status"],
    ["server", "submit"],
    ["server", "bundle"],
    ["server", "stats"],
    ["server", "invite"],
    ["server", "approve"],
    ["server", "group"],
    ["server", "revoke"],
    ["server", "sites"],
    ["server", "clean"],
    ["server", "metrics"],
    ["server", "kit"],
    ["server", "release"],
    ["site", "init"],
    ["site", "join"],
    ["site", "approve"],
    ["site", "doctor"],
    ["site", "start"],
    ["site", "status"],
    ["site", "clean"],
    ["site", "metrics"],
    ["site", "kit"],
    ["site", "rotate-key"],
    ["site", "owner"],
    ["site", "adopt"],
    ["site", "grant"],
    ["site", "raise"],
    ["site", "rotate"],
    ["site", "recover"],
    ["site", "backup"],
    ["site", "restore"],
    ["site", "record"],
    ["site", "model"],
    ["site", "released"],
]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help_and_is_documented(path: list[str]) -> None:
    assert CliRunner().invoke(app, [*path, "--help"]).exit_code == 0
    told = {tuple(shlex.split(c)[1 : 1 + len(path)]) for t in TEXTS.values() for c in commands(t)}
    assert tuple(path) in told


def test_every_command_is_in_that_list() -> None:
    top: Any = COMMAND
    alone = {"simulate", "report", "sweep", "compare", "predict", "evaluate", "export"}
    alone |= {"new", "schema", "serve", "stats"}
    assert set(top.commands) == alone | {"data", "audit", "server", "site", "operate"}
    assert set(top.commands["data"].commands) == {"list", "fetch", "add", "show"}
    assert set(top.commands["audit"].commands) == {"ledgers", "mechanism"}
    for name in ("server", "site", "operate"):
        listed = {path[1] for path in COMMANDS if path[:1] == [name]}
        assert set(top.commands[name].commands) == listed


def test_make_targets_and_modules_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    blocks = "\n".join(block for text in TEXTS.values() for _, block in BLOCK.findall(text))
    inline = "\n".join(re.findall(r"`([^`\n]+)`", "\n".join(map(prose, TEXTS.values()))))
    named = set(re.findall(r"^make ([a-z]+)$", blocks + "\n" + inline, re.M))
    assert {"simulate", "test"} <= named <= targets
    for module in re.findall(r"python -m ([a-z.]+)", blocks):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file()


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yield (sections, rows) for every heading that names sections, as ### `[uplink]` does."""
    for heading, body in re.findall(r"^### (`\[.*?)\n(.*?)(?=^##)", text, re.M | re.S):
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| `(.*?)` \| (.*?) \|", body, re.M)
        yield re.findall(r"\[(\w+)\]", heading), [list(row) for row in rows]


def test_the_scenario_reference_is_the_code() -> None:
    documented: dict[str, list[list[str]]] = {}
    for sections, rows in tables(TEXTS["docs/simulate.md"]):
        documented |= dict.fromkeys(sections, rows)
    expected = {}
    for section, values in config.Scenario().to_dict().items():
        kind = type(getattr(config.Scenario(), section))
        expected[section] = [
            [
                field.name,
                field.type,
                json.dumps(values[field.name]),
                field.metadata["rule"] or "any",
            ]
            for field in fields(kind)
        ]
    assert documented == expected


def test_scenarios_models_and_sources_are_all_named() -> None:
    readme, guide = TEXTS["README.md"], TEXTS["docs/simulate.md"]
    scenarios = {p.stem for p in (ROOT / "simulations" / "scenarios").glob("*.toml")}
    assert set(re.findall(r"^\| `([\w-]+)` \| .* \| .* \| .* \|", readme, re.M)) >= scenarios
    for name in (*registry.names(), *(entry.name for entry in data.entries())):
        assert f"| `{name}` |" in guide


def test_every_code_is_in_the_operators_table_and_no_other() -> None:
    table = TEXTS["docs/operator.md"].split("## Codes")[1].split("## ")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.M) == [code.value for code in Code]


def test_every_column_of_the_rounds_is_explained() -> None:
    table = TEXTS["docs/simulate.md"].split("`rounds.jsonl`, one object")[1].split("`summary.json`")
    explained = re.findall(r"`(\w+)`(?=[^|]*\| )", table[0])
    assert {field.name for field in fields(RoundRecord)} <= set(explained)


def test_scenarios_in_the_readme_are_valid() -> None:
    found = [block for kind, block in BLOCK.findall(TEXTS["README.md"]) if kind == "toml"]
    assert len(found) == 2
    for block in found:
        config.from_dict(tomllib.loads(block))


def test_every_module_is_on_the_map() -> None:
    page = TEXTS["docs/architecture.md"].split("## Rooms")[1].split("## Floors")[0]
    for folder in ("fedlite", "clients", "server", "strategies", "simulations"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "__init__.py" and path.parent.name != "benchmarks":
                stem = "page*" if path.stem.startswith("page") else path.stem
                assert f"{stem}.py" in page, path
