"""A small project of one's own, written into an empty folder: everything in it runs at once."""

from __future__ import annotations

import json
from pathlib import Path

from fedlite.identity.names import site_problem
from fedlite.rooms import app_root
from fedlite.scenario.schema import meanings_in, schema
from fedlite.settings import did_you_mean
from fedlite.storage import write_atomic

_FOLDER = Path(__file__).parent / "templates"
# A file in a template, and what it is called in the project: what ends in .py would be taken for a
# module of this package.
_CALLED = {
    "data.py.txt": "data.py",
    "model.py.txt": "model.py",
    "check.py.txt": "test_project.py",
}
_NAME = "PROJECT"
SCHEMA = "scenario.schema.json"


def templates() -> tuple[str, ...]:
    """Return the names of the templates, sorted.

    >>> templates()
    ('images', 'table')
    """
    return tuple(sorted(path.name for path in _FOLDER.iterdir() if path.is_dir()))


def write(directory: Path, template: str = "table") -> list[Path]:
    """Write a project into a folder that is not there or empty, and return its files.

    Raises ValueError for an unknown template, and for a folder that holds something.
    """
    if template not in templates():
        raise ValueError(
            f"--template: must be one of {', '.join(templates())}, got {template!r}"
            + did_you_mean(template, templates())
        )
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ValueError(f"{directory}: is no folder; name one that is not there yet")
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(
            f"{directory}: must be empty or not there yet (rule: nothing is overwritten), holds "
            f"{sorted(path.name for path in directory.iterdir())[0]}; name another folder"
        )
    directory.mkdir(parents=True, exist_ok=True)
    name = directory.resolve().name
    name = "project" if site_problem(name) else name
    written = []
    for path in sorted((_FOLDER / template).iterdir()):
        text, there = (
            path.read_text(encoding="utf-8"),
            directory / _CALLED.get(path.name, path.name),
        )
        shown = name.replace("\\", "\\\\").replace('"', '\\"') if there.suffix == ".toml" else name
        write_atomic(there, text.replace(_NAME, shown).encode())
        written.append(there)
    write_atomic(directory / SCHEMA, schema_text().encode())
    return [*written, directory / SCHEMA]


def schema_text() -> str:
    """Return the JSON Schema of a scenario, with what docs/simulate.md says that keys mean."""
    page = app_root() / "docs" / "simulate.md"
    told = meanings_in(page.read_text(encoding="utf-8")) if page.is_file() else {}
    return json.dumps(schema(told), indent=2) + "\n"
