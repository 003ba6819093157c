"""From TOML, or Flower's run config, to a scenario: everything wrong is told at once."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlite.registry import resolve
from fedlite.scenario.links import with_links, with_model, with_step
from fedlite.scenario.rules import advice, broken
from fedlite.scenario.whole import CODE, OPTIONS, PATHS, SECTIONS, Scenario, ScenarioError, is_path
from fedlite.settings import did_you_mean, parse_value, read_options, section


def from_dict(tables: Mapping[str, Any]) -> Scenario:
    """Check nested values and return the scenario.

    Raises ScenarioError with one line per wrong key: the key, the rule, the value and the mend.
    """
    errors: list[str] = []
    sections: dict[str, Any] = {}
    for name in tables:
        if name not in SECTIONS:
            shown = name if name.isprintable() else repr(name)
            section_name, dot, key = name.partition(".")
            if dot and section_name in SECTIONS and key.isprintable():
                mend = f"; write {key} into the table [{section_name}]"
            else:
                mend = did_you_mean(name, SECTIONS)
            errors.append(f"[{shown}]: no such section{mend}")
    for name, kind in SECTIONS.items():
        table = tables.get(name, {})
        if not isinstance(table, Mapping):
            errors.append(f"{name}: must be a table, got {table!r}; write [{name}] above its keys")
            continue
        sections[name] = section(name, kind, table, errors)
    if not errors:
        settled = with_step(with_model(Scenario(**sections), tables), tables)
        scenario = with_links(settled, tables)
        errors = broken(scenario)
        if not errors:
            return replace(scenario, notes=(*scenario.notes, *advice(scenario)))
    raise ScenarioError("\n".join(errors))


def from_run_config(flat: Mapping[str, Any]) -> Scenario:
    """Build a scenario from Flower's run config; keys of section `run` are not its business."""
    return from_dict(nest({k: v for k, v in flat.items() if not k.startswith("run.")}))


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `{"a.b": 1}` into `{"a": {"b": 1}}`."""
    tables: dict[str, Any] = {}
    for dotted, value in flat.items():
        section, dot, key = dotted.partition(".")
        if dot:
            tables.setdefault(section, {})[key] = value
        else:
            tables[dotted] = value
    return tables


def load(path: Path, overrides: Iterable[str] = ()) -> Scenario:
    """Read a TOML file, apply `section.key=value` overrides, and check the result.

    Keys that name a file or folder are made absolute: those in the file are relative to its folder,
    those in an override to the working directory. So the scenario means the same anywhere.

    Raises ScenarioError when the file is missing or no TOML, or when any key is wrong.
    """
    return from_dict(overridden(read(path), overrides))


def read(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file, its paths made absolute; no key is checked yet.

    A file that does not name the federation gives it its own name. Raises ScenarioError when the
    file is missing or no TOML.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScenarioError(f"{path}: no such scenario file; check the path") from None
    except IsADirectoryError:
        raise ScenarioError(f"{path}: is a directory; name a TOML file in it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ScenarioError(f"{path}: cannot be read as TOML ({error}); mend that line") from None
    _place(tables, path.parent)
    tables.setdefault("federation", {})
    if isinstance(tables["federation"], dict):
        tables["federation"].setdefault("name", path.stem)
    return tables


def overridden(tables: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of a scenario's tables with `section.key=value` overrides applied.

    Raises ScenarioError for one that is not of that form.
    """
    copy = {name: dict(t) if isinstance(t, Mapping) else t for name, t in tables.items()}
    for override in overrides:
        dotted, equals, text = override.partition("=")
        section, dot, key = dotted.strip().partition(".")
        if not equals or not dot:
            raise ScenarioError(
                f"--set {override}: must be section.key=value; for example federation.rounds=5"
            )
        table = copy.setdefault(section, {})
        if not isinstance(table, dict):
            raise ScenarioError(f"{section}: must be a table, got {table!r}; write [{section}]")
        _override(table, section, key, text.strip())
    # What an override has put there is relative to the working directory, the rest absolute.
    _place(copy, Path())
    return copy


def _place(tables: Mapping[str, Any], folder: Path) -> None:
    """Make every path in the tables absolute, files of own code too; they begin at `folder`."""
    for name, key in PATHS:
        table = tables.get(name)
        text = table.get(key) if isinstance(table, dict) else None
        if isinstance(table, dict) and isinstance(text, str) and is_path((name, key), text):
            table[key] = str((folder.resolve() / Path(text).expanduser()).absolute())
    for name, key in CODE:
        table = tables.get(name)
        text = table.get(key) if isinstance(table, dict) else None
        if isinstance(table, dict) and isinstance(text, str):
            table[key] = resolve(text, folder.resolve())


def _override(table: dict[str, Any], section: str, key: str, text: str) -> None:
    """Put an override into its table: a key that holds text takes it as it stands, numbers too."""
    value, kind = parse_value(text), SECTIONS.get(section)
    key, dot, option = key.partition(".")
    if (section, key) in OPTIONS:
        if dot:
            given = table.get(key, "")
            try:
                before = read_options(given) if isinstance(given, str) else dict(given)
            except (ValueError, TypeError):
                return  # what stands there is wrong, and is told
            value = before | {option: value}
        table[key] = value
        return
    textual = kind is not None and isinstance(getattr(kind(), key, None), str)
    table[key + dot + option] = text if textual and not isinstance(value, str) else value


def with_values(scenario: Scenario, section: str, **values: Any) -> Scenario:
    """Return a copy with some keys of one section replaced, checked again."""
    table = replace(getattr(scenario, section), **values)
    changed = from_dict(replace(scenario, **{section: table}).to_dict())
    opened = tuple(name for name in scenario.open_links if name != section)
    notes = tuple(note for note in scenario.notes if note.split(":")[0] != section)
    return replace(changed, notes=notes, open_links=opened)
